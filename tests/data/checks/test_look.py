"""Findings of one kind become one, with its rows."""

import pathlib

from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks import look
from mmu_jax.errors import FAIL


def test_rows_with_one_problem_make_one_finding():
  survey = look.Survey(pathlib.Path('a.jsonl'))
  survey.kind = check_rows.OWN
  rows = [{'question': 'Who?', 'answer': ' '}] * 7
  survey.config('a.jsonl', rows)
  (finding,) = survey.findings()
  assert finding.state == FAIL and survey.rows == {'a.jsonl': 7}
  said = finding.line()
  assert '7 x an empty answer: row 0 answer' in said
  assert 'row 4' in said and 'row 5' not in said
