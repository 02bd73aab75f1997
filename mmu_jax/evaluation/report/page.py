"""A finished workdir as one HTML page that explains itself."""

from collections.abc import Mapping, Sequence
import json
import math
from pathlib import Path

from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import Task
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking.protocols import PROTOCOLS
from mmu_jax.evaluation.report import examples
from mmu_jax.evaluation.report import plots
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import summary
from mmu_jax.evaluation.report import table

_FIELDS = (
  *('run', 'task', 'split', 'modality', 'role', 'holdout', 'headline'),
  *('metric', 'layout', 'protocol', 'shots'),
)


def read_results(workdir: str | Path) -> list[dict]:
  """The scores of a workdir, each checked for the fields that tables need.

  Raises:
    FileNotFoundError: if nothing has been evaluated.
    ValueError: if there is no score, one whose value is neither finite nor
      null (undefined), or one that lacks a field, as scores of earlier
      versions do.
  """
  path = Path(workdir) / 'results.jsonl'
  if not path.is_file():
    raise MissingError(
      f'a report is made from scores, and there is no {path}: run '
      '`mmu evaluate` with this workdir first'
    )
  results = workdir_lib.read_jsonl(path)
  for row in results:
    missing = [f for f in (*_FIELDS, 'value') if f not in row]
    if missing or not _is_number(row['value']):
      lacks = f'{", ".join(missing)} missing in' if missing else 'got'
      raise UserError(
        f'{path}: a score has a finite value, or null where it is undefined, '
        'and says how it was asked and '
        f'what its task means; {lacks} {row}. Scores of an earlier version '
        'do not: run `mmu evaluate` again.'
      )
  if not results:
    raise UserError(f'{path} holds no score: run `mmu evaluate` again')
  return results


def _is_number(value: object) -> bool:
  """Whether the value of a score is finite, or null: undefined."""
  if value is None:
    return True
  return isinstance(value, (int, float)) and math.isfinite(value)


def _read_json(path: Path) -> dict | list | None:
  """A JSON file, or None if there is none."""
  if not path.is_file():
    return None
  return workdir_lib.read_json(path)


def _people(folder: Path, tasks: Mapping[str, Task]) -> int | None:
  """How many people the forget questions are about, from their answers."""
  asked = [task for task in tasks.values() if task.split == FORGET]
  for task in sorted(asked, key=lambda task: not task.headline):
    for path in sorted(folder.glob(f'*/{task.name}.jsonl')):
      rows = workdir_lib.read_jsonl(path)
      people = {row.get('person') for row in rows} - {None}
      if people:
        return len(people)
  return None


def _is_published(name: str) -> bool:
  """Whether a protocol, by its name in the results, repeats its errors."""
  return name in PROTOCOLS and PROTOCOLS[name].published


def _draw(workdir: Path, results, histories: dict, masks: dict) -> dict:
  """Writes the plots to ``plots/`` and returns them as data URIs."""
  figures = {'bars': plots.bars(results), 'tradeoff': plots.tradeoff(results)}
  forget = scored.headlines(scored.tasks_in(results), FORGET)
  probes = [row['probe'] for rows in histories.values() for row in rows]
  if any(task.name in probe for probe in probes for task in forget):
    figures['trajectory'] = plots.trajectory(histories, results)
  if masks:
    figures['density'] = plots.mask_density(masks)
  folder = workdir / 'plots'
  folder.mkdir(exist_ok=True)
  shown = {}
  for name, figure in figures.items():
    path = folder / f'{name}.png'
    figure.savefig(path)
    shown[name] = examples.data_uri(path.read_bytes())
  return shown


def _histories(workdir: Path, runs: Sequence[str]) -> dict[str, list[dict]]:
  """The probe rows of every run that has some."""
  found = {}
  for run in runs:
    path = workdir / 'unlearned' / run / 'metrics.jsonl'
    rows = workdir_lib.read_jsonl(path) if path.is_file() else []
    probes = [row for row in rows if row.get('probe')]
    if probes:
      found[run] = probes
  return found


def _masks(workdir: Path) -> dict[str, dict]:
  """The notes of all masks, the saliency masks first."""
  notes = {
    path.parent.name: _read_json(path)
    for path in sorted(workdir.glob('mask/*/note.json'))
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


def write_report(
  workdir: str | Path,
  main: str = summary.MAIN,
  *,
  predictions: Path | None = None,
) -> Path:
  """Writes ``plots/*.png`` and ``report.html`` into a finished workdir.

  The page holds everything it shows: it can be sent as one file. Parts whose
  files are missing are left out, with a sentence that says how to make them.

  Args:
    workdir: folder with at least ``results.jsonl``.
    main: name of the run that the summary and the gallery are about.
    predictions: folder with the answers that were scored; None for
      ``predictions/``.

  Returns:
    The path of ``report.html``.

  Raises:
    FileNotFoundError: if there is no ``results.jsonl``.
    ValueError: if a file is damaged; the message names it.
  """
  import jinja2

  workdir = Path(workdir)
  predictions = predictions or workdir / 'predictions'
  results = read_results(workdir)
  rows, found = scored.rows(results), scored.scores(results)
  layout, blocks = scored.shown_layout(results), scored.shown_blocks(results)
  tasks = scored.tasks_in(results)
  run = summary.main_run(list(rows), main)
  histories, masks = _histories(workdir, list(rows)), _masks(workdir)
  config = _read_json(workdir / 'config.json')
  manifest = _read_json(workdir / 'manifest.json')
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  page = environment.get_template('report.html').render(
    name=workdir.resolve().name,
    sentences=summary.headline(results, _people(predictions, tasks), main),
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
    mistakes=(
      examples.mistakes(predictions, run, layout, tasks) if run else []
    ),
    config=_flat(config or {}),
    manifest=_flat(manifest or {}),
  )
  path = workdir / 'report.html'
  workdir_lib.write_text(path, page)
  return path
