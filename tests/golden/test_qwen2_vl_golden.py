"""Qwen2-VL gives what transformers gave, where torch is not installed.

``qwen2_vl/README.md`` says what the files hold and how they were made.
"""

import functools
import pathlib

import hub_folder
import jax
import numpy as np
import pytest

from mmu_jax import losses
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.evaluation.asking import decoding
from mmu_jax.models.hub import weights

pytestmark = pytest.mark.usefixtures('quick_compile')
FOLDER = pathlib.Path(__file__).parent / 'qwen2_vl'
NAMES = ('mixed', 'text')


@functools.cache
def _model():
  return models.load(FOLDER / 'checkpoint')


@functools.cache
def _golden(name):
  """The batch, and what torch made of it."""
  with np.load(FOLDER / f'{name}.npz') as file:
    found = {k: file[k] for k in file.files}
  batch = {
    k.removeprefix('batch/'): x
    for k, x in found.items()
    if k.startswith('batch/')
  }
  return batch, found


@functools.cache
def _computed(name):
  """Loss, logits ``[B, L, V]`` and gradients of ours."""

  def loss(params, batch):
    logits = _model().forward(params, batch)
    return losses.nll(logits, batch['targets'], batch['weights']), logits

  compute = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (loss, logits), grads = compute(_model().params, _golden(name)[0])
  return loss, logits, grads


def _tensors(tree):
  """A tree like the parameters as the tensors of the checkpoint."""
  leaves = {k: np.asarray(x) for k, x in tree_lib.flatten(tree).items()}
  return {
    name: hub_folder.to_file(
      leaves[place.leaf]
      if place.layer is None
      else leaves[place.leaf][place.layer],
      place,
    )
    for name, place in weights.table(_model()).places.items()
  }


def test_the_batches_have_rows_with_and_without_images():
  batch, _ = _golden('mixed')
  assert batch['patch_images'].max(axis=1).tolist() == [0, 1, 2, 1]
  assert _golden('text')[0]['pixel_values'].shape[1] == 0
  for name in NAMES:
    real = _golden(name)[0]['documents'] > 0
    assert (real.sum(axis=1) < real.shape[1]).all()  # each is padded
  # Row and column of an image token differ, and from its time.
  assert len(np.unique(batch['positions'] - batch['positions'][..., :1])) > 2


@pytest.mark.parametrize('name', NAMES)
def test_logits_and_loss_are_those_of_torch(name):
  batch, want = _golden(name)
  loss, logits, _ = _computed(name)
  got = np.asarray(logits)[batch['documents'] > 0]
  np.testing.assert_allclose(got, want['logits'], rtol=0, atol=1e-4)
  assert float(loss) == pytest.approx(float(want['loss']), abs=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_of_every_tensor_are_those_of_torch(name):
  _, want = _golden(name)
  got = _tensors(_computed(name)[2])
  assert {k for k in want if k.startswith('gradients/')} <= {
    f'gradients/{k}' for k in got
  }
  for tensor, x in got.items():
    if f'gradients/{tensor}' not in want:  # torch did not run this layer
      assert name == 'text' and tensor.startswith('visual.')
      np.testing.assert_array_equal(x, 0, tensor)
      continue
    exact = want[f'gradients/{tensor}']
    norm = np.linalg.norm(exact)
    assert norm > 0, f'{tensor}: nothing is compared'
    assert np.linalg.norm(x - exact) <= 1e-4 * norm, tensor


def test_image_features_are_those_of_torch():
  batch, want = _golden('mixed')
  found = jax.jit(_model().image_features)(_model().params, batch)
  # The first patch of every block says whose token it is.
  block = _model().config.vision_config.spatial_merge_size ** 2
  real = batch['patch_images'][:, ::block] > 0
  got = np.asarray(found)[real]
  assert got.shape == want['features'].shape
  np.testing.assert_allclose(got, want['features'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('name', NAMES)
def test_greedy_tokens_are_those_of_torch(name):
  batch, want = _golden(name)
  steps = want['greedy'].shape[1]
  assert steps == 20 and want['gaps'].min() > 1e-4  # there are no ties
  vocab = _model().config.text_config.vocab_size
  got = decoding.greedy(
    _model().params,
    batch,
    model=_model(),
    max_new_tokens=steps,
    stop_ids=(vocab,),
  )
  np.testing.assert_array_equal(got, want['greedy'])
