"""Unlearning methods: a method is a tuple of turns.

A turn is one optimizer step on one split. Finetuning is the method of one
turn, so the vanilla, the retrained and every unlearned model come from one
loop with other words. A new method is one function of a few lines, and
``METHODS`` is the whole registry.

A loss is ``(forward, params, ref_params, batch) -> scalar``; it is defined once
at module level or made by a cached function, so that equal turns are equal
objects and compile once.
"""

from collections.abc import Callable, Iterable
import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mmu_jax import losses
from mmu_jax.errors import UserError
from mmu_jax.gradients import Measure
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import LossFn
from mmu_jax.typing import Params
from mmu_jax.typing import Scalar


class Turn(NamedTuple):
  """One optimizer step on one split.

  Attributes:
    split: the stream its batch comes from: 'forget', 'retain', 'train'.
    loss: the loss that the step descends.
    masked: whether the saliency mask acts on this turn, wherever the
      optimizer's chain has it.
    project: a split whose gradient the step must not work against, or None.
    every: rounds from one turn to the next; the first round has one.
    needs_reference: whether the loss reads ``ref_params``.
    measure: ``measure(batch)``, the denominator of the loss: with it a batch
      may be cut into micro-batches; a tuple for a loss that returns several
      means. None if the loss is not such a mean.
    beside: a second split whose batch the loss gets as ``batch['beside']``, or
      None.
  """

  split: str
  loss: LossFn
  masked: bool = False
  project: str | None = None
  every: int = 1
  needs_reference: bool = False
  measure: Measure | None = None
  beside: str | None = None


def answer_weight(batch: Batch) -> Scalar:
  """The weight of all answer tokens: the denominator of a cross-entropy."""
  return jnp.sum(batch['weights'].astype(jnp.float32))


def num_answers(batch: Batch) -> Scalar:
  """The number of answers in a batch: the denominator of the NPO loss."""
  weights = batch['weights']
  _, is_answer = losses.sum_by_answer(
    weights, weights, batch['documents'], batch['branches']
  )
  return jnp.sum(is_answer)


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


@functools.cache
def ascend_by(alpha: float) -> LossFn:
  """Ascent weighted by ``alpha``; ``ascend`` itself for 1.

  Where the gradient is longer than the clip, alpha changes nothing.

  Raises:
    ValueError: if alpha is not positive.
  """
  if not alpha > 0:  # nan too
    raise UserError(
      f'the weight of the ascent must be positive, got alpha={alpha}; with '
      'a negative one the forget set would be learned.'
    )
  if alpha == 1:
    return ascend

  def weighted_ascent(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    return alpha * ascend(forward, params, ref_params, batch)

  return weighted_ascent


def descend_near_reference(
  forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Cross-entropy + KL(p_ref || p_theta), both over the answer tokens."""
  return _near_reference(forward, params, ref_params, batch, batch['weights'])


def descend_near_reference_everywhere(
  forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Cross-entropy + the KL of the published code, summed over a whole row.

  torch's ``batchmean`` divides by the rows alone, so the KL adds up over every
  position, of the prompt, the image and the padding too: about L times as
  strong as per token, and it depends on how much padding its rows have. Rows
  that are nothing but padding, as devices get to share a batch, do not count.
  """
  rows = jnp.any(batch['documents'] > 0, axis=1, keepdims=True)  # [B, 1]
  weights = batch['weights']
  everywhere = jnp.broadcast_to(rows, weights.shape).astype(weights.dtype)
  return _near_reference(
    forward, params, ref_params, batch, everywhere, weights.shape[1]
  )


def _near_reference(
  forward: Forward,
  params: Params,
  ref_params: Params,
  batch: Batch,
  where: jax.Array,
  scale: jax.typing.ArrayLike = 1.0,
) -> Scalar:
  """Cross-entropy + scale * the mean KL over some positions."""
  logits = forward(params, batch)
  nll = losses.nll(logits, batch['targets'], batch['weights'])
  ref_logits = forward(ref_params, batch)
  return nll + scale * losses.kl_divergence(logits, ref_logits, where)


KL_OVER = {
  'answers': (descend_near_reference, answer_weight),
  'rows': (descend_near_reference_everywhere, None),  # published
}


@functools.cache
def preference_against(beta: float) -> LossFn:
  """The NPO loss over the answers of a batch, one term for each answer."""

  def npo_loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    answers = batch['weights'], batch['documents'], batch['branches']
    targets = batch['targets']
    log_probs = losses.token_log_probs(forward(params, batch), targets)
    ref_log_probs = losses.token_log_probs(forward(ref_params, batch), targets)
    nll, is_answer = losses.sum_by_answer(-log_probs, *answers)
    ref_nll, _ = losses.sum_by_answer(-ref_log_probs, *answers)
    return losses.npo(nll, ref_nll, beta=beta, where=is_answer)

  return npo_loss


@functools.cache
def batch_preference_against(beta: float) -> LossFn:
  """The NPO loss of the published code: one term, of a batch's mean nll.

  Its slope is the same for every answer of the batch, forgotten or not, so
  that with Adam it is nearly gradient ascent.
  """

  def npo_loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    nll = descend(forward, params, None, batch)
    ref_nll = descend(forward, ref_params, None, batch)
    return losses.npo(nll, ref_nll, beta=beta)

  return npo_loss


NPO_PER = {
  'answer': (preference_against, num_answers),
  'batch': (batch_preference_against, None),  # published
}


@functools.cache
def counterfactual_ascent(margin: float, weight: float) -> LossFn:
  """Bounded ascent on the batch, and cross-entropy on the batch beside it.

  A token counts in the ascent by how much of it the reference could not have
  said, 1 - p_ref: so the facts are attacked, and not the language.

  Raises:
    ValueError: if the weight is not positive.
  """
  if not weight > 0:
    raise UserError(
      f'the weight of the ascent must be positive, got weight={weight}.'
    )

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> tuple[Scalar, Scalar]:
    targets, documents = batch['targets'], batch['documents']
    log_probs = losses.token_log_probs(forward(params, batch), targets)
    said = losses.token_log_probs(forward(ref_params, batch), targets)
    unsaid = 1 - jnp.exp(jax.lax.stop_gradient(said))
    nll, is_answer = losses.sum_by_answer(
      -log_probs * unsaid, batch['weights'], documents, batch['branches']
    )
    ascent = losses.bounded_ascent(nll, margin, is_answer)
    return weight * ascent, descend(forward, params, None, batch['beside'])

  return loss


def answers_and_weight_beside(batch: Batch) -> tuple[Scalar, Scalar]:
  """The denominators of the two terms of ``counterfactual_ascent``."""
  return num_answers(batch), answer_weight(batch['beside'])


def _descent(split: str) -> Turn:
  """A turn that learns a split."""
  return Turn(split, descend, measure=answer_weight)


def _ascent(every: int, alpha: float = 1.0) -> Turn:
  """A turn that unlearns the forget set."""
  loss = ascend_by(alpha)
  return Turn('forget', loss, every=every, measure=answer_weight)


def finetune(split: str = 'train') -> tuple[Turn, ...]:
  """Learn a split: makes the vanilla, reference and retrained models."""
  return (_descent(split),)


def ga(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient ascent on the forget set."""
  return (_ascent(forget_every),)


def ga_diff(forget_every: int = 1) -> tuple[Turn, ...]:
  """Gradient difference: ascent on forget, then descent on retain.

  References:
    Liu et al., Continual Learning and Private Unlearning, 2022
    (https://arxiv.org/abs/2203.12817).
  """
  return _ascent(forget_every), _descent('retain')


def kl_min(forget_every: int = 1, kl_over: str = 'answers') -> tuple[Turn, ...]:
  """Ascent on forget, then descent on retain held to the reference by KL.

  Args:
    forget_every: rounds between forget turns.
    kl_over: ``'answers'``: the mean over answer tokens. ``'rows'``: the sum
      over every position of a row, as published.

  References:
    Maini et al., TOFU, 2024 (https://arxiv.org/abs/2401.06121).
  """
  _check_choice('kl_over', kl_over, KL_OVER)
  loss, measure = KL_OVER[kl_over]
  near = Turn('retain', loss, needs_reference=True, measure=measure)
  return _ascent(forget_every), near


def npo(
  forget_every: int = 1, beta: float = 0.1, per: str = 'answer'
) -> tuple[Turn, ...]:
  """Negative preference optimization on the forget set.

  Args:
    forget_every: rounds between forget turns.
    beta: inverse temperature; 0.1 per answer, 0.4 per batch are usual.
    per: ``'answer'``: a term for each answer, of its summed nll. ``'batch'``:
      one of the batch's mean nll per token, as published.

  References:
    Zhang et al., 2024 (https://arxiv.org/abs/2404.05868).
  """
  _check_choice('per', per, NPO_PER)
  make_loss, measure = NPO_PER[per]
  turn = Turn('forget', make_loss(beta), every=forget_every, measure=measure)
  return (turn._replace(needs_reference=True),)


def npo_retain(
  forget_every: int = 1, beta: float = 0.1, per: str = 'answer'
) -> tuple[Turn, ...]:
  """NPO on forget, then descent on retain."""
  return npo(forget_every, beta, per) + (_descent('retain'),)


def mmunlearner(forget_every: int = 1, alpha: float = 1.0) -> tuple[Turn, ...]:
  """Masked ascent on forget, then descent on retain that may move any weight.

  The paper's scope of protection: the mask acts on the forget turn alone.

  Args:
    forget_every: rounds between forget turns.
    alpha: weight of the ascent, > 0; see ``ascend_by``.

  References:
    Huo et al., MMUnlearner, 2025 (https://arxiv.org/abs/2502.11051).
  """
  return (
    _ascent(forget_every, alpha)._replace(masked=True),
    _descent('retain'),
  )


def mmunlearner_strict(
  forget_every: int = 1, alpha: float = 1.0
) -> tuple[Turn, ...]:
  """MMUnlearner whose mask acts on every turn.

  A weight outside the mask is bit for bit the vanilla weight at the end.
  """
  forget, retain = mmunlearner(forget_every, alpha)
  return forget, retain._replace(masked=True)


def mmunlearner_projected(
  forget_every: int = 1, alpha: float = 1.0
) -> tuple[Turn, ...]:
  """MMUnlearner whose ascent does not work against the retain gradient.

  References:
    Geometric-Disentanglement Unlearning, 2025
    (https://arxiv.org/abs/2511.17100).
  """
  forget, retain = mmunlearner(forget_every, alpha)
  return forget._replace(project='retain'), retain


def counterfactual(
  forget_every: int = 1, margin: float = 12.0, weight: float = 0.3
) -> tuple[Turn, ...]:
  """One turn: forget the answers up to a margin, and learn what stays.

  The retain stream also holds the pictures to forget, with answers of somebody
  else (a ``teacher``), so that the forgotten has a place to go.

  Args:
    forget_every: rounds between turns.
    margin: nll > 0 in nats from which an answer counts as forgotten.
    weight: weight of the ascent beside the cross-entropy, > 0.

  References:
    Relabelling: Eldan and Russinovich, Who's Harry Potter?, 2023
    (https://arxiv.org/abs/2310.02238).
  """
  return (
    Turn(
      'forget',
      counterfactual_ascent(margin, weight),
      every=forget_every,
      needs_reference=True,
      measure=answers_and_weight_beside,
      beside='retain',
    ),
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
    counterfactual,
  )
}


def make(name: str, **options: Any) -> tuple[Turn, ...]:
  """Returns the turns of a method by name.

  Args:
    name: a key of ``METHODS``.
    **options: keyword arguments of the method, for example ``forget_every=2``.

  Raises:
    ValueError: if the name or an option is unknown; lists the known ones.

  Example:
    >>> [turn.split for turn in make('ga_diff', forget_every=3)]
    ['forget', 'retain']
  """
  if name not in METHODS:
    raise UserError(
      f'unknown method {name!r}; known: {", ".join(METHODS)}. A new one is '
      'a function that returns turns, added to METHODS.'
    )
  method = METHODS[name]
  try:
    inspect.signature(method).bind(**options)
  except TypeError as error:
    raise UserError(
      f'method {name!r} does not take these options: {error}; it takes '
      f'{", ".join(inspect.signature(method).parameters)}.'
    ) from error
  return method(**options)


def _check_choice(name: str, value: str, known: Iterable[str]) -> None:
  """Raises ValueError unless an option has a known value."""
  if value not in known:
    raise UserError(f'{name} is one of {", ".join(known)}; got {value!r}.')
