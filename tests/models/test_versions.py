"""Versions of JAX and Flax that do not fit are named before any import."""

import pytest

from mmu_jax.models import versions


@pytest.mark.parametrize(
  'jax, flax',
  [('0.10.2', '0.12.8'), ('0.11.1', '0.12.9'), ('0.12.0', '0.12.10')],
)
def test_pairs_that_work_are_accepted(jax, flax):
  versions.check_pair(jax, flax)


@pytest.mark.parametrize('jax', ['0.11.2', '0.11.2.dev3', '0.12.0rc1', '1.0'])
def test_an_old_flax_is_refused_with_the_version_to_install(jax):
  message = f'flax 0.12.9 does not work with jax {jax}; .*flax>=0.12.10'
  with pytest.raises(ImportError, match=message):
    versions.check_pair(jax, '0.12.9')
