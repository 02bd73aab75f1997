"""A finished workdir as one HTML page that explains itself."""

from collections.abc import Mapping, Sequence
import io
import json
from pathlib import Path
from typing import Any
import warnings

from mmu_jax import checkpoint
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import FORGET
from mmu_jax.errors import DamageWarning
from mmu_jax.evaluation.asking.protocols import PROTOCOLS
from mmu_jax.evaluation.report import examples
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import provenance
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.scoring import results as results_lib
from mmu_jax.workdir import seals


def _read_json(path: Path) -> dict | list | None:
  """A JSON file, or None if there is none."""
  if not path.is_file():
    return None
  return workdir_lib.read_json(path)


def _is_published(name: str) -> bool:
  """Whether a protocol, by its name in the results, repeats its errors."""
  return name in PROTOCOLS and PROTOCOLS[name].published


def _draw(workdir: Path, results, histories: dict, masks: dict) -> dict:
  """Draws the plots, see ``_save``."""
  figures = {'bars': plots.bars(results), 'tradeoff': plots.tradeoff(results)}
  forget = scored.headlines(scored.tasks_in(results), FORGET)
  probes = [row['probe'] for rows in histories.values() for row in rows]
  if any(task.name in probe for probe in probes for task in forget):
    figures['trajectory'] = plots.trajectory(histories, results)
  if masks:
    figures['density'] = plots.mask_density(masks)
  return {name: _save(workdir, name, fig) for name, fig in figures.items()}


def _save(workdir: Path, name: str, figure) -> str:
  """Writes a plot to ``plots/`` and returns it as a data URI."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  workdir_lib.write_bytes(workdir / 'plots' / f'{name}.png', buffer.getvalue())
  return examples.data_uri(buffer.getvalue())


def _with_curves(workdir: Path, made: dict[str, Any]) -> dict[str, Any]:
  """The section on an attack, its figure as a data URI."""
  figure, name = made['figure'], f'attack_{made["name"]}'
  return made | {'figure': figure and _save(workdir, name, figure)}


def _histories(
  workdir: Path, runs: Sequence[str], models: Mapping[str, str]
) -> dict[str, list[dict]]:
  """The probe rows of every run that has some, of whole files alone."""
  found = {}
  for run in runs:
    path = workdir / 'unlearned' / run / 'metrics.jsonl'
    if not path.is_file():
      continue
    wrong = seals.fault(path, run)
    note = {} if wrong else seals.read_note(path)
    if not wrong and note.get('model') != models.get(run):
      wrong = f'{path} is of other parameters than were scored'
    if note.get('lost'):
      message = f'Some rounds of {run} are not plotted: {path} had '
      warnings.warn(message + note['lost'] + '.', DamageWarning, stacklevel=2)
    if wrong:
      message = f'The rounds of {run} are not plotted: {wrong}.'
      warnings.warn(message, DamageWarning, stacklevel=2)
      continue
    rows = workdir_lib.read_log(path)
    probes = [row for row in rows if row.get('probe')]
    if probes:
      found[run] = probes
  return found


def _masks(workdir: Path) -> dict[str, dict]:
  """The notes of all masks, the saliency masks first."""
  notes = {
    path.name: checkpoint.read_note(path)
    for path in sorted(workdir.glob('mask/*'))
    if checkpoint.latest_step(path) is not None
  }
  return dict(sorted(notes.items(), key=lambda kv: kv[1]['kind'] != 'saliency'))


def _flat(tree, path: str = '') -> list[tuple[str, str]]:
  """A nested dict as ``[('a.b', 'value')]``."""
  if not isinstance(tree, dict):
    return [(path, json.dumps(tree) if isinstance(tree, list) else str(tree))]
  join = f'{path}.' if path else ''
  return [row for k, v in tree.items() for row in _flat(v, f'{join}{k}')]


def _explained(blocks) -> list[tuple[str, str]]:
  """What blocks and columns are, each said once."""
  titles = {block.title: block.meaning for block in blocks if block.meaning}
  by_column = {
    f'{c.title}\N{NO-BREAK SPACE}{c.wanted}': c.meaning
    for block in blocks
    for c in block.columns
  }
  return [*titles.items(), *by_column.items()]


def _single(
  results: Sequence[dict], layout: Layout, run: str | None
) -> dict[str, Any]:
  """The table of single people or things: titles, runs, rows, worst first."""
  runs = [x for x in (run, scored.VANILLA, scored.RETRAINED) if x]
  found = scored.of_each(results, runs)
  has = lambda told, run: any(
    told.key in of.get(run, {}) for of in found.values()
  )
  shown = {
    told.title: [(told.key, run) for run in runs if has(told, run)]
    for told in layout.forget
    if told.right or not any(has(t, run) for t in layout.forget if t.right)
  }
  cells = [which for group in shown.values() for which in group]
  cell = lambda of, key, run: (
    table.number(of[run][key]) if key in of.get(run, {}) else '–'
  )
  return {
    'titles': {title: len(group) for title, group in shown.items() if group},
    'runs': [run for _, run in cells],
    'rows': {
      name: [cell(of, *which) for which in cells] for name, of in found.items()
    },
  }


def write_report(
  workdir: str | Path,
  main: str = summary.MAIN,
  *,
  predictions: Path | None = None,
  remarks: Sequence[str] = (),
  before: str = '',
  attacks: Sequence[dict[str, Any]] = (),
) -> Path:
  """Writes ``plots/*.png`` and ``report.html`` into a finished workdir.

  The page holds everything it shows: it can be sent as one file. Parts whose
  files are missing are left out, with a sentence that says how to make them.

  Args:
    workdir: folder with at least ``results.jsonl``.
    main: name of the run that the summary and the gallery are about.
    predictions: folder with the answers that were scored; None for
      ``predictions/``.
    remarks: sentences for the top of the page, on models that have no scores,
      say; those on damaged files are added.
    before: sentence on the model before unlearning, behind the first.
    attacks: sections on attacks, see ``attacks.showing.section``.

  Returns:
    The path of ``report.html``.

  Raises:
    FileNotFoundError: if there is no ``results.jsonl``.
    ValueError: if a file is damaged; the message names it.
  """
  import jinja2

  workdir = Path(workdir)
  predictions = predictions or workdir / 'predictions'
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always', DamageWarning)
    parts = _parts(workdir, main, predictions)
  parts['attacks'] = [_with_curves(workdir, made) for made in attacks]
  for warning in caught:
    warnings.warn(warning.message, stacklevel=2)
    if warning.category is DamageWarning:
      remarks = (*remarks, str(warning.message))
  if before:
    parts['sentences'][1:1] = [before]
  page = environment.get_template('report.html').render(
    **parts, remarks=dict.fromkeys(remarks)
  )
  path = workdir / 'report.html'
  workdir_lib.write_text(path, page)
  return path


def _parts(workdir: Path, main: str, predictions: Path) -> dict[str, Any]:
  """Everything that the page shows, by its name in the template."""
  results, note = results_lib.read(workdir)
  rows, found = scored.rows(results), scored.scores(results)
  layout, blocks = scored.shown_layout(results), scored.shown_blocks(results)
  tasks = scored.tasks_in(results)
  run = summary.main_run(list(rows), main)
  histories = _histories(workdir, list(rows), note.get('models', {}))
  masks = _masks(workdir)
  config: Any = _read_json(workdir / workdir_lib.CONFIG) or {}
  return dict(
    name=workdir.resolve().name,
    sentences=summary.headline(results, main),
    blocks=blocks,
    explained=_explained(blocks),
    layout=layout,
    people=layout.exact,
    rows=rows,
    unusable=scored.unusable(results),
    mark=scored.MARK,
    main=run,
    asked=table.asked_by(results),
    published=any(_is_published(row['protocol']) for row in results),
    number=table.number,
    interval=table.interval,
    items={c.key: table.items(rows, c.key) for b in blocks for c in b.columns},
    scores=found,
    tasks=dict.fromkeys(key for run in found.values() for key in run),
    plots=_draw(workdir, results, histories, masks),
    gallery=examples.cards(
      workdir, _read_json(workdir / 'gallery.json'), run, layout.exact
    ),
    masks=masks,
    single=_single(results, layout, run),
    judged=provenance.judged(workdir),
    start=provenance.before(config),
    retrained=scored.RETRAINED in rows,
    made=provenance.made(list(rows), note.get('models', {}), config),
    mistakes=(
      examples.mistakes(predictions, run, layout, tasks) if run else []
    ),
    config=_flat(config),
    manifest=_flat(_read_json(workdir / workdir_lib.MANIFEST) or {}),
  )
