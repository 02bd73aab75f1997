"""An encoder remembers the tokens of a row by its key."""

from small_worlds import SMALL

from mmu_jax.data.batches.encoder import Encoder
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib


def test_an_encoder_gives_each_row_its_own_tokens():
  row = world_lib.make_world(5, **SMALL).train['qa/forget'][0]
  encoder = Encoder(vocabulary.make_processor())
  assert encoder.example(row) is encoder.example(row)
  other = row._replace(key='other', answer='Maria Lopez likes soup.')
  assert encoder.example(other).tokens.tolist() != (
    encoder.example(row).tokens.tolist()
  )
