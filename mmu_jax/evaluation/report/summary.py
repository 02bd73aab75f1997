"""What happened, in sentences: built from the scores, also where it failed."""

from collections.abc import Sequence

from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.columns import Told
from mmu_jax.evaluation.report.table import number

MAIN = 'mmunlearner'
_CHANCE = 0.25  # of the four-option questions


def _percent(score: scored.Score | None) -> str:
  """A share as whole per cent."""
  return 'not measured' if score is None else f'{100 * score.value:.0f}%'


def _figure(score: scored.Score | None, told: Told) -> str:
  """A share as whole per cent, another score as it is."""
  if score is None or told.right:
    return _percent(score)
  return number(score.value)


def main_run(runs: Sequence[str], main: str) -> str | None:
  """The method that the report is about: ``main``, or else the first one."""
  methods = [r for r in runs if _is_method(r)]
  return main if main in methods else next(iter(methods), None)


def _is_method(run: str) -> bool:
  """Whether a model is made from vanilla; ``attacks/x/ga`` is made from ga."""
  return run not in (scored.VANILLA, scored.RETRAINED) and '/' not in run


def _forgot(before, after, gold, chance: float) -> tuple[str, bool]:
  """What became of recognition, in words, and whether it is mostly gone."""
  floor = gold.value if gold else chance
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
    (0.02, 'kept'),
    (0.1, 'lost a little of'),
    (0.3, 'lost a part of'),
  ):
    if lost <= most:
      return words, lost <= 0.02
  return 'lost much of', False


def headline(
  results: Sequence[dict], people: int | None = None, main: str = MAIN
) -> list[str]:
  """Says in sentences, made from the numbers, how forgetting went.

  'No longer recognises' stands for at least 90 % of the way from the vanilla
  to the retrained model (held-out images, exact match), 'mostly' for 50 %, 'in
  part' for 10 %; 'kept' for at most 2 points lost on forget QA, 'a little'
  for 10, 'a part' for 30.

  Args:
    results: lines of ``results.jsonl``.
    people: number of people to forget, if known.
    main: the run to speak about; the first method if it is not there.

  Returns:
    Sentences: first the task, then the outcome, then doubts.
  """
  rows = scored.defined(scored.rows(results))
  layout = scored.shown_layout(results)
  who = (
    f'{people} {"person" if people == 1 else "people"}'
    if people
    else ('the people of the forget set')
  )
  said = [
    f'A model was asked to forget {who}: to stop recognising them in '
    'pictures, and to keep everything else, also what it knows in text about '
    'them.'
  ]
  run = main_run(list(rows), main)
  if run is None:
    return said + [
      'No unlearned model has been evaluated, so there is nothing to say '
      'about forgetting yet: run `mmu train` and `mmu evaluate`.'
    ]
  cells = rows[run]
  vanilla = rows.get(scored.VANILLA, {})
  gold = rows.get(scored.RETRAINED, {})
  said.append(_what_happened(run, cells, vanilla, gold, layout))
  if 'utility' in cells:
    against = [
      f'{number(other["utility"].value)} {name}'
      for other, name in (
        (vanilla, 'before'),
        (gold, 'for the retrained model'),
      )
      if 'utility' in other
    ]
    said.append(
      f'Everything that was to be kept, as one number (U): '
      f'{number(cells["utility"].value)}'
      + (f', against {" and ".join(against)}.' if against else '.')
    )
  said += _doubt(cells, vanilla, layout)
  said += _residue(cells.get('choice'), gold.get('choice'))
  said += _rank(rows, run)
  if run != main:
    said.append(f'(There is no run named {main}: this is about {run}.)')
  return said


def _what_happened(run: str, cells, vanilla, gold, layout: Layout) -> str:
  """The second sentence: recognition and text, before, after and retrained."""
  figures = {
    told.key: f'{_figure(cells.get(told.key), told)}'
    f'{" right" if told.right else ""}, '
    f'{_figure(vanilla.get(told.key), told)} before, '
    f'{_figure(gold.get(told.key), told)} in {model}'
    for told, model in (
      (layout.forget, 'the retrained model, which never saw their pictures'),
      (layout.text, 'the retrained one'),
    )
  }
  forget, text = layout.forget, layout.text
  if not all(figures.keys() <= set(run) for run in (cells, vanilla)):
    return (
      f'What became of it with {run} cannot be judged, for a score is '
      f'missing: {forget.words} {figures[forget.key]}; {text.words} '
      f'{figures[text.key]}.'
    )
  forgot, gone = _forgot(
    vanilla[forget.key], cells[forget.key], gold.get(forget.key), forget.chance
  )
  kept, whole = _kept(vanilla[text.key], cells[text.key])
  return (
    f'After unlearning with {run} it {forgot} ({forget.words}: '
    f'{figures[forget.key]}), {"and" if gone == whole else "but"} it '
    f'{kept} what it knows in text about them ({text.words}: '
    f'{figures[text.key]}).'
  )


def _doubt(cells, vanilla, layout: Layout) -> list[str]:
  """Says of a difference to vanilla that it may be chance.

  Overlapping intervals are a careful rule: a test of the difference would find
  some of these as well.
  """
  forget, text = layout.forget, layout.text
  same = lambda told: _overlap(cells.get(told.key), vanilla.get(told.key))
  told = [forget] if same(forget) else []
  if same(text) and not _kept(vanilla[text.key], cells[text.key])[1]:
    told.append(text)
  if not told:
    return []
  where = ' and in '.join(t.title for t in told)
  return [
    f'In {where} the 95 % intervals before and after overlap: the difference '
    'may be chance.'
  ]


def _overlap(a: scored.Score | None, b: scored.Score | None) -> bool:
  """Whether the intervals of two values that differ share a point."""
  if not a or not b or None in (a.low, a.high, b.low, b.high):
    return False
  if a.value == b.value:
    return False
  return a.low <= b.high and b.low <= a.high


def _residue(score, gold) -> list[str]:
  """Whether four offered answers bring something back."""
  if score is None:
    return []
  text = (
    'With four answers to choose from about a new picture it picks the right '
    f'one in {_percent(score)} (chance {100 * _CHANCE:.0f}%'
  )
  text += f', retrained {_percent(gold)})' if gold else ')'
  if score.low is None or score.high is None:
    return [text + '.']
  if gold and _CHANCE < score.low <= gold.value:
    # Four options can be told apart by more than the knowledge of a person.
    return [text + ': more than chance, as without their pictures.']
  if score.low > _CHANCE:
    return [text + ': more than chance, so something is left.']
  if score.high < _CHANCE:
    return [text + ': less than chance, so it shuns the right answer.']
  return [text + ': these questions cannot tell it from chance.']


def _listed(names: Sequence[str]) -> str:
  """``'a, b and c'``."""
  *first, last = names
  return f'{", ".join(first)} and {last}' if first else last


def _rank(rows: dict, run: str) -> list[str]:
  """The method nearest to the retrained model, and the main one's place."""
  far = {
    name: round(cells['distance'].value, 2)
    for name, cells in rows.items()
    if 'distance' in cells and _is_method(name)
  }
  if run not in far or len(far) < 2:
    return []
  least = min(far.values())
  nearest = [name for name, value in far.items() if value == least]
  text = (
    f'Of the {len(far)} methods, {_listed(nearest)} '
    f'{"is" if len(nearest) == 1 else "are"} nearest to the retrained model '
    f'(distance {number(least)})'
  )
  if run in nearest:
    return [text + '.']
  place = 1 + sum(value < far[run] for value in far.values())
  return [text + f'; {run} is number {place} ({number(far[run])}).']
