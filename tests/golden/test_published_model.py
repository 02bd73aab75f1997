"""Logits, features, losses and gradients are those of the published code.

Torch's float32 logits differ from its float64 ones by up to 6e-6 here.
"""

import functools

import jax
import numpy as np
import published
import pytest

from mmu_jax import objectives

pytestmark = pytest.mark.usefixtures('quick_compile')
FORWARD = ('forget_0', 'forget_2', 'text_0', 'mixed_0')


@functools.cache
def _logits():
  return jax.jit(published.model().forward)


@functools.cache
def _value_and_gradient():
  loss = functools.partial(objectives.descend, published.model().forward)
  return jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize('name', FORWARD)
def test_logits_are_equal_to_1e_5_at_every_position_padding_too(name):
  made = published.batch(name, padded=False)
  got = _logits()(published.model().params, made)
  for kind in ('logits', 'logits_f64ref'):
    want = published.forward_arrays()[f'{name}__{kind}']
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
  padding = made['documents'] == 0
  assert padding.sum() >= 5  # there is padding to be seen


@pytest.mark.parametrize('name', ['forget_0', 'mixed_0'])
def test_image_features_are_equal_to_1e_5(name):
  made = published.batch(name, padded=False)
  has_picture = (made['image_slots'] >= 0).any(1)
  model = published.model()
  got = model.image_features(model.params, made)[has_picture]
  want = published.forward_arrays()[f'{name}__image_features']
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize('labels', ['labels', 'labels_ans', 'labels_noimg'])
def test_the_loss_of_every_batch_is_equal_to_1e_6_of_it(labels):
  wanted = {
    key.split('/')[0]: loss
    for key, loss in published.META['loss'].items()
    if key.endswith(f'/{labels}')
  }
  assert len(wanted) == 13
  for name, want in wanted.items():
    made = published.batch(name, labels)
    got, _ = _value_and_gradient()(published.model().params, None, made)
    assert float(got) == pytest.approx(want, rel=1e-6), name


def test_the_loss_of_the_npo_reference_is_equal_to_1e_6_of_it():
  oracle = published.params_of('oracle')
  for name, want in published.META['oracle_loss'].items():
    made = published.batch(name)
    got, _ = _value_and_gradient()(oracle, None, made)
    assert float(got) == pytest.approx(want, rel=1e-6), name


@pytest.mark.parametrize('name', ['forget_0', 'mixed_0'])
def test_the_gradient_of_every_leaf_is_equal_to_1e_5_of_its_norm(name):
  made = published.batch(name)
  _, grads = _value_and_gradient()(published.model().params, None, made)
  compared = list(published.entries(grads, f'grads_{name}'))
  assert len(compared) == 62
  for entry in compared:
    error = np.linalg.norm(entry.got - entry.want)
    # Softmax does not see a bias of CLIP's keys: 0, but for rounding.
    norm = (
      1e-3 if published.is_noise(entry.name) else (np.linalg.norm(entry.want))
    )
    assert error <= 1e-5 * norm, entry.name


def test_what_torch_gave_no_gradient_has_gradient_zero_here():
  made = published.batch('forget_0')
  _, grads = _value_and_gradient()(published.model().params, None, made)
  found = published.tensors(grads)
  without = published.META['grad_none']['forget_0']
  assert len(without) == 18  # CLIP's last layer and what follows it
  assert not any(found[name].any() for name in without)
