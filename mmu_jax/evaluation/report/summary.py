"""What happened, in sentences: built from the scores, also where it failed."""

from collections.abc import Sequence

from mmu_jax.data.dataset import FORGET
from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report import verdict
from mmu_jax.evaluation.report.layouts.columns import IN_TEXT
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.columns import Told
from mmu_jax.evaluation.report.table import number

MAIN = 'mmunlearner'


def _figure(score: scored.Score | None, told: Told) -> str:
  """A share as whole per cent, another score as it is."""
  if score is None:
    return 'not measured'
  if not told.right:
    return number(score.value)
  return f'{100 * score.value:.0f}%'


def main_run(runs: Sequence[str], main: str) -> str | None:
  """The method that the report is about: ``main``, or else the first one."""
  methods = [r for r in runs if _is_method(r)]
  return main if main in methods else next(iter(methods), None)


def _is_method(run: str) -> bool:
  """Whether a model is made from vanilla; ``attacks/x/ga`` is made from ga."""
  return run not in (scored.VANILLA, scored.RETRAINED) and '/' not in run


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


def headline(results: Sequence[dict], main: str = MAIN) -> list[str]:
  """Says in sentences, made from the numbers, how forgetting went.

  The rule of the verdict. Of each score of recognition (``Layout.forget``: word
  for word, the right fact, the right option, ...) it takes the share of the way
  from vanilla to the retrained model that the run has gone *for sure*:

      gone = (vanilla - upper end of the run's 95 % interval)
             / (vanilla - retrained)

  Without a retrained model the way leads to chance, and likenesses (ROUGE-L,
  probability) count only where nothing else can. A score whose way is shorter
  than .1, or with vanilla less than .1 above chance, had little to forget and
  is passed over. The *worst* of the others
  decides: 'no longer recognises' from .9 on, 'mostly stopped' from .5, 'in
  part' from .1; and 'no longer' only if each single person or thing has gone
  half of the way, too, without intervals, in every share of right answers.
  'Kept' stands for at most 2 points lost of the knowledge in text, 'a little'
  for 10, 'a part' for 30, by the score that lost most.

  Args:
    results: lines of ``results.jsonl``.
    main: the run to speak about; the first method if it is not there.

  Returns:
    Sentences: first the task, then the outcome with its numbers, the worst
    single one, who is named instead; then doubts.
  """
  rows = scored.defined(scored.rows(results))
  layout = scored.shown_layout(results)
  run = main_run(list(rows), main)
  fixed = (scored.VANILLA, scored.RETRAINED)
  single = scored.of_each(results, (run or scored.VANILLA, *fixed))
  said = [_asked(len(single), layout)]
  if run is None:
    return said + [
      'No unlearned model has been evaluated, so there is nothing to say '
      'about forgetting yet: run `mmu train` and `mmu evaluate`.'
    ]
  cells = rows[run]
  vanilla = rows.get(scored.VANILLA, {})
  gold = rows.get(scored.RETRAINED, {})
  layout = _by_chance(layout, results)
  measures = verdict.measures(cells, vanilla, gold, layout)
  single = scored.of_each(results, (run, scored.VANILLA, scored.RETRAINED))
  said += _what_happened(run, (cells, vanilla, gold), measures, single, layout)
  said += _worst_of(single, run, layout)
  said += _another(rows, run, layout)
  said += _utility(cells, vanilla, gold)
  said += _doubt(cells, vanilla, measures, layout)
  said += _residue(measures)
  said += _rank(rows, run)
  said += _left_out(run, rows, layout)
  said += _unnamed(cells, layout)
  if run != main:
    said.append(f'(There is no run named {main}: this is about {run}.)')
  return said


def _asked(count: int, layout: Layout) -> str:
  """The first sentence: the task."""
  one, many = layout.beings
  who = f'{count} {one if count == 1 else many}'
  told = {t.about for group in layout.text for t in group}
  text = f', also {IN_TEXT}' if IN_TEXT in told else ''
  who = who if count else f'the {many} of the forget set'
  return (
    f'A model was asked to forget {who}: '
    f'to stop recognising them in pictures, and to keep everything else{text}.'
  )


def _utility(cells, vanilla, gold) -> list[str]:
  """All that is to be kept, in one number."""
  if 'utility' not in cells:
    return []
  against = [
    f'{number(other["utility"].value)} {name}'
    for other, name in ((vanilla, 'before'), (gold, 'for the retrained model'))
    if 'utility' in other
  ]
  return [
    f'Everything that was to be kept, as one number (U): '
    f'{number(cells["utility"].value)}'
    + (f', against {" and ".join(against)}.' if against else '.')
  ]


def _by_chance(layout: Layout, results: Sequence[dict]) -> Layout:
  """The layout with the chance of the options that there were."""
  chances = [
    row['value']
    for row in results
    if (row['split'], row['metric']) == (FORGET, 'choice_chance')
  ]
  if not chances:
    return layout
  chance = max(chances)
  forget = [t._replace(chance=t.chance and chance) for t in layout.forget]
  return layout._replace(forget=tuple(forget))


def _text(run: Sequence[verdict.Cells], layout: Layout) -> list[Told]:
  """The scores of knowledge to stay that both models have, of one kind."""
  cells, vanilla, _ = run
  for group in layout.text:
    found = [t for t in group if t.key in cells and t.key in vanilla]
    if found:
      return found
  return []


def _what_happened(
  run: str, models, measures: Sequence[verdict.Measure], single, layout: Layout
) -> list[str]:
  """The verdict, and the numbers that it comes from."""
  cells, vanilla, gold = models
  if not measures:
    return [
      f'What became of it with {run} cannot be judged: there is no score about '
      'pictures of the forget set of both it and vanilla.'
    ]
  spread = min(verdict.ways(single, run, layout, gold), default=1.0)
  forgot, gone = verdict.forgot(measures, spread)
  texts = _text(models, layout)
  text = max(
    texts, key=lambda t: vanilla[t.key].value - cells[t.key].value, default=None
  )
  said = f'After unlearning with {run} it {forgot}'
  if text:
    kept, whole = _kept(vanilla[text.key], cells[text.key])
    right = [vanilla[t.key].value for t in texts if t.right]
    if right and max(right) < verdict.LITTLE:
      kept, whole = 'had little to keep of', gone
    said += f', {"and" if gone == whole else "but"} it {kept} {text.about}'
  numbers = [f'{said}.']
  judged = [m for m in measures if m.gone is not None]
  worst = min(judged, key=lambda m: m.gone or 0.0, default=None)
  parts: dict[str, list[str]] = {}
  for m in measures:
    end = ', which decides' if m is worst and len(judged) > 1 else ''
    compared = _compared(m.told, models) + end
    parts.setdefault(m.told.about.capitalize(), []).append(compared)
  sentences = [f'{about}: {"; ".join(x)}.' for about, x in parts.items()]
  numbers.append(' '.join(sentences))
  if text:
    where = text.about.removeprefix('what it knows ')
    numbers.append(f'Knowledge {where}: {_compared(text, models)}.')
  return numbers


def _compared(told: Told, models: Sequence[verdict.Cells]) -> str:
  """A score with the end of its interval, before and retrained."""
  cells, vanilla, gold = models
  score = cells[told.key]
  beside = [f'{_figure(vanilla[told.key], told)} before']
  if told.key in gold:
    beside.append(f'{_figure(gold[told.key], told)} retrained')
  if score.low is not None and score.high is not None:
    ends = (scored.Score(score.low), scored.Score(score.high))
    low, high = (_figure(end, told) for end in ends)
    beside.insert(0, f'between {low} and {high}')
  return f'{_figure(score, told)} {told.words} ({", ".join(beside)})'


def _worst_of(single, run: str, layout: Layout) -> list[str]:
  """Whom the model still knows best."""
  judged = {name: of for name, of in single.items() if of.get(run)}
  if len(judged) < 2:
    return []
  name, of = next(iter(judged.items()))
  before = of.get(scored.VANILLA, {})
  if not any(of[run].get(t.key) for t in layout.forget if t.right):
    return [f'None of the {len(judged)} {layout.beings[1]} has a right answer.']
  parts: dict[str, list[str]] = {}  # by subject of the questions
  for told in layout.forget:
    if told.key in of[run] and (told.right or len(layout.forget) < 3):
      said = f'{_figure(scored.Score(of[run][told.key]), told)} {told.words}'
      if told.key in before:
        said += f' ({_figure(scored.Score(before[told.key]), told)} before)'
      parts.setdefault(told.about, []).append(said)
  where = lambda about: f' in {about}' if len(parts) > 1 else ''
  listed = '; '.join(
    f'{_listed(some)}{where(about)}' for about, some in parts.items()
  )
  return [
    f'Of the {len(judged)} {layout.beings[1]}, {name} is known best: {listed}.'
  ]


def _another(rows: dict, run: str, layout: Layout) -> list[str]:
  """How many answers name somebody else who is known."""
  columns = [c for block in layout.blocks for c in block.columns]
  keys = [c.key for c in columns if c.metric == 'names_another']
  key = next((k for k in reversed(keys) if k in rows[run]), None)
  key = 'another' if 'another' in rows[run] else key
  if key is None:
    return []
  share = lambda name: f'{100 * rows[name][key].value:.0f}%'
  beside = [
    f'{share(name)} {word}'
    for name, word in (
      (scored.VANILLA, 'before'),
      (scored.RETRAINED, 'retrained'),
    )
    if key in rows.get(name, {})
  ]
  known = f'another known {layout.beings[0]}'
  return [
    f'{share(run)} of its answers about pictures of the forgotten name {known}'
    + (f' ({", ".join(beside)}).' if beside else '.')
  ]


def _unnamed(cells: verdict.Cells, layout: Layout) -> list[str]:
  """Says that it is not known whether answers name somebody else."""
  columns = [c for block in layout.blocks for c in block.columns]
  keys = [c.key for c in columns if c.metric == 'names_another']
  if not keys or any(key in cells for key in keys):
    return []
  return [
    f'Whether its answers name another {layout.beings[0]} is not measured: no '
    'reference answer about a picture to forget holds the name of whom it is '
    'about (in own data the column `person`).'
  ]


def _doubt(
  cells: verdict.Cells,
  vanilla: verdict.Cells,
  measures: Sequence[verdict.Measure],
  layout: Layout,
) -> list[str]:
  """Says of a difference to vanilla that it may be chance.

  Overlapping intervals are a careful rule: a test of the difference would find
  some of these as well.
  """
  same = lambda told: _overlap(cells[told.key], vanilla[told.key])
  told = [m.told for m in measures if m.gone is not None and same(m.told)]
  told += [
    t
    for t in _text((cells, vanilla, {}), layout)
    if same(t) and not _kept(vanilla[t.key], cells[t.key])[1]
  ]
  if not told:
    return []
  where = _listed([t.title for t in told])
  return [
    f'In {where} the 95 % intervals before and after overlap: the difference '
    'may be chance.'
  ]


def _left_out(run: str, rows: dict, layout: Layout) -> list[str]:
  """Says which scores are missing."""
  vanilla, cells = rows.get(scored.VANILLA, {}), rows[run]
  said = []
  lacks = [
    f'{told.title} (of {who})'
    for told in layout.forget
    for who, has, other in (
      (run, cells, vanilla),
      (scored.VANILLA, vanilla, cells),
    )
    if told.key in other and told.key not in has
  ]
  if lacks:
    said.append(f'Judged without {_listed(lacks)}, which is not measured.')
  if not _text((cells, vanilla, {}), layout):
    said.append('Nothing that is to be kept was measured beside it.')
  if scored.RETRAINED not in rows:
    said.append(
      'There is no retrained model, so nothing is compared with it: forgetting '
      'is measured down to chance.'
    )
  return said


def _overlap(a: scored.Score, b: scored.Score) -> bool:
  """Whether the intervals of two values that differ share a point."""
  if a.low is None or a.high is None or b.low is None or b.high is None:
    return False
  if a.value == b.value:
    return False
  return a.low <= b.high and b.low <= a.high


def _residue(measures: Sequence[verdict.Measure]) -> list[str]:
  """Whether offered answers bring something back."""
  about = measures[0].told.about if measures else ''
  found = [m for m in measures if m.told.chance and m.told.about == about]
  if not found:
    return []
  told, _, score, gold, _ = found[-1]  # the likeliest, whatever is written
  chance = told.chance
  text = (
    f'The choice among offered answers ({_figure(score, told)}, chance '
    f'{100 * chance:.0f}%) is '
  )
  if score.low is None or score.high is None:
    return []
  if gold and chance < score.low <= gold.value:
    # Options can be told apart by more than the knowledge of somebody.
    return [text + 'above chance, as without their pictures.']
  if score.low > chance:
    return [text + 'above chance, so something is left.']
  if gold and gold.value <= score.high < chance:
    # As a model that answers for another person, and was never taught.
    return [text + 'below chance, as without their pictures.']
  if score.high < chance:
    return [text + 'below chance, so it shuns the right answer.']
  return [text + 'not to be told from chance by so few questions.']


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
  if len(nearest) == len(far):
    return [f'All {len(far)} methods are equally near ({number(least)}).']
  text = (
    f'Of the {len(far)} methods, {_listed(nearest)} '
    f'{"is" if len(nearest) == 1 else "are"} nearest to the retrained model '
    f'(distance {number(least)})'
  )
  if run in nearest:
    return [text + '.']
  place = 1 + sum(value < far[run] for value in far.values())
  return [text + f'; {run} is number {place} ({number(far[run])}).']
