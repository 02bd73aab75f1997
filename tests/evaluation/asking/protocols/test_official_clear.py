"""CLEAR as published: questions in text are asked as if about pictures."""

import folders
import jax
import pytest
from questions import make_model
from questions import ROWS
from questions import TASKS

from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import official_clear
from mmu_jax.evaluation.asking.protocols import Question

pytestmark = pytest.mark.usefixtures('quick_compile')
FAMILIES = pytest.mark.parametrize('family', folders.FAMILIES)
CLEAR = official_clear.PROTOCOL


@FAMILIES
def test_a_placeholder_without_a_picture_can_be_asked(family, encoders):
  """As in the published code, it is a token with its own embedding."""
  encoder = encoders[family]
  model = make_model(family, encoder)
  params = model.init(jax.random.key(0))
  row = ROWS['forget_qa'][3]
  blind, seen = Question(row, blind=True), Question(row)
  predict = lambda questions: [
    p['text']
    for batch in tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=CLEAR,
      max_new_tokens=5,
      size=2,
    )
    for p in batch
  ]
  other = blind._replace(row=row._replace(key='other'))
  answers = predict([blind, other, seen._replace(row=row._replace(key='x'))])
  assert len(answers) == 3 and answers[0] == answers[1]
  tokens = CLEAR.ask(blind, encoder).example.tokens
  assert (tokens == encoder.image_token).sum() == 1


def test_questions_in_text_stand_again_behind_those_about_pictures():
  asked = CLEAR.questions(TASKS['forget_vqa'], TASKS, 0, 0)
  assert len(asked) == 16 + 4  # of the text, sentences alone
  assert [q.row.key for q in asked if q.blind] == [
    f'{i}/d@vqa' for i in range(4)
  ]
  with pytest.raises(ValueError, match='got shots=1'):
    CLEAR.questions(TASKS['forget_vqa'], TASKS, 1, 0)
