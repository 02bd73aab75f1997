"""Unlearning methods: a method is a tuple of turns.

A turn is one optimizer step on one split. Finetuning is the method of one
turn, so the vanilla, the retrained and every unlearned model come from one
loop with other words. A new method is one function of a few lines, and
``METHODS`` is the whole registry.

A loss is ``(forward, params, ref_params, batch) -> scalar``; it is defined once
at module level or made by a cached function, so that equal turns are equal
objects and compile once.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

from mmu_jax import losses
from mmu_jax.typing import Batch, Forward, LossFn, Params, Scalar


class Turn(NamedTuple):
  """One optimizer step on one split.

  Attributes:
    split: the stream its batch comes from: 'forget', 'retain', 'train'.
    loss: what the step descends.
    masked: whether the saliency mask acts on this turn: on its gradients, its
      updates and when they are applied.
    project: a split whose gradient the step must not work against, or None.
    every: taken in one of so many rounds, from the first.
    needs_reference: whether the loss reads ``ref_params``.
  """

  split: str
  loss: LossFn
  masked: bool = False
  project: str | None = None
  every: int = 1
  needs_reference: bool = False


def descend(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Cross-entropy: learn the answers of the batch."""
  del ref_params
  logits = forward(params, batch)
  return losses.nll(logits, batch['targets'], batch['weights'])


def ascend(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Minus the cross-entropy: unlearn the answers of the batch."""
  return -descend(forward, params, ref_params, batch)


def descend_near_reference(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Cross-entropy + KL(p_ref || p_theta), both over the answer tokens."""
  logits = forward(params, batch)
  ref_logits = forward(ref_params, batch)
  weights = batch['weights']
  return losses.nll(logits, batch['targets'], weights) + losses.kl_divergence(
      logits, ref_logits, weights
  )


@functools.cache
def preference_against(beta: float) -> LossFn:
  """The NPO loss over the answers of a batch, one term for each answer."""

  def npo_loss(forward, params, ref_params, batch):
    answers = batch['weights'], batch['documents'], batch['branches']
    targets = batch['targets']
    log_probs = losses.token_log_probs(forward(params, batch), targets)
    ref_log_probs = losses.token_log_probs(forward(ref_params, batch), targets)
    nll, is_answer = losses.sum_by_answer(-log_probs, *answers)
    ref_nll, _ = losses.sum_by_answer(-ref_log_probs, *answers)
    return losses.npo(nll, ref_nll, beta=beta, where=is_answer)

  return npo_loss


def finetune(split: str = 'train') -> tuple[Turn, ...]:
  """Learn a split: makes the vanilla, reference and retrained models."""
  return (Turn(split, descend),)


def ga(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient ascent on the forget set."""
  return (Turn('forget', ascend, every=forget_every),)


def ga_diff(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient difference: ascent on forget, then descent on retain.

  References:
    Liu et al., Continual Learning and Private Unlearning, 2022
    (https://arxiv.org/abs/2203.12817).
  """
  return (
      Turn('forget', ascend, every=forget_every),
      Turn('retain', descend),
  )


def kl_min(forget_every: int = 1) -> tuple[Turn, ...]:
  """Ascent on forget, then descent on retain held to the reference by KL.

  References:
    Maini et al., TOFU, 2024 (https://arxiv.org/abs/2401.06121).
  """
  return (
      Turn('forget', ascend, every=forget_every),
      Turn('retain', descend_near_reference, needs_reference=True),
  )


def npo(forget_every: int = 1, beta: float = 0.1) -> tuple[Turn, ...]:
  """Negative preference optimization on the forget set.

  References:
    Zhang et al., 2024 (https://arxiv.org/abs/2404.05868).
  """
  loss = preference_against(beta)
  return (Turn('forget', loss, every=forget_every, needs_reference=True),)


def npo_retain(forget_every: int = 1, beta: float = 0.1) -> tuple[Turn, ...]:
  """NPO on forget, then descent on retain."""
  return npo(forget_every, beta) + (Turn('retain', descend),)


def mmunlearner(forget_every: int = 1) -> tuple[Turn, ...]:
  """Masked ascent on forget, then descent on retain that may move any weight.

  The paper's scope of protection: the mask acts on the forget turn alone.

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051).
  """
  return (
      Turn('forget', ascend, masked=True, every=forget_every),
      Turn('retain', descend),
  )


def mmunlearner_strict(forget_every: int = 1) -> tuple[Turn, ...]:
  """MMUnlearner whose mask acts on every turn.

  A weight outside the mask is bit for bit the vanilla weight at the end.
  """
  return (
      Turn('forget', ascend, masked=True, every=forget_every),
      Turn('retain', descend, masked=True),
  )


def mmunlearner_projected(forget_every: int = 1) -> tuple[Turn, ...]:
  """MMUnlearner whose ascent does not work against the retain gradient.

  References:
    Geometric-Disentanglement Unlearning, 2025
    (https://arxiv.org/abs/2511.17100).
  """
  return (
      Turn(
          'forget', ascend, masked=True, project='retain', every=forget_every
      ),
      Turn('retain', descend),
  )


METHODS: dict[str, Callable[..., tuple[Turn, ...]]] = {
    f.__name__: f
    for f in (
        finetune,
        ga,
        ga_diff,
        kl_min,
        npo,
        npo_retain,
        mmunlearner,
        mmunlearner_strict,
        mmunlearner_projected,
    )
}


def make(name: str, **options) -> tuple[Turn, ...]:
  """Returns the turns of a method by name.

  Args:
    name: a key of ``METHODS``.
    **options: its arguments, for example ``forget_every=2``.

  Raises:
    ValueError: if the name is unknown; lists the known ones.

  Example:
    >>> [turn.split for turn in make('ga_diff', forget_every=3)]
    ['forget', 'retain']
  """
  if name not in METHODS:
    raise ValueError(
        f'unknown method {name!r}; known: {", ".join(METHODS)}. A new one is '
        'a function that returns turns, added to METHODS.'
    )
  return METHODS[name](**options)
