"""Tokens see what they would see alone."""

import jax.numpy as jnp
import numpy as np

from mmu_jax.models import attention_masks


def test_tokens_see_their_document_their_branch_and_what_branches_share():
  documents = jnp.array([[1, 1, 1, 2, 2, 0]])
  branches = jnp.array([[0, 1, 2, 0, 0, 0]])
  seen = attention_masks.attention_mask(documents, branches)[0].astype(int)
  assert seen.tolist() == [
    [1, 0, 0, 0, 0, 0],
    [1, 1, 0, 0, 0, 0],
    [1, 0, 1, 0, 0, 0],
    [0, 0, 0, 1, 0, 0],
    [0, 0, 0, 1, 1, 0],
    [1, 0, 0, 1, 1, 0],  # padding: seen by nobody, sees what branches share
  ]


def test_the_tokens_of_an_image_see_each_other():
  documents, images = jnp.ones((1, 6), int), jnp.array([[-1, 0, 0, -1, 1, 1]])
  seen = attention_masks.attention_mask(documents, 0 * documents, images)[0]
  both_ways = np.tril(np.ones((6, 6), bool))
  both_ways[1, 2] = both_ways[4, 5] = True
  np.testing.assert_array_equal(seen, both_ways)
