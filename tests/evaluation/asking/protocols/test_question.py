"""People are drawn for shots, and placeholders kept out of texts."""

import pytest
from questions import ROWS
from questions import TASKS

from mmu_jax.data.dataset import Dataset
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking.protocols import question

FIXED, MLLMU, CLEAR = (
  protocols.PROTOCOLS[name]
  for name in ('fixed', 'official_mllmu_bench', 'official_clear')
)


def test_a_protocol_is_found_by_name_or_by_the_dataset():
  people = Dataset({}, {}, {}, protocol='plain')
  clear = Dataset({}, {}, {}, official='official_clear')
  found = lambda name, data: protocols.find_protocol(name, data).name
  assert found('', people) == 'plain'
  assert found('', clear) == found('fixed', people) == 'fixed'
  assert found('official', clear) == 'official_clear'
  assert found('official_clear', people) == 'official_clear'
  for name, data in (('official', people), ('exact', clear)):
    with pytest.raises(ValueError, match='there is no protocol'):
      protocols.find_protocol(name, data)


def test_subjects_are_people_or_pictures_orrows():
  person, picture = ROWS['forget_vqa'][0], ROWS['forget_vqa'][5]
  assert question.subject_of(person) == 'p0'
  assert question.subject_of(picture._replace(person=None)) == 'face 1'
  bare = ROWS['forget_qa'][2]._replace(person=None)
  assert question.subject_of(bare) == '0/c'


@pytest.mark.parametrize('shots', [4, 7, -1])
def test_somebody_must_be_left_to_ask(shots):
  with pytest.raises(ValueError, match='more people than shots'):
    FIXED.questions(TASKS['forget_vqa'], TASKS, shots, 0)


@pytest.mark.parametrize(
  'protocol', [FIXED, MLLMU, CLEAR], ids=lambda p: p.name
)
def test_a_placeholder_in_a_question_is_refused(protocol, encoders):
  row = ROWS['forget_vqa'][3]._replace(question='What is <image>?')
  with pytest.raises(ValueError, match="must not contain '<image>'"):
    protocol.ask(question.Question(row), encoders['llava'])
