"""A packed question is the same question alone: logits, loss and gradients.

In float64 (rotations and the loss stay float32), so that rounding of the
matmuls does not hide a leak.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import losses
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models import attention
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.llama import LlamaConfig

pytestmark = pytest.mark.usefixtures('quick_compile')


def _grouped_model():
  """Four heads that share two keys and values."""
  return models.build(
    models.LlavaConfig(
      ClipVisionConfig(16, 24, 2, 2, toy.IMAGE_SIZE, toy.PATCH_SIZE),
      LlamaConfig(toy.VOCAB, 16, 24, 2, 4, 2),
      dtype='float64',
    )
  )


@pytest.fixture(autouse=True)
def _float64():
  with jax.enable_x64(True):
    yield


def _params(model, seed):
  """Random float64 parameters, none zero; they are not compiled."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  return tree_lib.map_with_name(
    lambda name, x: rng.normal(float(name.endswith('scale')), 0.25, x.shape),
    shapes,
  )


@functools.cache
def _evaluate(model):
  """(params, batch) -> (loss, logits [B, L, V]), gradients."""

  def loss(params, batch):
    logits = model.forward(params, batch)
    return losses.nll(logits, batch['targets'], batch['weights']), logits

  return jax.jit(jax.value_and_grad(loss, has_aux=True))


def _questions(batch):
  """Each question of a batch alone, in a batch of the same static shape.

  Returns:
    A list of (batch, row in the packed batch, places in that row). The
    question is the first row, without branches and padded; the other rows are
    padding, random as in ``toy.pad``.
  """
  found = []
  for b, (documents, branches) in enumerate(
    zip(batch['documents'], batch['branches'])
  ):
    for d in range(1, documents.max() + 1):
      inside = documents == d
      for k in sorted(set(branches[inside]) - {0}) or [0]:
        places = np.flatnonzero(inside & np.isin(branches, [0, k]))
        alone = {
          name: x[b : b + 1, places] if name != 'pixel_values' else x[[b]]
          for name, x in batch.items()
        }
        alone['documents'] = np.ones_like(alone['documents'])
        alone['branches'] = np.zeros_like(alone['branches'])
        rows, columns = batch['tokens'].shape
        found.append(
          (
            toy.pad(alone, k, rows=rows - 1, columns=columns - len(places)),
            b,
            places,
          )
        )
  return found


def _assert_same_gradients(got, want, *, pictures=True):
  """Agreement to 1e-6 of every leaf's own norm.

  What is added to all keys changes no attention, so the gradient of that bias
  is rounding alone; it is compared with the whole gradient instead.
  """
  whole = np.linalg.norm(toy.vector(want))
  want = tree_lib.flatten(want)
  for name, x in tree_lib.flatten(got).items():
    norm = np.linalg.norm(want[name])
    scale = whole if name.endswith('k_proj/bias') else norm
    assert np.linalg.norm(x - want[name]) <= 1e-6 * scale, name
    used = pictures or name.startswith('language_model/')
    used &= not (name.startswith('vision') and name.endswith('k_proj/bias'))
    if used and 'post_layernorm/' not in name:  # LLaVA does not read that
      assert norm > 1e-12 * whole, f'{name}: nothing is compared'


@pytest.mark.parametrize(
  'make, pictures',
  [(toy.llava, True), (toy.llava, False), (_grouped_model, True)],
  ids=['pictures', 'text', 'shared keys'],
)
def test_a_packed_batch_is_its_questions_one_by_one(make, pictures):
  model = make('float64') if make is toy.llava else make()
  params, evaluate = _params(model, 1), _evaluate(model)
  batch = toy.batch(2, rows=2, pictures=pictures, weighted=True)
  questions = _questions(batch)
  assert len(questions) == 4
  (loss, logits), grads = evaluate(params, batch)
  total, total_grads = 0.0, jax.tree.map(jnp.zeros_like, params)
  for alone, b, places in questions:
    (value, alone_logits), alone_grads = evaluate(params, alone)
    # The loss is a mean over token weights: a question counts by its own.
    share = alone['weights'].sum() / batch['weights'].sum()
    total += share * value
    total_grads = jax.tree.map(
      lambda t, g, share=share: t + share * g, total_grads, alone_grads
    )
    answer = batch['weights'][b, places] > 0
    assert answer.any()
    np.testing.assert_allclose(
      logits[b, places][answer],
      alone_logits[0, : len(places)][answer],
      rtol=1e-6,
      atol=1e-6,
    )
  assert float(loss) == pytest.approx(float(total), rel=1e-6)
  _assert_same_gradients(grads, total_grads, pictures=pictures)


def test_a_branch_does_not_see_its_sibling():
  model = toy.llava('float64')
  params = _params(model, 3)
  batch = toy.batch(4, rows=2)
  first, second = (batch['branches'] == k for k in (1, 2))
  changed = dict(batch, tokens=batch['tokens'].copy())
  changed['tokens'][first] = (changed['tokens'][first] + 7) % toy.VOCAB
  (_, before), _ = _evaluate(model)(params, batch)
  (_, after), _ = _evaluate(model)(params, changed)
  np.testing.assert_array_equal(before[second], after[second])
  assert np.abs(before[first] - after[first]).max() > 0.1


def test_padding_on_the_right_and_padding_rows_change_nothing():
  model = toy.llava('float64')
  params, evaluate = _params(model, 5), _evaluate(model)
  batch = toy.batch(6, rows=2)
  (loss, logits), grads = evaluate(params, batch)
  (padded_loss, padded_logits), padded_grads = evaluate(
    params, toy.pad(batch, 7, rows=2, columns=9)
  )
  assert float(loss) == pytest.approx(float(padded_loss), rel=1e-6)
  _assert_same_gradients(padded_grads, grads)
  real = batch['documents'] > 0
  np.testing.assert_allclose(
    padded_logits[:2, : real.shape[1]][real], logits[real], 1e-6, 1e-6
  )
  assert np.isfinite(padded_logits).all()


def test_the_attention_mask_is_that_of_a_plain_loop():
  rng = np.random.default_rng(8)
  documents = rng.integers(0, 3, (5, 23))
  branches = rng.integers(0, 3, (5, 23))
  want = np.zeros((5, 23, 23), bool)
  for b in range(5):
    for i in range(23):
      for j in range(i + 1):
        d, k = documents[b, j], branches[b, j]
        # Padding (0) sees every document: right-padded models do the same.
        same = d != 0 and documents[b, i] in (d, 0)
        want[b, i, j] = same and (k == 0 or k == branches[b, i])
  got = attention.attention_mask(jnp.asarray(documents), jnp.asarray(branches))
  np.testing.assert_array_equal(got, want)
  assert 0.05 < want.mean() < 0.5
