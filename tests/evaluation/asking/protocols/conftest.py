"""Encoders of small checkpoints of every family."""

import folders
import pytest

from mmu_jax.data.batches import batching


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
  tmp = tmp_path_factory.mktemp('checkpoints')
  return {
    family: batching.Encoder(folders.load(tmp, family))
    for family in folders.FAMILIES
  }
