"""Shots as the published evaluation of MLLMU-Bench puts them."""

import folders
import pytest
from questions import ROWS
from questions import rows as make_rows
from questions import TASKS
from results import make_tasks

from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.evaluation.asking.protocols import fixed
from mmu_jax.evaluation.asking.protocols import official_mllmu_bench

MLLMU = official_mllmu_bench.PROTOCOL


def test_published_shots_depend_on_task_and_kind():
  """None for generation, none for choices about real people."""
  rows = ROWS | {
    'real_qa': make_rows(False),
    'forget_vqa_holdout': [
      row._replace(
        key=f'new {row.key}',
        picture=row.picture._replace(key=f'new {row.picture.key}'),
      )
      for row in ROWS['forget_vqa']
      if row.task == 'classification'
    ],
  }
  tasks = make_tasks(rows)
  ask = lambda task: MLLMU.questions(tasks[task], tasks, 1, 0)
  count = lambda task: {
    kind: {len(q.shots) for q in ask(task) if q.row.task == kind}
    for kind in ('classification', 'cloze', 'generation')
  }
  assert count('forget_vqa') == {
    'classification': {2},
    'cloze': {1},
    'generation': {0},
  }
  assert count('real_qa')['classification'] == {0}
  assert count('real_qa')['cloze'] == {1}
  kinds = [q.row.task for q in ask('forget_qa')]
  assert [kinds.count(k) for k in ('cloze', 'generation')] == [3, 4]
  # Held-out pictures are asked with shots of the trained ones.
  for question in ask('forget_vqa_holdout'):
    assert question.row.picture_key.startswith('new')
    assert {s.picture_key[:4] for s in question.shots} == {'face'}


def test_it_has_one_shot_at_most():
  with pytest.raises(ValueError, match='got shots=2'):
    MLLMU.questions(TASKS['forget_vqa'], TASKS, 2, 0)


def test_it_has_no_prompts_for_pictures_in_tiles(tmp_path):
  encoder = Encoder(folders.load(tmp_path, 'llava_next'))
  (question, *_) = MLLMU.questions(TASKS['forget_vqa'], TASKS, 0, 0)
  with pytest.raises(ValueError, match="LLaVA-1.6. Use protocol='fixed'"):
    MLLMU.ask(question, encoder)
  asked = fixed.PROTOCOL.ask(question, encoder).example
  (picture,) = asked.pictures
  marked = (asked.tokens == encoder.image_token).sum()
  assert marked == encoder.image(picture).num_tokens > 9
