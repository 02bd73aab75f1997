"""Small things with every part of the real ones: models, batches, masks.

``llava()`` is a whole LLaVA of width 16. The *perceptron* has the same three
components and the same ``forward(params, batch)`` without attention, so that a
test can write it again in float64 NumPy. Nothing here is zero unless it is
padding, and what pads is random too.
"""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from mmu_jax import models
from mmu_jax import objectives
from mmu_jax import saliency
from mmu_jax import tree as tree_lib
from mmu_jax.models.clip_vit import ClipVisionConfig
from mmu_jax.models.llama import LlamaConfig

VOCAB = 50
IMAGE_TOKENS = 4
IMAGE_SIZE, PATCH_SIZE = 24, 12
COMPONENTS = dict(models.MODELS['llava'].components)
WIDTH = 6  # of the perceptron


def llava(dtype: str = 'float32') -> models.Model:
  """A LLaVA of 17 thousand parameters; one object for each dtype.

  The projector reads the layer before the last, as in LLaVA-1.5, so the last
  layer of the tower is never run: its weights are dead.
  """
  return models.build(
    models.LlavaConfig(
      ClipVisionConfig(16, 24, 2, 2, IMAGE_SIZE, PATCH_SIZE),
      LlamaConfig(VOCAB, 16, 24, 2, 2, 1),
      dtype=dtype,
    )
  )


def llava_params(seed: int):
  """Random parameters of ``llava``, no bias 0 and no scale 1.

  They are drawn here: compiling ``init`` takes longer than the tests.
  """
  rng = np.random.default_rng(seed)

  def draw(name, leaf):
    last = name.split('/')[-1]
    wide = {'kernel': leaf.shape[-2:][0] ** -0.5, 'embedding': 0.5}
    x = wide.get(last, 0.1) * rng.standard_normal(leaf.shape)
    return jnp.asarray(x + (last == 'scale'), leaf.dtype)

  return tree_lib.map_with_name(draw, _llava_shapes())


@functools.cache
def _llava_shapes():
  return jax.eval_shape(llava().init, jax.random.key(0))


@functools.cache
def llava_importance():
  """The importance of two batches for ``llava``, shared by the tests."""
  loss = lambda p, made: objectives.descend(llava().forward, p, None, made)
  return saliency.importance(loss, llava_params(5), [batch(5), batch(6)])


def perturb(params, seed: int, scale: float):
  """Adds normal noise to every leaf."""
  rng = np.random.default_rng(seed)
  noise = lambda x: np.asarray(rng.standard_normal(x.shape), x.dtype)
  return jax.tree.map(
    lambda x: jnp.asarray(
      np.asarray(x) + np.asarray(scale, x.dtype) * noise(x)
    ),
    params,
  )


def batch(
  seed: int,
  rows: int = 4,
  length: int = 28,
  *,
  pictures: bool = True,
  packed: bool = True,
  weighted: bool = False,
):
  """A random batch with answers and rows of unequal length.

  Args:
    seed: of everything.
    rows: B.
    length: L, at least 28.
    pictures: a picture in each row, or text alone.
    packed: two questions a row (branches of a picture, documents of text), or
      one.
    weighted: unequal token weights, or 1 for every answer token.
  """
  rng = np.random.default_rng(seed)
  made = _padding(rng, rows, length, pictures)
  for b in range(rows):
    end, prefix = 0, 0
    if pictures:
      prefix = 2 + IMAGE_TOKENS
      image = np.arange(IMAGE_TOKENS)
      put = dict(documents=1, branches=0, positions=np.arange(prefix))
      _put(made, b, 0, prefix, weights=0, **put)
      made['image_slots'][b, 2:prefix] = image
      end = prefix
    for number in range(1, 3 if packed else 2):
      n = int(rng.integers(5, 11))  # tokens of a question and its answer
      answer = int(rng.integers(1, 4))
      weights = np.zeros(n)
      weights[n - 1 - answer : n - 1] = (
        rng.uniform(0.5, 1.5, answer) if weighted else 1.0
      )
      made['targets'][b, end : end + n] = np.append(
        made['tokens'][b, end + 1 : end + n], 0
      )
      _put(
        made,
        b,
        end,
        end + n,
        weights=weights,
        documents=1 if pictures else number,
        branches=number if pictures and packed else 0,
        positions=prefix + np.arange(n),
      )
      end += n
  return made


def pad(made, seed: int, *, rows: int = 0, columns: int = 0):
  """Appends padding to a batch: random tokens that no weight counts."""
  rng = np.random.default_rng(seed)
  b, length = made['tokens'].shape
  more = _padding(
    rng, b + rows, length + columns, made['pixel_values'].shape[1] > 0
  )
  for name, old in made.items():
    more[name][tuple(slice(n) for n in old.shape)] = old
  return more


def take(made, index):
  """Some rows of a batch."""
  return {name: x[index] for name, x in made.items()}


def params(seed: int, dtype=jnp.float32):
  """Random parameters of the perceptron, no entry zero."""
  rng = np.random.default_rng(seed)
  make = lambda *shape: jnp.asarray(
    rng.uniform(0.1, 0.8, shape) * rng.choice([-1, 1], shape), dtype
  )
  pixels = 3 * (IMAGE_SIZE // PATCH_SIZE) ** 2
  return {
    'vision_tower': {'kernel': make(pixels, 5), 'bias': make(5)},
    'multi_modal_projector': {'kernel': make(5, WIDTH)},
    'language_model': {
      'embed_tokens': make(VOCAB, WIDTH),
      'layers': {'kernel': make(2, WIDTH, WIDTH), 'bias': make(2, WIDTH)},
      'norm': make(WIDTH),
      'temperature': make(),
      'lm_head': make(WIDTH, VOCAB),
    },
  }


def counted(made, free: int = 0):
  """The batch with the positions that count, and ``free`` more places."""
  at = [np.flatnonzero(weights) for weights in made['weights']]
  found = np.full((len(at), max(map(len, at)) + free), -1)
  for row, positions in zip(found, at):
    row[: len(positions)] = positions
  return {**made, 'counted': found}


def forward(p, made, *, at=None, layer=None):
  """The perceptron: ``[B, L, V]`` logits, each position by itself.

  With ``at`` those of some positions alone; with ``layer`` its ``[B, L, D]``
  states after so many layers.
  """
  vision, language = p['vision_tower'], p['language_model']
  x = language['embed_tokens'][made['tokens']]  # [B, L, D]
  seen = patches(made['pixel_values'])
  if seen.shape[1]:
    seen = jnp.tanh(seen[:, 0] @ vision['kernel'] + vision['bias'])
    x += (seen @ p['multi_modal_projector']['kernel'])[:, None]
  layers = language['layers']
  for kernel, bias in zip(layers['kernel'][:layer], layers['bias'][:layer]):
    x = x + jnp.tanh(x @ kernel + bias)
  if layer is not None:
    return x
  if at is not None:
    x = jnp.take_along_axis(x, at[..., None], axis=1)
  return x * language['norm'] @ language['lm_head'] * language['temperature']


def loss(p, made):
  """The cross-entropy of the perceptron; one object, so it compiles once."""
  return objectives.descend(forward, p, None, made)


def patches(pixel_values):
  """The mean colours of the patches, ``[B, I, 3 * patches]``."""
  *first, c, height, width = pixel_values.shape
  p = PATCH_SIZE
  x = pixel_values.reshape(*first, c, height // p, p, width // p, p)
  return x.mean(axis=(-3, -1)).reshape(*first, c * (height // p) * (width // p))


def random_mask(tree, seed: int, share: float = 0.5):
  """A random bool mask like a tree."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(lambda x: jnp.asarray(rng.random(x.shape) < share), tree)


def tree_like(tree, seed: int, *, sign: bool = True):
  """Random values like a tree: normal, or their squares (an importance)."""
  rng = np.random.default_rng(seed)
  draw = rng.standard_normal if sign else lambda s: rng.standard_normal(s) ** 2
  return jax.tree.map(lambda x: jnp.asarray(draw(x.shape), x.dtype), tree)


def vector(tree) -> np.ndarray:
  """All entries of a tree as one float64 vector."""
  leaves = jax.tree.leaves(tree)
  return np.concatenate([np.asarray(x, np.float64).ravel() for x in leaves])


def relative_error(got, want) -> float:
  """|got - want| / |want| of two trees as vectors."""
  got, want = vector(got), vector(want)
  return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def bits(x) -> np.ndarray:
  """The raw bits of an array: tells -0.0 from 0.0."""
  x = np.asarray(x)
  return x.view(f'uint{8 * x.dtype.itemsize}')


def moved(before, after) -> dict[str, np.ndarray]:
  """Leaf name -> bool array: whose bits differ."""
  after = tree_lib.flatten(after)
  return {
    name: bits(x) != bits(after[name])
    for name, x in tree_lib.flatten(before).items()
  }


def frozen_bits_kept(before, after, mask) -> bool:
  """Whether every entry outside the mask has its old bits."""
  mask = tree_lib.flatten(mask)
  return not any(
    np.any(changed & ~np.asarray(mask[name]))
    for name, changed in moved(before, after).items()
  )


def plant_fragile(tree, mask, seed: int = 0):
  """Puts -0.0 and subnormal numbers among the frozen entries of each leaf.

  Additions of zero do not keep them: they show who selects, and who adds.
  """
  rng = np.random.default_rng(seed)
  fragile = np.array([-0.0, 1e-39, -3e-40])

  def plant(x, m):
    x, frozen = np.array(x), np.flatnonzero(~np.asarray(m))
    if len(frozen) < 6:
      return jnp.asarray(x)
    chosen = rng.choice(frozen, 2 * len(fragile), replace=False)
    x.ravel()[chosen] = np.tile(fragile, 2).astype(x.dtype)
    return jnp.asarray(x)

  return jax.tree.map(plant, tree, mask)


def is_fragile(x) -> np.ndarray:
  """Which entries are -0.0 or subnormal."""
  x = np.asarray(x)
  small = np.abs(x.astype(np.float64)) < float(ml_dtypes.finfo(x.dtype).tiny)
  return small & (bits(x) != 0)


def _padding(rng, rows, length, pictures):
  """Rows of nothing: random tokens, targets and pictures of no document."""
  integers = lambda: rng.integers(0, VOCAB, (rows, length)).astype(np.int32)
  zeros = lambda: np.zeros((rows, length), np.int32)
  return {
    'tokens': integers(),
    'positions': zeros(),
    'documents': zeros(),
    'branches': zeros(),
    'image_slots': np.full((rows, length), -1, np.int32),
    'pixel_values': rng.standard_normal(
      (rows, int(pictures), 3, IMAGE_SIZE, IMAGE_SIZE)
    ).astype(np.float32),
    'targets': integers(),
    'weights': np.zeros((rows, length), np.float32),
  }


def _put(made, b, start, stop, **values):
  """Writes one stretch of a row."""
  for name, value in values.items():
    made[name][b, start:stop] = value
