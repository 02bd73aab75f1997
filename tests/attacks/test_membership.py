"""Planted memories are caught; models that treat all alike are not."""

import types

from attacked import small_job
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import losses
from mmu_jax.attacks import membership
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding

pytestmark = pytest.mark.usefixtures('quick_compile')


def test_statistics_are_those_of_the_whole_distribution():
  batch, params = toy.batch(0), toy.params(1)
  made = membership.token_statistics(params, batch, forward=toy.forward)
  logits = np.asarray(toy.forward(params, batch), np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  mean = (p * np.log(p)).sum(-1)
  std = np.sqrt((p * (np.log(p) - mean[..., None]) ** 2).sum(-1))
  chosen = np.take_along_axis(np.log(p), batch['targets'][..., None], -1)
  want = batch['weights'], chosen[..., 0], mean, std
  for got, expected in zip(made, want):
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


def test_gradient_norms_are_those_of_rows_alone():
  batch, params = toy.batch(1), toy.params(2)
  norms = membership.gradient_norms(params, batch, forward=toy.forward)
  for i, got in enumerate(norms):
    row = toy.take(batch, slice(i, i + 1))
    loss = lambda p: losses.nll(
      toy.forward(p, row), row['targets'], row['weights']
    )
    want = np.linalg.norm(toy.vector(jax.grad(loss)(params)))
    assert got == pytest.approx(want, rel=1e-4)


@pytest.fixture(scope='module')
def job(tmp_path_factory):
  return small_job(tmp_path_factory.mktemp('job'))


def test_all_kinds_ask_the_same(job):
  """Two people, six facts, three pictures to train on and a new one."""
  kinds = membership.kinds_of_rows(job, 99)
  assert [len(rows) for rows in kinds.values()] == [36, 12, 36]
  asked = lambda rows: {(row.person, row.question, row.answer) for row in rows}
  said = [asked(rows) for rows in kinds.values()]
  assert said[0] == said[1] == said[2]
  shown = [{row.picture_key for row in rows} for rows in kinds.values()]
  assert not shown[0] & (shown[1] | shown[2])
  assert all(key.startswith('face/') for key in shown[2])
  assert len({row.key for rows in kinds.values() for row in rows}) == 84
  thinned = membership.kinds_of_rows(job, 5)
  assert [len(rows) for rows in thinned.values()] == [5, 5, 5]


def test_data_without_other_pictures_are_refused_or_said(job, capsys):
  only_new = {k: t for k, t in job.data.tasks.items() if t.split != 'real'}
  less = job._replace(data=job.data._replace(tasks=only_new))
  assert list(membership.kinds_of_rows(less, 9)) == ['', 'new pictures']
  assert 'no questions about pictures of strangers' in capsys.readouterr().out
  nothing = job._replace(data=job.data._replace(tasks={}))
  with pytest.raises(UserError, match='Give new pictures'):
    membership.kinds_of_rows(nothing, 9)


def _attack(job, monkeypatch, knows):
  """Attacks a model that is sure of the answers about some pictures.

  Args:
    job: the job.
    monkeypatch: fixture of pytest.
    knows: function from mean pixels ``[B]`` to weights of the right tokens.
  """

  def forward(params, batch, at):
    mean = batch['pixel_values'].mean((1, 2, 3, 4))
    targets = jnp.take_along_axis(batch['targets'], at, axis=1)
    right = jax.nn.one_hot(targets, 2000)
    return params['w'] * knows(mean)[:, None, None] * right

  made = types.SimpleNamespace(forward=forward, partition_rules=())
  params = {'w': jnp.ones([])}
  monkeypatch.setattr(membership.runs, 'final_params', lambda *_: params)
  with jax.set_mesh(job.mesh):
    found = membership.membership(job._replace(model=made), 'ga', job.folder)
  return {(row['case'], row['metric']): row['value'] for row in found}


def _means(job):
  """The mean pixels of every picture of the training."""
  rows = membership.kinds_of_rows(job, 144)['']
  images = {row.picture_key: job.scorer.image(row.picture) for row in rows}
  return jnp.array([x.pixel_values.mean() for x in images.values()])


def test_memorised_pictures_are_told_and_unlikely_ones_too(job, monkeypatch):
  """The one token that stands out is sqrt((1 - p) / p) deviations above."""
  means = _means(job)
  learned = lambda mean: jnp.any(jnp.abs(mean[:, None] - means) < 1e-5, axis=1)
  found = _attack(job, monkeypatch, lambda mean: 1 + 11 * learned(mean))
  for case in ('new pictures', 'pictures of strangers'):
    for metric in (
      'loss',
      'loss, low',
      'loss, high',
      'zlib',
      'min-k',
      'gradient',
    ):
      assert found[case, metric] == 1, metric
    assert found[case, 'min-k++'] == 0
  found = _attack(job, monkeypatch, lambda mean: 12 - 11 * learned(mean))
  for case in ('new pictures', 'pictures of strangers'):
    for metric in ('loss', 'zlib', 'min-k', 'gradient'):
      assert found[case, metric] == 0, metric


def test_a_model_that_looks_at_nothing_tells_nothing(job, monkeypatch):
  """As one that only refuses: each answer is as likely with any picture."""
  found = _attack(job, monkeypatch, lambda mean: jnp.full(mean.shape, 2.0))
  assert len(found) == 2 * 7
  for key, value in found.items():
    assert value == pytest.approx(0.5), key


def test_likelihoods_that_are_not_finite_are_named(job, monkeypatch):
  with pytest.raises(decoding.NotFinite):
    _attack(job, monkeypatch, lambda mean: jnp.full(mean.shape, jnp.nan))
