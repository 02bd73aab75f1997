"""Questions about one picture, packed, are the same questions one by one."""

import dataclasses

import families
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmu_jax import models
from mmu_jax.data.batches import packing
from mmu_jax.evaluation.asking import decoding
from mmu_jax.models import attention

pytestmark = pytest.mark.usefixtures('quick_compile')
VOCAB, LENGTH, BEFORE, BETWEEN = 48, 30, 3, 2
QUESTIONS = (6, 9)  # tokens of each
NEW = 8  # tokens of an answer


def _row(model, rng, parts):
  """One row of branches; a part is (branch, tokens, slots, positions)."""
  family, case = models.MODELS[model.family], families.CASES[model.family]
  branch, tokens, slots, positions = (np.concatenate(x) for x in zip(*parts))
  shapes = family.abstract_batch(model.config, 1, len(tokens), case.room)
  made = {
    name: rng.integers(1, 2, x.shape).astype(x.dtype)
    for name, x in shapes.items()
  }
  for name, x in dict(
    tokens=tokens, branches=branch, image_slots=slots
  ).items():
    made[name][:] = x
  np.moveaxis(made['positions'], 1, -1)[:] = positions
  pixels = np.random.default_rng(7).normal(size=shapes['pixel_values'].shape)
  made['pixel_values'] = pixels.astype(np.float32)
  return made


def _parts(model, rng):
  """What the questions share, and each of them."""
  family, room = models.MODELS[model.family], families.CASES[model.family].room
  shapes = family.abstract_batch(model.config, 1, LENGTH, room)
  features = jax.eval_shape(model.image_features, model.abstract_params, shapes)
  image = features.shape[1]
  n = BEFORE + image + BETWEEN
  slots = np.full(n, -1)
  features = families.num_features(model, room)
  slots[BEFORE : BEFORE + image] = np.arange(image) % features
  text = lambda n: rng.integers(0, VOCAB, n)
  zeros = lambda n: np.zeros(n, int)
  yield zeros(n), text(n), slots, np.arange(n)
  for branch, size in enumerate(QUESTIONS, start=1):
    none = np.full(size, -1)
    yield zeros(size) + branch, text(size), none, n + np.arange(size)


def _model(family, rng):
  """A model with random weights."""
  model = models.from_options(family, VOCAB, **families.CASES[family].options)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype),
    model.init(jax.random.key(0)),
  )
  return model, params


@pytest.mark.parametrize('family', families.CASES)
def test_a_packed_question_is_the_same_question_alone(family):
  rng = np.random.default_rng(1)
  model, params = _model(family, rng)
  forward = jax.jit(model.forward)
  shared, *questions = _parts(model, rng)
  packed = forward(params, _row(model, rng, [shared, *questions]))[0]
  ends = np.cumsum([len(shared[0]), *QUESTIONS])
  for question, start, end in zip(questions, ends, ends[1:]):
    alone = forward(params, _row(model, rng, [shared, question]))[0]
    got, want = packed[start:end], alone[len(shared[0]) :]
    assert np.abs(want).max() > 0.5
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    other = questions[0] if question is questions[1] else questions[1]
    changed = forward(params, _row(model, rng, [other, question]))[0]
    assert np.abs(changed[-len(want) :] - want).max() > 1e-3


@pytest.mark.parametrize('family', families.CASES)
def test_attention_in_blocks_is_the_same_in_every_family(family, monkeypatch):
  """Blocks of four queries cut images, windows and two-way masks, too."""
  monkeypatch.setattr(attention, '_BLOCK', 4)
  rng = np.random.default_rng(3)
  model, params = _model(family, rng)
  shared, *questions = _parts(model, rng)
  row = _row(model, rng, [shared, *questions])
  asked = row | {'prompts': _ends(row)}
  weights = rng.normal(size=VOCAB)

  def measured(way):
    config = dataclasses.replace(model.config, attention=way)
    made = models.build(config)
    loss = lambda p: jnp.sum(jnp.sin(made.forward(p, row)) @ weights)
    said, _ = decoding.continue_and_score(
      params, asked, model=made, max_new_tokens=NEW, stop_ids=(VOCAB,)
    )
    return said, jax.jit(jax.grad(loss))(params)

  (said, got), (want_said, want) = measured('blocks'), measured('xla')
  np.testing.assert_array_equal(said, want_said)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale)


def _ends(batch):
  """Places ``[B, 2]`` of the last tokens of two prompts in a row, or of one."""
  place = np.arange(batch['tokens'].shape[1])
  real = batch['documents'] > 0
  single = batch['branches'].max(axis=1, keepdims=True) == 0
  of = np.where(real, batch['branches'] + single, -1)
  ends = [np.where(of == n, place, -1).max(axis=1) for n in (1, 2)]
  return np.stack(ends, axis=1).astype(np.int32)


def _joined(rows, side, length):
  """One batch of rows, padded to a length, and one row of padding."""
  found = {}
  for name in rows[0]:
    parts = [row[name] for row in rows]
    if name in packing.FIELDS:
      fill = packing.PAD.get(name, 0)
      around = lambda n: (0, n) if side == 'right' else (n, 0)
      parts = [
        np.pad(
          x,
          [(0, 0), around(length - x.shape[1]), *[(0, 0)] * (x.ndim - 2)],
          constant_values=fill,
        )
        for x in parts
      ]
    nothing = packing.PAD.get(name, 0) * np.ones_like(parts[0])
    found[name] = np.concatenate([*parts, nothing])
  return found


@pytest.mark.parametrize('side', ['right', 'left'])
@pytest.mark.parametrize('family', families.CASES)
def test_packed_prompts_are_continued_as_each_of_them_alone(family, side):
  """With a picture and without one, beside a row of one prompt."""
  rng = np.random.default_rng(2)
  model, params = _model(family, rng)
  how = dict(model=model, max_new_tokens=NEW, stop_ids=(VOCAB,))

  def one(parts):
    branches = [(0 * part[0], *part[1:]) for part in parts]
    return _row(model, rng, branches)

  rows, want = [], []
  for has_picture in (True, False):
    shared, *questions = _parts(model, rng)
    if not has_picture:
      shared = (*shared[:2], 0 * shared[2] - 1, shared[3])
    rows.append(_row(model, rng, [shared, *questions]))
    want.append(
      [decoding.greedy(params, one([shared, q]), **how)[0] for q in questions]
    )
  rows.append(one([shared, questions[1]]))
  want.append([want[1][1], np.full(NEW, VOCAB)])
  want.append([np.full(NEW, VOCAB)] * 2)  # padding
  length = max(row['tokens'].shape[1] for row in rows) + 3
  batch = _joined(rows, side, length)
  batch['prompts'] = _ends(batch)
  got, _ = decoding.continue_and_score(params, batch, **how)
  np.testing.assert_array_equal(got, want)
  assert len({tuple(x) for row in got[:2].tolist() for x in row}) > 2


@pytest.mark.parametrize('family', families.CASES)
def test_logits_at_some_places_are_the_same_in_every_family(family):
  """The last layer reads every token, and computes the rest where asked."""
  rng = np.random.default_rng()
  model, params = _model(family, rng)
  row = _row(model, rng, list(_parts(model, rng)))
  length = row['tokens'].shape[1]
  at = rng.choice(length, (1, 6), replace=False)
  weights = rng.normal(size=VOCAB).astype(np.float32)

  def measured(params, at):
    some = model.forward(params, row, at=at)
    return jnp.sum(jnp.sin(some) @ weights), some

  def picked(params, at):
    some = model.forward(params, row)[:, at[0]]
    return jnp.sum(jnp.sin(some) @ weights), some

  take = lambda f: jax.jit(jax.grad(f, has_aux=True))(params, at)
  (got, logits), (want, want_logits) = take(measured), take(picked)
  np.testing.assert_allclose(logits, want_logits, rtol=0, atol=2e-5)
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want)):
    scale = max(1.0, float(jnp.abs(b).max()))
    np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * scale)
