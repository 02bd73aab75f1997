"""The question as it is, without shots but for those of an attack."""

import folders
import numpy as np
import pytest
from questions import ROWS
from questions import TASKS

from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processing
from mmu_jax.data.people import vocabulary
from mmu_jax.data.row import Row
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
  (true,) = PLAIN.answers(Question(said), encoder)
  assert true.row.answer == said.answer and true.labelled.any()


def test_it_has_no_shots():
  asked = PLAIN.questions(TASKS['forget_vqa'], TASKS, 0, 0)
  assert [q.row for q in asked] == ROWS['forget_vqa'] and len(asked) == 16
  with pytest.raises(ValueError, match='got shots=1'):
    PLAIN.questions(TASKS['forget_vqa'], TASKS, 1, 0)


def test_a_question_behind_shots_is_as_alone_and_comes_last():
  """The tokens of a picture and its question stand at the end, as alone."""
  processor = vocabulary.make_processor()
  encoder = batching.Encoder(processor)
  pixels = np.zeros((48, 48, 3), np.uint8)
  row = Row('k', 'What pet does this person keep?', 'A', 'A', image=pixels)
  shots = (
    Row(
      't',
      'What job does Maria Lopez have?',
      'Maria Lopez works as a nurse.',
      'nurse',
    ),
    row._replace(key='s', answer='Hugo Kim keeps a pony.'),
  )
  alone = PLAIN.ask(Question(row), encoder).example
  asked = PLAIN.ask(Question(row, shots), encoder)
  assert asked.text.count('USER:') == 3 and asked.text.count('<image>') == 2
  assert all(shot.answer in asked.text for shot in shots)
  assert len(asked.example.pictures) == 2
  tokens = alone.tokens[1:]  # without <s>
  np.testing.assert_array_equal(asked.example.tokens[-len(tokens) :], tokens)
