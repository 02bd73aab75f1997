"""A finished workdir as one HTML page that explains itself."""

import base64
from collections.abc import Sequence
import io
import json
import math
from pathlib import Path

import numpy as np

from mmu_jax import workdir as workdir_lib
from mmu_jax.evaluation import plots, summary, table
from mmu_jax.metrics import exact_match

_EXAMPLES = 6  # mistakes shown of each kind
_GROUPS = ('forget', 'retain', 'real')


def read_results(workdir: str | Path) -> list[dict]:
  """The scores of a workdir, each checked for what a table needs of it.

  Raises:
    FileNotFoundError: if nothing has been evaluated.
    ValueError: if there is no score, or one without run, task, metric or a
      finite value.
  """
  path = Path(workdir) / 'results.jsonl'
  if not path.is_file():
    raise FileNotFoundError(
        f'a report is made from scores, and there is no {path}: run '
        '`mmu evaluate` with this workdir first'
    )
  results = workdir_lib.read_jsonl(path)
  for row in results:
    value = row.get('value')
    if not {'run', 'task', 'metric'} <= set(row) or not (
        isinstance(value, (int, float)) and math.isfinite(value)
    ):
      raise ValueError(
          f'{path}: a score needs run, task, metric and a finite value; got '
          f'{row}: run `mmu evaluate` again'
      )
  if not results:
    raise ValueError(f'{path} holds no score: run `mmu evaluate` again')
  return results


def _read_json(path: Path) -> dict | list | None:
  """A JSON file, or None if there is none."""
  if not path.is_file():
    return None
  try:
    return json.loads(path.read_text(encoding='utf-8'))
  except json.JSONDecodeError as error:
    raise ValueError(f'{path} must be JSON: {error}; write it again') from error


def _predictions(workdir: Path, run: str, task: str) -> list[dict]:
  """The free answers of one run to one task, if they were kept."""
  path = workdir / 'predictions' / run / f'{task}.jsonl'
  rows = workdir_lib.read_jsonl(path) if path.is_file() else []
  # The same question may also have been asked with options.
  return [r for r in rows if r.get('task_kind', 'generation') == 'generation']


def _people(workdir: Path) -> int | None:
  """How many people the forget questions are about."""
  folder = workdir / 'predictions'
  for task in ('forget_vqa_holdout', 'forget_vqa', 'forget_qa'):
    for path in sorted(folder.glob(f'*/{task}.jsonl')):
      rows = workdir_lib.read_jsonl(path)
      people = {row.get('person') for row in rows} - {None}
      if people:
        return len(people)
  return None


def _mistakes(workdir: Path, run: str) -> list[dict]:
  """What is still recognised, and what was lost against the vanilla model."""
  held = _predictions(workdir, run, 'forget_vqa_holdout')
  left = [row for row in held if row['correct']]
  sections, titles = [], {c.task: c.title for c in table.COLUMNS}
  if held:
    title = 'Still answered about new pictures of the forgotten people'
    sections.append({'title': title, 'rows': left, 'n': len(held)})
  for task in table.UTILITY_TASKS:
    before = {
        row['key'] for row in _predictions(workdir, table.VANILLA, task)
        if row['correct']
    }
    lost = [
        row for row in _predictions(workdir, run, task)
        if row['key'] in before and not row['correct']
    ]
    if before:
      title = f'Right before and wrong now: {titles[task]}'
      sections.append({'title': title, 'rows': lost, 'n': len(before)})
  for section in sections:
    section['count'] = len(section['rows'])
    section['rows'] = section['rows'][:_EXAMPLES]
  return sections


def _png(picture: np.ndarray) -> str:
  """A picture ``[height, width, 3]`` uint8 as a data URI."""
  from PIL import Image

  buffer = io.BytesIO()
  Image.fromarray(picture).save(buffer, 'PNG')
  return _data_uri(buffer.getvalue())


def _data_uri(png: bytes) -> str:
  """PNG bytes as text that an <img> can show."""
  return 'data:image/png;base64,' + base64.b64encode(png).decode()


def _gallery(workdir: Path, run: str | None) -> list[dict] | None:
  """Cards of questions with the answers before, after and retrained."""
  entries = _read_json(workdir / 'gallery.json')
  path = workdir / 'gallery.npz'
  if not entries or not path.is_file():
    return None
  cards = []
  with np.load(path) as pictures:
    for entry in entries:
      key = entry.get('image')
      if key is not None and key not in pictures:
        raise ValueError(
            f'{path} must hold every picture of gallery.json; {key!r} is '
            'missing: run `mmu report` again'
        )
      picture = None if key is None else _png(pictures[key])
      cards.append(entry | {'picture': picture, 'marks': _marks(entry, run)})
  order = lambda c: (_GROUPS.index(c['group']), c['picture'] is None)
  return sorted(cards, key=order)


def _marks(entry: dict, run: str | None) -> list[dict]:
  """The three answers of a card: text, right or wrong, and what was wanted."""
  # A forgotten face should not be recognised; everything else should.
  wanted = not (entry['group'] == 'forget' and entry.get('image'))
  marks = []
  for label, name in (
      ('before', table.VANILLA), ('after', run), ('retrained', table.RETRAINED)
  ):
    if name not in entry['answers']:
      continue
    text = entry['answers'][name]
    right = entry.get('correct', {}).get(name)
    right = exact_match(text, entry['answer']) if right is None else bool(right)
    marks.append({
        'label': label, 'text': text, 'right': right,
        'good': right == wanted if label == 'after' else None,
    })
  return marks


def _draw(workdir: Path, results, histories: dict, masks: dict) -> dict:
  """Writes the plots to ``plots/`` and returns them as data URIs."""
  figures = {'bars': plots.bars(results), 'tradeoff': plots.tradeoff(results)}
  if histories:
    figures['trajectory'] = plots.trajectory(histories, results)
  if masks:
    figures['density'] = plots.density(masks)
  folder = workdir / 'plots'
  folder.mkdir(exist_ok=True)
  shown = {}
  for name, figure in figures.items():
    path = folder / f'{name}.png'
    figure.savefig(path)
    shown[name] = _data_uri(path.read_bytes())
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


def write_report(workdir: str | Path, main: str = summary.MAIN) -> Path:
  """Writes ``plots/*.png`` and ``report.html`` into a finished workdir.

  The page holds everything it shows: it can be sent as one file. Parts whose
  files are missing are left out, with a sentence that says how to make them.

  Args:
    workdir: with at least ``results.jsonl``.
    main: the run that the summary and the gallery are about.

  Returns:
    The path of ``report.html``.

  Raises:
    FileNotFoundError: if there is no ``results.jsonl``.
    ValueError: if a file is damaged; the message names it.
  """
  import jinja2

  workdir = Path(workdir)
  results = read_results(workdir)
  rows, found = table.rows(results), table.scores(results)
  run = summary.main_run(list(rows), main)
  histories, masks = _histories(workdir, list(rows)), _masks(workdir)
  config = _read_json(workdir / 'config.json')
  manifest = _read_json(workdir / 'manifest.json')
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
  )
  page = environment.get_template('report.html').render(
      name=workdir.resolve().name,
      sentences=summary.headline(results, _people(workdir), main),
      columns=table.COLUMNS, rows=rows, main=run,
      number=table.number, interval=table.interval,
      items={c.key: table.items(rows, c.key) for c in table.COLUMNS},
      scores=found,
      tasks=dict.fromkeys(key for run in found.values() for key in run),
      plots=_draw(workdir, results, histories, masks),
      gallery=_gallery(workdir, run), masks=masks,
      mistakes=_mistakes(workdir, run) if run else [],
      config=_flat(config or {}), manifest=_flat(manifest or {}),
  )
  path = workdir / 'report.html'
  path.write_text(page, encoding='utf-8')
  return path
