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
  """One layer; two people to forget and five to keep, of three pictures."""
  params = jax.jit(job.model.init)(jax.random.key(0))
  found = _attack(job, monkeypatch, params, tmp_path / 'a')
  cases = [r['case'] for r in found]
  assert cases == ['chance'] * 2 + ['projector'] * 4 + (
    ['decoder layer 1'] * 4 + ['own output'] * 4
  )
  assert {row['value'] for row in found[:2]} == {1 / 7}
  assert [row['metric'] for row in found[2:4]] == [
    'forget, 1 of each',
    'retain, 1 of each',
  ]
  head = params['language_model']['lm_head']
  damaged = {**params, 'language_model': {**params['language_model']}}
  damaged['language_model']['lm_head'] = jax.tree.map(jnp.zeros_like, head)
  blind = _attack(job, monkeypatch, damaged, tmp_path / 'b')
  assert blind[:-4] == found[:-4] and blind[-4:] != found[-4:]
  rows = job.data.tasks['forget_vqa_holdout'].rows[:4]
  (batch,) = probe.batching.row_batches(rows, job.scorer, size=4)
  logits = job.model.forward(damaged, batch)
  assert (logits == 0).all()
  assert decoding.exact_share(damaged, [batch], forward=job.model.forward) == 0


def test_the_rank_of_the_true_answer_is_among_everybodys(
  job, monkeypatch, tmp_path
):
  """A model to which everybody but the true person is likelier, and others."""
  names, (_, test) = job.data.names, probe.pictures_of(job)
  own = {row.picture_key: row.person for rows in test.values() for row in rows}
  everybody = {
    row.person
    for role in ('forget', 'retain')
    for row in probe.pictured.learned(job.data, job.groups, role)
  }

  def predict_with(true_nll):
    def nll(answer, picture):
      return true_nll if names[own[picture]] in answer else 1.0

    def predict(model, params, questions, encoder, **how):
      for row in (q.row for q in questions):
        said = [
          {'text': x, 'nll': nll(x, row.picture_key)} for x in row.options
        ]
        fields = {'question': row.question, 'picture': row.picture_key}
        yield [fields | {'likelihoods': said}]

    return predict

  for true_nll, rank in ((0.0, 1), (9.0, len(everybody))):
    monkeypatch.setattr(probe.tasks, 'predict', predict_with(true_nll))
    values = {r['metric']: r['value'] for r in probe._ranked(job, None, test)}
    bits = np.log2(len(everybody) / rank)
    for split in ('forget', 'retain'):
      assert values[f'{split}, mean rank'] == pytest.approx(rank)
      assert values[f'{split}, exposure in bits'] == pytest.approx(bits)


def test_whoever_has_one_picture_is_left_out(job):
  train, test = probe.pictures_of(job)
  for split in train:
    assert {r.person for r in train[split]} == {r.person for r in test[split]}
    shown = [{r.picture_key for r in side[split]} for side in (train, test)]
    assert not shown[0] & shown[1]
  assert len(train['forget']) == 2 * 3 and len(test['forget']) == 2
  assert len({row.person for row in train['retain']}) == 5
  row = lambda person, i: Row(
    f'{person}{i}',
    '?',
    'a',
    'a',
    person=person,
    image=i,
    image_key=f'{person}{i}',
  )
  forget, keep = [row('a', 0), row('b', 0), row('b', 1)], [row('c', 0)]

  def pictures(*kept):
    data = Dataset({'vqa/forget': forget, 'vqa/retain': [*keep, *kept]}, {}, {})
    groups = {'forget': ['forget'], 'retain': ['retain']}
    return probe.pictures_of(job._replace(data=data, groups=groups))

  with pytest.raises(UserError, match='1 to forget and 0 to retain'):
    pictures()
  train, test = pictures(row('c', 1))  # tested on pictures of the training
  keys = lambda side: [r.key for rows in side.values() for r in rows]
  assert (keys(train), keys(test)) == (['b0', 'c0'], ['b1', 'c1'])
