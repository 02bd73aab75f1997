"""Questions about one picture, packed, are the same questions one by one."""

import families
import jax
import numpy as np
import pytest

from mmu_jax import models

pytestmark = pytest.mark.usefixtures('quick_compile')
VOCAB, LENGTH, BEFORE, BETWEEN = 48, 30, 3, 2
QUESTIONS = (6, 9)  # tokens of each


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


@pytest.mark.parametrize('family', families.CASES)
def test_a_packed_question_is_the_same_question_alone(family):
  model = models.from_options(family, VOCAB, **families.CASES[family].options)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(x.dtype),
    model.init(jax.random.key(0)),
  )
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
