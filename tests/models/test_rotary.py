"""Rotary embedding is a rotation by the positions of a token."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax.models import rotary


def test_rotary_is_a_complex_rotation_in_float64():
  rng = np.random.default_rng(14)
  positions = np.concatenate([np.arange(40), rng.integers(40, 4096, 24)])
  positions = positions.reshape(2, 32)
  x = rng.normal(size=(2, 32, 3, 16)).astype(np.float32)
  cos, sin = rotary.rotary(jnp.asarray(positions), 16, 10000.0)
  got = rotary.rotate(jnp.asarray(x), cos, sin)
  frequencies = 10000.0 ** (-np.arange(8) / 8)  # [head_dim / 2]
  angles = positions[..., None, None] * frequencies  # [B, L, 1, head_dim / 2]
  turned = (x[..., :8] + 1j * x[..., 8:]) * np.exp(1j * angles)
  want = np.concatenate([turned.real, turned.imag], axis=-1)
  # An angle in float32 is off by 2^-23 of itself.
  allowed = 2.0**-22 * (1 + positions[..., None, None]) * np.abs(x).max()
  assert np.all(np.abs(got - want) <= 2 * allowed)


def test_scores_depend_on_distance_alone():
  rng = np.random.default_rng(15)
  q, k = jnp.asarray(rng.normal(size=(2, 1, 1, 1, 16)), jnp.float32)

  def score(i, j):
    turn = lambda x, p: rotary.rotate(
      x, *rotary.rotary(jnp.array([[p]]), 16, 10000.0)
    )
    return float(jnp.vdot(turn(q, i), turn(k, j)))

  assert score(9, 2) == pytest.approx(score(19, 12), abs=1e-5)
  assert abs(score(9, 2) - score(9, 3)) > 1e-2


def test_a_factor_stretches_positions():
  positions = jnp.arange(50)[None]
  slow = rotary.rotary(8 * positions, 16, 1e6, factor=8)
  for got, want in zip(slow, rotary.rotary(positions, 16, 1e6)):
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_interleaved_sections_take_turns_and_the_rest_is_time():
  axes = rotary.mrope_axes((24, 20, 20), True)
  assert np.bincount(axes).tolist() == [24, 20, 20]
  assert axes[:7].tolist() == [0, 1, 2, 0, 1, 2, 0]
  assert np.flatnonzero(axes == 0).tolist() == [
    *range(0, 60, 3),
    *range(60, 64),
  ]
  positions = jnp.array([[[100, 10, 1]]])
  cos, _ = rotary.rotary(positions, 16, 1e4, (4, 2, 2), interleaved=True)
  at = np.array([100, 10, 1, 100, 10, 1, 100, 100])
  want = np.cos(at * 10000.0 ** (-np.arange(8) / 8))
  np.testing.assert_allclose(cos[0, 0, 0, :8], want, rtol=0, atol=1e-5)
