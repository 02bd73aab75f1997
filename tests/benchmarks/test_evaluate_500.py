"""The timed evaluations give the same answers."""

import pytest

pytest.importorskip('torch', reason='torch is not installed: make parity')


def test_batches_answer_as_generate_does_one_by_one():
  import evaluate_500

  found = evaluate_500.measure(questions=5, size=2, new_tokens=6, repeats=1)
  assert found['same'] == 1 and (found['ratio'] > 0).all()
