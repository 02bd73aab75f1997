"""The optimizer of every run: one visible chain, and its schedules."""

import functools

import optax

from mmu_jax.errors import UserError
from mmu_jax.transforms import clip_updates
from mmu_jax.transforms import hf_adamw
from mmu_jax.transforms import mask_updates
from mmu_jax.transforms import project_updates

OPTIMIZERS = {
  'hf_adamw': hf_adamw,  # what the published runs used
  'adamw': optax.adamw,
  'sgd': optax.sgd,
  'lion': optax.lion,
  'adafactor': optax.adafactor,
}


# From a gradient to an update. The mask acts first, so that clip and moments
# see trained weights only, and last, so that momentum and weight decay cannot
# move frozen ones.
CHAIN = ('mask', 'project', 'clip', 'optimizer', 'mask')


@functools.cache
def build(
  name: str = 'hf_adamw',
  *,
  clip_norm: float = 1.0,
  chain: tuple[str, ...] = CHAIN,
  **options: float,
) -> optax.GradientTransformationExtraArgs:
  """Builds the chain that every turn runs through.

  Learning rate and clip are hyperparameters in the state, set before each
  step: turns that share the moments may have different ones, without compiling
  twice.

  Args:
    name: a key of ``OPTIMIZERS``.
    clip_norm: largest global norm of the gradient, > 0; inf for no clip.
    chain: order of the links; ``'optimizer'`` once, and each word of ``CHAIN``:
      a link that a turn does not use is the identity. Frozen weights keep their
      bits if the chain ends with ``'mask'``.
    **options: options of the optimizer: ``weight_decay=0.05, b2=0.98``.

  Returns:
    A transformation whose ``update`` takes ``mask=`` and ``against=``, and
    whose state has ``hyperparams['learning_rate']`` and ``['clip_norm']``.
    Equal arguments give the same object.

  Raises:
    ValueError: if the name, an option, or the chain is none of these.
  """
  if name not in OPTIMIZERS:
    raise UserError(
      f'unknown optimizer {name!r}; known: {", ".join(OPTIMIZERS)}.'
    )
  if set(chain) != set(CHAIN) or chain.count('optimizer') != 1:
    raise UserError(
      "a chain has 'optimizer' once and each of 'mask', 'project' and "
      f"'clip', as in {CHAIN}; got {chain}. Without the mask a masked turn "
      'would change everything.'
    )
  try:
    OPTIMIZERS[name](0.0, **options)
  except TypeError as error:
    raise UserError(
      f'optimizer {name!r} does not take these options: {error}.'
    ) from error

  def make(learning_rate, clip_norm):
    links = {
      'mask': mask_updates(),
      'project': project_updates('conflict'),
      'clip': clip_updates(clip_norm),
      'optimizer': OPTIMIZERS[name](learning_rate, **options),
    }
    return optax.chain(*(links[word] for word in chain))

  return optax.inject_hyperparams(make)(learning_rate=0.0, clip_norm=clip_norm)


def schedule(
  name: str, peak: float, *, steps: int, warmup: int = 0
) -> optax.Schedule:
  """Returns the learning rate as a function of the round.

  Args:
    name: 'constant', 'linear' (to zero) or 'cosine' (to zero).
    peak: the highest rate, > 0.
    steps: rounds in all.
    warmup: rounds of linear rise from zero, before the rest.

  Raises:
    ValueError: if the name is unknown or the peak not positive.

  Example:
    >>> rate = schedule('linear', 1.0, steps=4)
    >>> [float(rate(i)) for i in range(4)]
    [1.0, 0.75, 0.5, 0.25]
  """
  if not peak > 0:  # nan too
    raise UserError(f'a learning rate must be positive, got {peak}.')
  rest = max(steps - warmup, 1)
  decays = {
    'constant': optax.constant_schedule(peak),
    'linear': optax.linear_schedule(peak, 0.0, rest),
    'cosine': optax.cosine_decay_schedule(peak, rest),
  }
  if name not in decays:
    raise UserError(f'unknown schedule {name!r}; known: {", ".join(decays)}.')
  if not warmup:
    return decays[name]
  rise = optax.linear_schedule(peak / warmup, peak, warmup)
  return optax.join_schedules([rise, decays[name]], [warmup])
