"""Logits, image features, loss and gradients are those of transformers.

``record_property`` keeps the largest differences; --junitxml shows them.
"""

import copy

import families
import numpy as np
import parity_compare as compare
import parity_reference as reference  # skips where torch is not installed
import parity_rows as rows
import pytest

pytestmark = pytest.mark.usefixtures('quick_compile')
torch = reference.torch
SEEDS = (1, 2, 3, 4)
CASES = [(f, s) for f in reference.FAMILIES for s in SEEDS]
SIDES = ('right', 'left')


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_the_drawn_models_differ_in_what_matters(family):
  ours = [reference.pair(family, seed).ours.config for seed in SEEDS]
  text = [c.text_config for c in ours]
  groups = {t.num_attention_heads // t.num_key_value_heads for t in text}
  assert 1 in groups and len(groups) > 1
  assert len({t.num_hidden_layers for t in text}) > 1
  assert len({t.head_dim for t in text}) > 1
  assert len({c.vision_config.patch_size for c in ours}) > 1
  for value in families.CASES[family].varies:
    assert len({value(c) for c in ours}) > 1


@pytest.mark.parametrize('side', SIDES)
@pytest.mark.parametrize('family, seed', CASES)
def test_logits_loss_and_gradients_are_those_of_torch(
  family, seed, side, record_property
):
  pair = reference.pair(family, seed)
  made = rows.draw(pair.torch.config, 10 * seed)
  compare.everything(pair, made, side, record_property)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_text_batches_leave_the_tower_alone(family, record_property):
  pair = reference.pair(family, 1)
  made = rows.draw(pair.torch.config, 20, images=(0, 0, 0))
  compared = compare.everything(pair, made, 'right', record_property)
  # Whatever gets a gradient in torch is compared; nothing of the tower does.
  assert len(compared) > 9
  assert not [n for n in compared if n.startswith(('vis', 'multi_modal'))]


@pytest.mark.parametrize('family, seed', CASES)
def test_image_features_are_those_of_torch(family, seed, record_property):
  pair = reference.pair(family, seed)
  made = rows.draw(pair.torch.config, 30 + seed)
  batch = rows.batch(pair.torch, made)
  want = reference.image_features(
    pair.torch, rows.inputs(pair.torch.config, made)
  )
  got = compare.image_features(pair, batch, made)
  assert len(got) == len(want) == sum(rows.IMAGES)
  error = max(float(np.abs(x - y).max()) for x, y in zip(got, want))
  record_property('features', error)
  assert error <= compare.FEATURES


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_a_batch_is_its_rows_one_by_one(family, record_property):
  pair = reference.pair(family, 3)
  made = rows.draw(pair.torch.config, 40)
  together = {
    side: compare.forward(pair.ours)(
      pair.ours.params, rows.batch(pair.torch, made, side)
    )
    for side in SIDES
  }
  for b in (0, 2):  # no image, three images
    row, n = made[b], len(made[b].tokens)
    room = rows.room_of(row)  # no padding of any kind
    alone = rows.batch(pair.torch, [row], length=None, room=room)
    given = rows.inputs(pair.torch.config, [row], length=None)
    got = {
      'alone': compare.forward(pair.ours)(pair.ours.params, alone)[0],
      'right': together['right'][b, :n],
      'left': together['left'][b, -n:],
    }
    want = reference.forward(pair.torch, given).logits[0].detach().numpy()
    for name, logits in got.items():
      error = float(np.abs(logits - want).max())
      record_property(name, error)
      assert error <= compare.LOGITS, name


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_remat_computes_the_same(family, record_property):
  pair = reference.pair(family, 2, remat='full')
  assert pair.ours.config.remat == 'full'
  made = rows.draw(pair.torch.config, 50)
  compare.everything(pair, made, 'right', record_property)


def test_the_last_layer_and_the_class_token_can_be_read(record_property):
  config = reference.config_of(
    'llava', 3, vision_feature_layer=-1, vision_feature_select_strategy='full'
  )
  pair = reference.load(reference.build(config, 5))
  made = rows.draw(config, 60)
  num_patches = pair.ours.config.vision_config.num_patches
  assert pair.ours.config.num_image_tokens == num_patches + 1
  compare.everything(pair, made, 'right', record_property)


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_bfloat16_is_as_far_from_float32_as_that_of_torch(
  family, record_property
):
  pair = reference.pair(family, 4, compute_dtype='bfloat16')
  made = rows.draw(pair.torch.config, 70)
  batch = rows.batch(pair.torch, made)
  given = rows.inputs(pair.torch.config, made)
  exact = reference.forward(pair.torch, given).logits
  rounded = reference.forward(copy.deepcopy(pair.torch).bfloat16(), given)
  got = compare.forward(pair.ours)(pair.ours.params, batch)
  assert got.dtype == 'bfloat16' and rounded.logits.dtype == torch.bfloat16
  real = batch['documents'] > 0
  vectors = [
    x.detach().float().numpy()[real] for x in (exact, rounded.logits)
  ] + [np.asarray(got, np.float32)[real]]
  exact, theirs, ours = vectors
  error = lambda x: float(np.linalg.norm(x - exact) / np.linalg.norm(exact))
  record_property('theirs', error(theirs))
  record_property('ours', error(ours))
  # 2^-9 is half a step of bfloat16; a dozen roundings add up to some of them.
  assert 2**-9 < error(ours) < 0.03
  assert error(ours) < 1.5 * error(theirs)
