"""The table of the people has a column for each task."""

from mmu_jax.evaluation.report import layouts


def test_there_are_fourteen_columns_and_two_are_derived():
  (block,) = layouts.PEOPLE.blocks
  derived = [c.key for c in block.columns if c.about is None]
  assert len(block.columns) == 14 and derived == ['utility', 'distance']
  assert ''.join(c.wanted for c in block.columns) == '↓↓↓≈↓↓≈↑↑↑↑↑↑↓'
