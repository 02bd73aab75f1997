"""Findings of one kind become one, with its rows."""

import pathlib

from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks import look
from mmu_jax.errors import FAIL


def test_rows_with_one_problem_make_one_finding():
  survey = look.Survey(pathlib.Path('a.jsonl'))
  survey.kind = check_rows.OWN
  rows = [{'question': 'Who?', 'answer': ' '}] * 7
  survey.config('a.jsonl', [(f'line {i}', r) for i, r in enumerate(rows, 1)])
  (finding,) = survey.findings()
  assert finding.state == FAIL and survey.rows == {'a.jsonl': 7}
  said = finding.line()
  assert '7 x an empty answer: line 1 answer' in said
  assert 'line 5' in said and 'line 6' not in said
