"""The question as it is, and no shots."""

import folders
import numpy as np
import pytest
from questions import ROWS
from questions import TASKS

from mmu_jax.data.encoding import processing
from mmu_jax.evaluation.asking.protocols import plain
from mmu_jax.evaluation.asking.protocols import Question

FAMILIES = pytest.mark.parametrize('family', folders.FAMILIES)
PLAIN = plain.PROTOCOL


@FAMILIES
def test_the_plain_protocol_asks_the_row_as_it_was_trained_on(family, encoders):
  encoder = encoders[family]
  choice, _, _, said = ROWS['forget_vqa'][:4]
  asked = PLAIN.ask(Question(said), encoder)
  prompt = processing.prompt_of(encoder.example(said))
  np.testing.assert_array_equal(asked.example.tokens, prompt.tokens)
  assert PLAIN.ask(Question(choice), encoder) is None
  given = PLAIN.answers(Question(choice), encoder)
  assert [e.row.answer for e in given] == list(choice.options)
  assert PLAIN.answers(Question(said), encoder) == []


def test_it_has_no_shots():
  asked = PLAIN.questions(TASKS['forget_vqa'], TASKS, 0, 0)
  assert [q.row for q in asked] == ROWS['forget_vqa'] and len(asked) == 16
  with pytest.raises(ValueError, match='got shots=1'):
    PLAIN.questions(TASKS['forget_vqa'], TASKS, 1, 0)
