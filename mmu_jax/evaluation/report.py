"""A finished workdir as one HTML page that explains itself."""

import base64
from collections.abc import Sequence
import io
import json
import math
from pathlib import Path
import warnings

import numpy as np

from mmu_jax.evaluation import plots, table
from mmu_jax.metrics import exact_match

MAIN = 'mmunlearner'
CHANCE = 0.25  # of the four-option questions
_EXAMPLES = 6  # mistakes shown of each kind
_GROUPS = ('forget', 'retain', 'real')


def read_jsonl(path: str | Path) -> list[dict]:
  """The rows of a JSON-lines file; blank lines are passed over.

  A process that was killed leaves a partial last line: that one is dropped
  with a warning. A broken line anywhere else means that the file is damaged.

  Args:
    path: the file.

  Returns:
    One dict per line.

  Raises:
    ValueError: naming file and line, if a line that is not the last one is
      not a JSON object.
  """
  text = Path(path).read_text(encoding='utf-8', errors='replace')
  lines = [(i, s) for i, s in enumerate(text.split('\n'), 1) if s.strip()]
  found = []
  for number, line in lines:
    try:
      row = json.loads(line)
    except json.JSONDecodeError as error:
      if number == lines[-1][0]:
        warnings.warn(
            f'{path}: line {number} is cut off (a stopped process?) and is '
            f'left out: {line[:60]!r}', stacklevel=2,
        )
        return found
      raise ValueError(
          f'{path}, line {number}: every line must be a JSON object; got '
          f'{line[:60]!r} ({error}): remove that line or write the file again'
      ) from error
    if not isinstance(row, dict):
      raise ValueError(
          f'{path}, line {number}: every line must be a JSON object; got '
          f'{line[:60]!r}: write the file again'
      )
    found.append(row)
  return found


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
  results = read_jsonl(path)
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


def _percent(score: table.Score | None) -> str:
  """A share as whole per cent."""
  return 'not measured' if score is None else f'{100 * score.value:.0f}%'


def _main_run(runs: Sequence[str], main: str) -> str | None:
  """The method that the report is about: ``main``, or else the first one."""
  methods = [r for r in runs if r not in (table.VANILLA, table.RETRAINED)]
  return main if main in methods else next(iter(methods), None)


def _forgot(before, after, gold) -> tuple[str, bool]:
  """What became of recognition, in words, and whether it is mostly gone."""
  floor = gold.value if gold else 0.0
  if before.value - floor < 0.1:
    return 'had little to forget', False
  gone = (before.value - after.value) / (before.value - floor)
  for least, words in (
      (0.9, 'no longer recognises them'),
      (0.5, 'mostly stopped recognising them'),
      (0.1, 'still recognises them in part'),
  ):
    if gone >= least:
      return words, gone >= 0.5
  return 'still recognises them', False


def _kept(before, after) -> tuple[str, bool]:
  """What became of the knowledge in text, and whether it was kept."""
  lost = before.value - after.value
  for most, words in (
      (0.02, 'kept'), (0.1, 'lost a little of'), (0.3, 'lost a part of')
  ):
    if lost <= most:
      return words, lost <= 0.02
  return 'lost much of', False


def headline(
    results: Sequence[dict], people: int | None = None, main: str = MAIN
) -> list[str]:
  """What was asked and what happened, in sentences made from the numbers.

  'No longer recognises' stands for at least 90 % of the way from the vanilla
  to the retrained model (held-out images, exact match), 'mostly' for 50 %, 'in
  part' for 10 %; 'kept' for at most 2 points lost on forget QA, 'a little'
  for 10, 'a part' for 30.

  Args:
    results: lines of ``results.jsonl``.
    people: how many were to be forgotten, if known.
    main: the run to speak about; the first method if it is not there.

  Returns:
    Sentences; the first says what was asked, the second what happened.
  """
  rows = table.rows(results)
  who = f'{people} {"person" if people == 1 else "people"}' if people else (
      'the people of the forget set'
  )
  said = [
      f'A model was asked to forget {who}: to stop recognising them in '
      'pictures, and to keep everything else, also what it knows in text about '
      'them.'
  ]
  run = _main_run(list(rows), main)
  if run is None:
    return said + [
        'No unlearned model has been evaluated, so there is nothing to say '
        'about forgetting yet: run `mmu train` and `mmu evaluate`.'
    ]
  cells = rows[run]
  vanilla = rows.get(table.VANILLA, {})
  gold = rows.get(table.RETRAINED, {})
  said.append(_what_happened(run, cells, vanilla, gold))
  if 'utility' in cells:
    against = [
        f'{table.number(other["utility"].value)} {name}'
        for other, name in (
            (vanilla, 'before'), (gold, 'for the retrained model')
        )
        if 'utility' in other
    ]
    said.append(
        f'Everything that was to be kept, as one number (U): '
        f'{table.number(cells["utility"].value)}'
        + (f', against {" and ".join(against)}.' if against else '.')
    )
  said += _residue(cells.get('choice'), gold.get('choice'))
  said += _rank(rows, run)
  if run != main:
    said.append(f'(There is no run named {main}: this is about {run}.)')
  return said


def _what_happened(run: str, cells: dict, vanilla: dict, gold: dict) -> str:
  """The second sentence: recognition and text, before, after and retrained."""
  figures = {
      key: f'{_percent(cells.get(key))} right, {_percent(vanilla.get(key))} '
      f'before, {_percent(gold.get(key))} in {model}'
      for key, model in (
          ('holdout', 'the retrained model, which never saw their pictures'),
          ('forget_qa', 'the retrained one'),
      )
  }
  if not all({'holdout', 'forget_qa'} <= set(run) for run in (cells, vanilla)):
    return (
        f'What became of it with {run} cannot be judged, for a score is '
        f'missing: questions about new pictures of them {figures["holdout"]}; '
        f'questions in text about them {figures["forget_qa"]}.'
    )
  forgot, gone = _forgot(
      vanilla['holdout'], cells['holdout'], gold.get('holdout')
  )
  kept, whole = _kept(vanilla['forget_qa'], cells['forget_qa'])
  return (
      f'After unlearning with {run} it {forgot} (questions about new pictures '
      f'of them: {figures["holdout"]}), {"and" if gone == whole else "but"} it '
      f'{kept} what it knows in text about them ({figures["forget_qa"]}).'
  )


def _residue(score, gold) -> list[str]:
  """Whether four offered answers bring something back."""
  if score is None:
    return []
  text = (
      'With four answers to choose from about a new picture it picks the right '
      f'one in {_percent(score)} (chance {100 * CHANCE:.0f}%'
  )
  text += f', retrained {_percent(gold)})' if gold else ')'
  if score.low is None or score.high is None:
    return [text + '.']
  if score.low > CHANCE:
    return [text + ': more than chance, so something is left.']
  if score.high < CHANCE:
    return [text + ': less than chance, so it shuns the right answer.']
  return [text + ': these questions cannot tell it from chance.']


def _rank(rows: dict, run: str) -> list[str]:
  """The method nearest to the retrained model, and the main one's place."""
  far = {
      name: round(cells['distance'].value, 2)
      for name, cells in rows.items()
      if 'distance' in cells and name not in (table.VANILLA, table.RETRAINED)
  }
  if run not in far or len(far) < 2:
    return []
  least = min(far.values())
  nearest = [name for name, value in far.items() if value == least]
  text = (
      f'Of the {len(far)} methods, {" and ".join(nearest)} '
      f'{"is" if len(nearest) == 1 else "are"} nearest to the retrained model '
      f'(distance {table.number(least)})'
  )
  if run in nearest:
    return [text + '.']
  place = 1 + sum(value < far[run] for value in far.values())
  return [text + f'; {run} is number {place} ({table.number(far[run])}).']


def _predictions(workdir: Path, run: str, task: str) -> list[dict]:
  """The free answers of one run to one task, if they were kept."""
  path = workdir / 'predictions' / run / f'{task}.jsonl'
  rows = read_jsonl(path) if path.is_file() else []
  # The same question may also have been asked with options.
  return [r for r in rows if r.get('task_kind', 'generation') == 'generation']


def _people(workdir: Path) -> int | None:
  """How many people the forget questions are about."""
  folder = workdir / 'predictions'
  for task in ('forget_vqa_holdout', 'forget_vqa', 'forget_qa'):
    for path in sorted(folder.glob(f'*/{task}.jsonl')):
      people = {row.get('person') for row in read_jsonl(path)} - {None}
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
            'missing: run `mmu evaluate` again'
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
    rows = read_jsonl(path) if path.is_file() else []
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


def write_report(workdir: str | Path, main: str = MAIN) -> Path:
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
  run = _main_run(list(rows), main)
  histories, masks = _histories(workdir, list(rows)), _masks(workdir)
  config = _read_json(workdir / 'config.json')
  manifest = _read_json(workdir / 'manifest.json')
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
  )
  page = environment.get_template('report.html').render(
      name=workdir.resolve().name,
      sentences=headline(results, _people(workdir), main),
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
