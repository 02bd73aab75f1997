"""The program as a run compiles it gives what transformers gives.

The other tests leave out most optimizations of the compiler, for time.
"""

import jax
import parity_compare as compare
import parity_reference as reference  # skips where torch is not installed
import parity_rows as rows
import pytest


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_optimized_programs_are_those_of_torch(family, record_property):
  assert not jax.config.values['jax_disable_most_optimizations']
  pair = reference.load(reference.build(reference.config_of(family, 5), 5))
  made = rows.draw(pair.torch.config, 300)
  compare.everything(pair, made, 'right', record_property)
