"""The decoder: rotary positions, and which token sees which."""

import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax.models import llama


def test_rotary_is_a_complex_rotation_in_float64():
  rng = np.random.default_rng(14)
  positions = np.concatenate([np.arange(40), rng.integers(40, 4096, 24)])
  positions = positions.reshape(2, 32)
  x = rng.normal(size=(2, 32, 3, 16)).astype(np.float32)
  cos, sin = llama.rotary(jnp.asarray(positions), 16, 10000.0)
  got = llama.rotate(jnp.asarray(x), cos, sin)
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
    turn = lambda x, p: llama.rotate(
      x, *llama.rotary(jnp.array([[p]]), 16, 10000.0)
    )
    return float(jnp.vdot(turn(q, i), turn(k, j)))

  assert score(9, 2) == pytest.approx(score(19, 12), abs=1e-5)
  assert abs(score(9, 2) - score(9, 3)) > 1e-2


def test_tokens_see_their_document_their_branch_and_what_branches_share():
  documents = jnp.array([[1, 1, 1, 2, 2, 0]])
  branches = jnp.array([[0, 1, 2, 0, 0, 0]])
  seen = llama.attention_mask(documents, branches)[0].astype(int)
  assert seen.tolist() == [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0],
    [1, 0, 0, 1, 1, 0],  # padding: seen by nobody, sees what branches share
  ]


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='multiple of num_attention_heads'):
    llama.LlamaConfig(hidden_size=30, num_attention_heads=4)
