"""The layouts by name, and the one that some results are shown in."""

from collections.abc import Sequence

from mmu_jax.errors import UserError
from mmu_jax.evaluation.report.layouts.benchmarks import CLEAR
from mmu_jax.evaluation.report.layouts.benchmarks import MLLMU_BENCH
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.own import OWN
from mmu_jax.evaluation.report.layouts.people import PEOPLE

LAYOUTS = {
  'people': PEOPLE,
  'mllmu_bench': MLLMU_BENCH,
  'clear': CLEAR,
  'own': OWN,
}


def find_layout(results: Sequence[dict]) -> Layout:
  """Returns the layout that some results are shown in.

  Args:
    results: lines of ``results.jsonl``, all of one dataset.

  Raises:
    ValueError: if they name no layout, or several.

  Example:
    >>> find_layout([{'layout': 'clear'}]) is CLEAR
    True
  """
  names = list(dict.fromkeys(row.get('layout', '') for row in results))
  if len(names) != 1 or names[0] not in LAYOUTS:
    raise UserError(
      f'scores name one layout of {", ".join(LAYOUTS)}; got '
      f'{", ".join(map(repr, names)) or "no scores"}. '
      'Scores of an earlier version name none: run `mmu evaluate` again.'
    )
  return LAYOUTS[names[0]]
