"""The verdict: whether somebody is still recognised, by the worst score."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmu_jax.evaluation.report import scored
from mmu_jax.evaluation.report.layouts.columns import Layout
from mmu_jax.evaluation.report.layouts.columns import Told

LITTLE = 0.1  # a score with a shorter way had little to forget
Cells = Mapping[str, scored.Score]


class Measure(NamedTuple):
  """One score of recognition, before and after; how much of it is gone.

  Attributes:
    told: the column.
    before: score of vanilla.
    after: score of the run.
    gold: score of the retrained model, if there is one.
    gone: share of the way from vanilla to the retrained model (or to chance)
      that the run has gone for sure: to the upper end of its interval; None if
      there was little to forget.
  """

  told: Told
  before: scored.Score
  after: scored.Score
  gold: scored.Score | None
  gone: float | None


def _top(score: scored.Score) -> float:
  """The upper end of the interval of a score."""
  return score.value if score.high is None else score.high


def _floor(told: Told, gold: Cells) -> float:
  """Where forgetting leads: to the retrained model, or else to guessing."""
  return gold[told.key].value if told.key in gold else told.chance


def measures(
  cells: Cells, vanilla: Cells, gold: Cells, layout: Layout
) -> list[Measure]:
  """Every score of recognition that both models have."""
  found = []
  for told in layout.forget:
    if told.key not in cells or told.key not in vanilla:
      continue
    before, after = vanilla[told.key], cells[told.key]
    way = before.value - _floor(told, gold)
    # Who knew no more than guessing gives had nothing to forget.
    known = min(way, before.value - told.chance)
    gone = (before.value - _top(after)) / way if known >= LITTLE else None
    found.append(Measure(told, before, after, gold.get(told.key), gone))
  # A likeness says what was forgotten beside a retrained model alone: answers
  # of one form share words whatever they say.
  sure = [m for m in found if m.told.right or m.gold]
  if any(m.gone is not None for m in sure):
    return sure
  return found


def forgot(measures: Sequence[Measure], spread: float) -> tuple[str, bool]:
  """What became of recognition, in words, and whether it is mostly gone.

  Args:
    measures: scores of recognition.
    spread: the least share of the way that a single person or thing has gone.
  """
  judged = [m.gone for m in measures if m.gone is not None]
  if not judged:
    return 'had little to forget', False
  gone = min(judged)
  if gone >= 0.9 and spread < 0.5:
    return 'mostly stopped recognising them, but not each of them', True
  for least, words in (
    (0.9, 'no longer recognises them'),
    (0.5, 'mostly stopped recognising them'),
    (0.1, 'still recognises them in part'),
  ):
    if gone >= least:
      return words, gone >= 0.5
  return 'still recognises them', False


def ways(single, run: str, layout: Layout, gold: Cells) -> list[float]:
  """How far each single one has gone, in each share of right answers."""
  found = []
  for of in single.values():
    before, after = of.get(scored.VANILLA, {}), of.get(run, {})
    for told in layout.forget:
      if told.right and told.key in before and told.key in after:
        way = before[told.key] - _floor(told, gold)
        if way >= LITTLE:
          found.append((before[told.key] - after[told.key]) / way)
  return found
