"""Questions on new pictures, and scores that equal those of decoding."""

from attacked import small_job
import jax
import numpy as np
import pytest

from mmu_jax.attacks import asking
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  return small_job(tmp_path_factory.mktemp('job'))


def test_questions_are_about_pictures_that_nobody_trained_on(job):
  rows = asking.headline_rows(job, 'vqa')
  trained = {r.picture_key for of in job.data.train.values() for r in of}
  assert rows and not {row.picture_key for row in rows} & trained
  forgotten = {row.person for row in job.data.train['vqa/forget']}
  assert {row.person for row in rows} == forgotten
  assert len(asking.headline_rows(job, 'vqa', most=5)) == 5
  others = asking.headline_rows(job, 'vqa', 'retain')
  assert not {row.person for row in others} & forgotten
  assert not any(row.picture for row in asking.headline_rows(job, 'qa'))
  assert asking.headline_rows(job, 'vqa', 'nobody') == []


def test_pictures_that_an_attack_learns_are_asked_only_where_all_are():
  row = lambda i: Row(f'{i}', 'Who?', 'A.', 'A', picture=Picture(f'{i}', None))
  rows = [row(i) for i in range(4)]
  text = [Row('t', 'Who?', 'A.', 'A')]
  assert asking.not_learned(rows, rows[:3] + text) == (rows[3:], '')
  assert asking.not_learned(rows, text) == (rows, '')
  assert asking.not_learned(rows, rows) == (rows, asking.SAME)
  assert asking.not_learned(text, rows) == (text, '')
  assert asking.not_learned([], rows) == ([], '')


@pytest.mark.parametrize('share', [1, 3])
def test_a_look_is_as_one_by_one(job, share):
  """Against batches of one question, also where the last one is not full."""
  with jax.set_mesh(job.mesh):
    rows = asking.headline_rows(job, 'vqa', most=7)
    params = jax.jit(job.model.init)(jax.random.key(0))
    found = asking.make_look(job, rows, share)(params)
    alone = [
      decoding.answer_nll(
        decoding.answer_scores(params, batch, forward=job.model.forward)
      )
      for batch in asking.batching.row_batches(rows, job.scorer, size=1)
    ]
  want = np.concatenate([np.concatenate(nll) for nll in alone])
  assert len(want) == 7 and found['exact'] == 0
  assert found['nll'] == pytest.approx(want.mean(), rel=1e-5)


def test_a_model_that_diverged_is_no_model_that_forgot(job):
  with jax.set_mesh(job.mesh):
    look = asking.make_look(job, asking.headline_rows(job, 'vqa', most=3))
    params = jax.jit(job.model.init)(jax.random.key(0))
    broken = jax.tree.map(lambda x: x * np.nan, params)
    with pytest.raises(FloatingPointError, match='config.attacks'):
      look(broken)
