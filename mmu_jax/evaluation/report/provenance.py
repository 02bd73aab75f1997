"""Which models were judged, on which data, when, and how each was made."""

from collections.abc import Mapping, Sequence
import datetime
import inspect
import pathlib
from typing import Any

from mmu_jax import methods
from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.scoring import results as results_lib
from mmu_jax.workdir import seals

_MASKED = {
  'saliency': 'the saliency mask',
  'topk': 'the top-k mask',
  'random': 'a random mask',
  'turn': "the saliency mask of a teacher's answers",
  'turn_topk': "the top-k mask of a teacher's answers",
  'turn_random': "a random mask, as dense as the one of a teacher's answers",
}


def judged(workdir: pathlib.Path) -> list[tuple[str, str]]:
  """Returns the day, the dataset and the model of the scores of a workdir.

  Data are named by a hash of every row and picture that ``world.json`` has.

  Args:
    workdir: folder of the job; parts whose files are missing are left out.
  """
  scores, world = workdir / results_lib.NAME, workdir / workdir_lib.WORLD
  day = datetime.datetime.fromtimestamp(scores.stat().st_mtime)
  found = [('scored on', day.date().isoformat())]
  if not world.is_file():
    return found
  said = workdir_lib.read_json(world)
  data, model = said.get('data', {}), said.get('model', {})
  content = said.get('content', {})
  named = lambda x: ' '.join(filter(None, (x.get('name'), x.get('path'))))
  found.append(('dataset', f'{named(data)}, seed {said.get("seed")}'))
  found += [
    (f'content of the {part}', seals.hash_json(of))
    for part, of in content.items()
  ]
  return [*found, ('model', named(model))]


def made(
  runs: Sequence[str], models: Mapping[str, str], config: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
  """Returns how each model was made, in one line, and its content.

  Args:
    runs: names of models.
    models: content of the parameters by model.
    config: the whole config; a method is explained by the first line of its
      docstring.

  Returns:
    Name, sentence, content; '' where one is not known.
  """
  settings = config.get('runs', {})
  start = before(config) or 'the model before unlearning'
  fixed = {
    scored.VANILLA: f'{start[0].upper()}{start[1:]}: where unlearning starts.',
    scored.RETRAINED: 'The same training without the pictures to forget.',
  }
  return [
    (
      run,
      fixed.get(run) or _sentence(settings.get(run, {})),
      models.get(run, ''),
    )
    for run in runs
  ]


def before(config: Mapping[str, Any]) -> str:
  """Returns how vanilla was made; '' where the config does not say.

  Example:
    >>> before({'vanilla': {'rounds': 0}})
    'base, not trained further'
  """
  rounds = config.get('vanilla', {}).get('rounds', '')
  known = {0: 'base, not trained further', '': ''}
  return known.get(rounds, 'trained on everything')


def _sentence(run: Mapping[str, Any]) -> str:
  """What a method does, and with which mask."""
  method = methods.METHODS.get(run.get('method', ''))
  if method is None:
    return ''
  said = (inspect.getdoc(method) or '').partition('\n')[0]
  mask = run.get('mask', '')
  shown = _MASKED.get(mask, f'the mask {mask!r}')
  return said + (f' With {shown}.' if mask else '')
