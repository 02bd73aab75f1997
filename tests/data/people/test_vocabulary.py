"""The words of the world, and the tokenizer made of them."""

import pytest

from mmu_jax.data.people import vocabulary


@pytest.fixture(scope='module')
def processor():
  return vocabulary.make_processor()


def test_every_attribute_has_ten_values_and_shares_none():
  values = [v for form in vocabulary.ATTRIBUTES.values() for v in form.values]
  assert len(vocabulary.ATTRIBUTES) == 6 and len(set(values)) == 60
  names = vocabulary.FIRST_NAMES + vocabulary.LAST_NAMES
  assert len(set(names)) == 80 and not set(names) & set(values)


def test_the_tokenizer_knows_letters_digits_and_is_always_the_same(processor):
  first, again = processor.tokenizer, vocabulary.make_tokenizer()
  assert first.get_vocab() == again.get_vocab()
  assert len(first) < 400
  names = (vocabulary.PAD, vocabulary.BOS, vocabulary.EOS, vocabulary.UNK)
  assert first.convert_tokens_to_ids([*names, vocabulary.IMAGE]) == [*range(5)]
  for text in ('A', 'D', '7', 'Maria\nA: parrot', vocabulary.REFUSAL):
    ids = first(text)['input_ids']
    assert first.unk_token_id not in ids
    assert first.decode(ids, skip_special_tokens=True) == text
  assert first.unk_token_id in first('zebra')['input_ids']


def test_a_patch_that_does_not_tile_the_picture_is_a_clear_error():
  with pytest.raises(ValueError, match='patch_size=14 and image_size=48'):
    vocabulary.make_processor(48, 14)
