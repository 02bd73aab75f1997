"""The probe sees the image tokens, and no head of the model."""

from attacked import small_job
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax.attacks import probe
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding

pytestmark = pytest.mark.usefixtures('quick_compile')


def test_features_are_means_over_image_tokens():
  batch, params, forward = (
    toy.batch(3),
    toy.llava_params(0),
    toy.llava().forward,
  )
  got = probe.pooled(params, batch, forward=forward, layer=1)
  hidden = np.asarray(forward(params, batch, layer=1), np.float64)
  for row, states, slots in zip(got, hidden, batch['image_slots']):
    np.testing.assert_allclose(row, states[slots >= 0].mean(0), rtol=1e-5)
  text = toy.batch(3, pictures=False)
  assert (probe.pooled(params, text, forward=forward, layer=0) == 0).all()


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  return small_job(tmp_path_factory.mktemp('job'))


def _attack(job, monkeypatch, params, folder):
  monkeypatch.setattr(probe.runs, 'final_params', lambda job, name: params)
  with jax.set_mesh(job.mesh):
    return probe.probe(job, 'ga', folder)


def test_a_damaged_head_answers_nothing_and_is_found_all_the_same(
  job, monkeypatch, tmp_path
):
  """One layer; two people to forget and two to keep, of three pictures."""
  params = jax.jit(job.model.init)(jax.random.key(0))
  found = _attack(job, monkeypatch, params, tmp_path / 'a')
  assert [r['case'] for r in found] == ['chance'] * 2 + ['projector'] * 4 + [
    'decoder layer 1'
  ] * 4
  assert [row['value'] for row in found[:2]] == [0.5, 0.5]
  assert found[0]['n'] == 2 and found[2]['metric'] == 'forget, 1 of each'
  head = params['language_model']['lm_head']
  damaged = {**params, 'language_model': {**params['language_model']}}
  damaged['language_model']['lm_head'] = jax.tree.map(jnp.zeros_like, head)
  assert _attack(job, monkeypatch, damaged, tmp_path / 'b') == found
  rows = job.data.tasks['forget_vqa_holdout'].rows[:4]
  (batch,) = probe.batching.row_batches(rows, job.scorer, size=4)
  logits = job.model.forward(damaged, batch)
  assert (logits == 0).all()
  assert decoding.exact_share(damaged, [batch], forward=job.model.forward) == 0


def test_whoever_has_one_picture_is_left_out(job):
  groups = probe.people_of(job)
  for train, test in groups.values():
    assert {r.person for r in train} == {r.person for r in test}
    assert not {r.picture_key for r in train} & {r.picture_key for r in test}
  assert len(groups['forget'][0]) == len(groups['retain'][0]) == 2 * 3
  row = lambda person, i: Row(
    f'{person}{i}',
    '?',
    'a',
    'a',
    person=person,
    image=i,
    image_key=f'{person}{i}',
  )
  alone = [row('a', 0), row('b', 0), row('b', 1)]
  one = job._replace(
    data=Dataset({'vqa/forget': alone}, {}, {}),
    groups={'forget': ['forget'], 'retain': []},
  )
  with pytest.raises(UserError, match='of those to forget 1 have'):
    probe.people_of(one)
  two = [*alone, row('a', 1)]  # tested on pictures of the training
  more = one._replace(data=Dataset({'vqa/forget': two}, {}, {}))
  train, test = probe.people_of(more)['forget']
  assert [r.key for r in train] == ['a0', 'b0']
  assert [r.key for r in test] == ['a1', 'b1']
