"""Greedy decoding gives the tokens of ``transformers.generate``."""

import numpy as np
import parity_reference as reference  # skips where torch is not installed
import parity_rows as rows
import pytest

from mmu_jax.evaluation.asking import decoding

pytestmark = pytest.mark.usefixtures('quick_compile')
SEEDS = (1, 2, 3, 4)
CASES = [(f, s) for f in reference.FAMILIES for s in SEEDS]
NEW = 20
GAP = 1e-4  # two logits this close may change places by rounding


def _ours(pair, made, side='right', *, stop_ids=None, penalty=1.0, **shape):
  """Our tokens; without stop ids, nothing ends an answer."""
  vocab = pair.ours.config.text_config.vocab_size
  return np.asarray(
    decoding.greedy(
      pair.ours.params,
      rows.batch(pair.torch, made, side, **shape),
      model=pair.ours,
      max_new_tokens=NEW,
      stop_ids=stop_ids or (vocab,),  # one that no logit stands for
      repetition_penalty=penalty,
    )
  )


def _theirs(pair, made, stop_id=None, **options):
  """Theirs, and the gaps: padded on the left, as generate wants it."""
  given = rows.inputs(pair.torch.config, made, 'left')
  return reference.greedy(pair.torch, given, NEW, stop_id, **options)


def _assert_same(got, want, gaps):
  """Equal tokens in each row, up to its first tie; ties are rare."""
  clear = np.cumprod(gaps > GAP, axis=1).astype(bool)
  assert clear.mean() > 0.9
  np.testing.assert_array_equal(got[clear], want[clear])


@pytest.mark.parametrize('family, seed', CASES)
def test_tokens_are_those_of_torch_padded_on_either_side(family, seed):
  pair = reference.pair(family, seed)
  made = rows.draw(pair.torch.config, 100 + seed)
  want, gaps = _theirs(pair, made)
  assert want.shape == (len(made), NEW)
  assert len(np.unique(want)) > NEW / 2  # not one token again and again
  _assert_same(_ours(pair, made, 'left'), want, gaps)
  _assert_same(_ours(pair, made, 'right'), want, gaps)


@pytest.mark.parametrize('penalty', [1.05, 1.5, 0.7])
@pytest.mark.parametrize('family', reference.FAMILIES)
def test_a_repetition_penalty_is_that_of_torch(family, penalty):
  """Prompts of unequal length with images, padded on either side."""
  pair = reference.pair(family, 3)
  made = rows.draw(pair.torch.config, 140)
  free, _ = _theirs(pair, made)
  want, gaps = _theirs(pair, made, repetition_penalty=penalty)
  assert penalty == 1.05 or (want != free).any()
  _assert_same(_ours(pair, made, 'left', penalty=penalty), want, gaps)
  _assert_same(_ours(pair, made, 'right', penalty=penalty), want, gaps)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_a_batch_is_its_prompts_one_by_one(family):
  pair = reference.pair(family, 2)
  made = rows.draw(pair.torch.config, 110)
  together = _ours(pair, made)
  for b, row in enumerate(made):
    given = rows.inputs(pair.torch.config, [row], length=None)
    want, gaps = reference.greedy(pair.torch, given, NEW)
    _assert_same(together[[b]], want, gaps)
    if b in (0, 2):  # no image, three images; no padding of any kind
      room = rows.room_of(row)
      alone = _ours(pair, [row], length=None, room=room)
      _assert_same(alone, want, gaps)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_prompts_without_images_need_none(family):
  pair = reference.pair(family, 4)
  made = rows.draw(pair.torch.config, 120, images=(0, 0, 0))
  want, gaps = _theirs(pair, made)
  _assert_same(_ours(pair, made), want, gaps)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_a_stop_token_ends_each_row_at_its_time(family):
  pair = reference.pair(family, 2)
  made = rows.draw(pair.torch.config, 130)
  free, _ = _theirs(pair, made)
  # The token that comes at the most different times, not at once.
  first = lambda t: [list(row).index(t) for row in free if t in row]
  stop = max(free[:, 2:].ravel(), key=lambda t: len(set(first(t))))
  want, gaps = _theirs(pair, made, int(stop))
  ends = [list(row).index(stop) if stop in row else NEW for row in want]
  assert len(set(ends)) > 1 and min(ends) < NEW - 1
  got = _ours(pair, made, stop_ids=(int(stop),))
  width = want.shape[1]  # generate ends with the last row
  assert (got[:, width:] == stop).all()
  _assert_same(got[:, :width], want, gaps)
