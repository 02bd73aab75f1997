"""Objectives: the losses of a model that turns descend.

An objective is ``(forward, params, ref_params, batch) -> scalar``, or several
scalars that add up. It is defined once at module level or made by a cached
function, so that equal turns are equal objects and compile once. Beside each
stands its measure, the denominator of its mean: with it a batch may be cut into
micro-batches.
"""

import functools

import jax
import jax.numpy as jnp

from mmu_jax import losses
from mmu_jax.errors import UserError
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import LossFn
from mmu_jax.typing import Params
from mmu_jax.typing import Scalar


def answer_logits(forward: Forward, params: Params, batch: Batch) -> jax.Array:
  """Returns logits ``[B, K, V]`` where predictions count: see ``counted``.

  At 7B the logits of every position, in float32, are as large as a layer's
  activations or larger, and most are of a prompt or an image.
  """
  if 'counted' not in batch:
    return forward(params, batch)
  return forward(params, batch, at=jnp.maximum(batch['counted'], 0))


def counted(batch: Batch) -> Batch:
  """Returns targets, weights, documents and branches where they count.

  Args:
    batch: batch, with its entry ``counted`` or without it.

  Returns:
    The four entries, ``[B, K]``; 0 behind the last position that counts.
    Without ``counted`` all positions, ``[B, L]``.
  """
  names = ('targets', 'weights', 'documents', 'branches')
  if 'counted' not in batch:
    return {name: batch[name] for name in names}
  real, at = batch['counted'] >= 0, jnp.maximum(batch['counted'], 0)
  pick = lambda x: jnp.where(real, jnp.take_along_axis(x, at, axis=1), 0)
  return {name: pick(batch[name]) for name in names}


def answer_weight(batch: Batch) -> Scalar:
  """The weight of all answer tokens: the denominator of a cross-entropy."""
  return jnp.sum(batch['weights'].astype(jnp.float32))


def num_answers(batch: Batch) -> Scalar:
  """The answers of a batch, each by its weight: the denominator of NPO."""
  return jnp.sum(_by_answer(counted(batch)['weights'], batch)[1])


def descend(
  forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Cross-entropy: learn the answers of the batch."""
  del ref_params
  here = counted(batch)
  logits = answer_logits(forward, params, batch)
  return losses.nll(logits, here['targets'], here['weights'])


def ascend(
  forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Minus the cross-entropy: unlearn the answers of the batch."""
  return -descend(forward, params, ref_params, batch)


def log_odds(
  forward: Forward, params: Params, ref_params: Params, batch: Batch
) -> Scalar:
  """Log odds of the answers: importances of answers that are known by heart."""
  del ref_params
  here = counted(batch)
  logits = answer_logits(forward, params, batch)
  return losses.logit_margin(logits, here['targets'], here['weights'])


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
  here = counted(batch)
  logits = answer_logits(forward, params, batch)
  ref_logits = answer_logits(forward, ref_params, batch)
  nll = losses.nll(logits, here['targets'], here['weights'])
  return nll + losses.kl_divergence(logits, ref_logits, here['weights'])


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
  logits, ref_logits = forward(params, batch), forward(ref_params, batch)
  nll = losses.nll(logits, batch['targets'], weights)
  kl = losses.kl_divergence(logits, ref_logits, everywhere)
  return nll + weights.shape[1] * kl


KL_OVER = {
  'answers': (descend_near_reference, answer_weight),
  'rows': (descend_near_reference_everywhere, None),  # published
}


def _by_answer(values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Values ``[B, K]`` added up by answer, and the weight of each answer.

  The weight of an answer is the mean of its tokens' weights; 0 for no answer.
  """
  here = counted(batch)
  add = lambda x: losses.sum_by_answer(
    x, here['weights'], here['documents'], here['branches']
  )
  total, is_answer = add(values)
  weight, length = add(here['weights'])[0], add(jnp.ones_like(values))[0]
  return total, jnp.where(is_answer, weight / jnp.maximum(length, 1), 0)


def _log_probs(forward: Forward, params: Params, batch: Batch) -> jax.Array:
  """log p of every target token that counts, ``[B, K]``."""
  logits = answer_logits(forward, params, batch)
  return losses.token_log_probs(logits, counted(batch)['targets'])


@functools.cache
def preference_against(beta: float) -> LossFn:
  """The NPO loss over the answers of a batch, one term for each answer."""

  def npo_loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    nll, weights = _by_answer(-_log_probs(forward, params, batch), batch)
    ref_nll, _ = _by_answer(-_log_probs(forward, ref_params, batch), batch)
    return losses.npo(nll, ref_nll, beta=beta, where=weights)

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
def counterfactual_ascent(
  margin: float, weight: float, spared: float = 1.0
) -> LossFn:
  """Bounded ascent on the batch, and cross-entropy on the batch beside it.

  A token counts in the ascent by how much of it the reference could not have
  said, 1 - spared * p_ref: so the facts are attacked, and not the language.

  Raises:
    ValueError: if the weight is not positive, or spared is not in [0, 1].
  """
  if not 0 <= spared <= 1:
    raise UserError(
      f'spared is a share of a probability, from 0 to 1, got {spared}.'
    )
  if not weight > 0:
    raise UserError(
      f'the weight of the ascent must be positive, got weight={weight}.'
    )

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> tuple[Scalar, Scalar]:
    log_probs = _log_probs(forward, params, batch)
    said = jax.lax.stop_gradient(_log_probs(forward, ref_params, batch))
    nll, weights = _by_answer(-log_probs * (1 - spared * jnp.exp(said)), batch)
    ascent = losses.bounded_ascent(nll, margin, weights)
    return weight * ascent, descend(forward, params, None, batch['beside'])

  return loss


def answers_and_weight_beside(batch: Batch) -> tuple[Scalar, Scalar]:
  """The denominators of the two terms of ``counterfactual_ascent``."""
  return num_answers(batch), answer_weight(batch['beside'])


@functools.cache
def ascent_beside(alpha: float) -> LossFn:
  """Weighted ascent on the batch and descent on the one beside it."""
  ascent = ascend_by(alpha)

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> tuple[Scalar, Scalar]:
    kept = descend(forward, params, None, batch['beside'])
    return ascent(forward, params, ref_params, batch), kept

  return loss


def weights_beside(batch: Batch) -> tuple[Scalar, Scalar]:
  """The denominators of the two terms of ``ascent_beside``."""
  return answer_weight(batch), answer_weight(batch['beside'])


@functools.cache
def simple_preference_against(beta: float, gamma: float) -> LossFn:
  """The SimNPO loss over the answers of a batch."""

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    del ref_params
    log_probs = _log_probs(forward, params, batch)
    nll, weights = _by_answer(-log_probs, batch)
    length, _ = _by_answer(jnp.ones_like(log_probs), batch)
    nll = nll / jnp.maximum(length, 1)
    return losses.simple_npo(nll, beta=beta, gamma=gamma, where=weights)

  return loss


@functools.cache
def preference_for_beside(beta: float) -> LossFn:
  """DPO: the answers of the batch beside are better than the batch's own.

  The two hold the same questions in the same places.
  """

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    def gain(batch):
      ref = jax.lax.stop_gradient(_log_probs(forward, ref_params, batch))
      return _by_answer(_log_probs(forward, params, batch) - ref, batch)

    (worse, weights), (better, _) = gain(batch), gain(batch['beside'])
    # Answers come first in these arrays, and the longer one ends in nothing.
    n = min(worse.shape[1], better.shape[1])
    return losses.direct_preference(
      better[:, :n], worse[:, :n], beta=beta, where=weights[:, :n]
    )

  return loss


@functools.cache
def distil_without_answers(strength: float) -> LossFn:
  r"""Cross-entropy to the reference whose logits of the answers are lowered.

  .. math:: - \sum_v \mathrm{softmax}(z_{ref} - s e_y)_v \log p_\theta(v)

  Raises:
    ValueError: if the strength s is not positive.
  """
  if not strength > 0:
    raise UserError(
      f'the strength lowers a logit and must be positive, got {strength}.'
    )

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    here = counted(batch)
    logits = answer_logits(forward, params, batch)
    ref = jax.lax.stop_gradient(answer_logits(forward, ref_params, batch))
    ref = ref.astype(jnp.float32)
    lowered = strength * jax.nn.one_hot(here['targets'], ref.shape[-1])
    wanted = jax.nn.softmax(ref - lowered)
    each = -jnp.sum(wanted * jax.nn.log_softmax(logits.astype(jnp.float32)), -1)
    total = answer_weight(batch)
    weighed = jnp.sum(each * here['weights'].astype(jnp.float32))
    return weighed / jnp.where(total > 0, total, 1)

  return loss


@functools.cache
def ascend_where_known(power: float) -> LossFn:
  """Ascent on each answer, weighted by max(nll, 1)^-power: less once forgotten.

  Raises:
    ValueError: if the power is negative.
  """
  if not power >= 0:
    raise UserError(f'the power of the weights is >= 0, got {power}.')

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    del ref_params
    nll, weights = _by_answer(-_log_probs(forward, params, batch), batch)
    known = jnp.maximum(jax.lax.stop_gradient(nll), 1.0) ** -power
    count = jnp.sum(weights)
    total = jnp.sum(weights * known * nll)
    return -total / jnp.where(count > 0, count, 1)

  return loss


@functools.cache
def misdirect(layer: int, steering: float, weight: float) -> LossFn:
  """RMU: hidden states go to a random direction, and stay where they should.

  At one layer, every token of the batch is driven to one random direction, its
  length ``steering`` times the reference's; those of the batch beside are held
  to the reference. Distances are relative to the reference's squared length.

  Raises:
    ValueError: if steering or weight are not positive.
  """
  if not (steering > 0 and weight > 0):
    raise UserError(
      'steering and weight are positive; got '
      f'steering={steering}, weight={weight}.'
    )

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> tuple[Scalar, Scalar]:
    def distance(batch, target):
      hidden = forward(params, batch, layer=layer).astype(jnp.float32)
      ref = forward(ref_params, batch, layer=layer).astype(jnp.float32)
      ref = jax.lax.stop_gradient(ref)
      size = jnp.sum(jnp.square(ref), -1, keepdims=True)
      far = jnp.sum(jnp.square(hidden - target(ref, size)), -1)
      real = batch['documents'] > 0  # [B, L]
      far = jnp.where(real, far / jnp.maximum(size[..., 0], 1e-6), 0)
      return jnp.sum(far) / jnp.maximum(num_tokens(batch), 1)

    def away(ref, size):
      way = jax.random.normal(jax.random.key(0), ref.shape[-1:])
      return steering * jnp.sqrt(size) * way / jnp.linalg.norm(way)

    kept = weight * distance(batch['beside'], lambda ref, _: ref)
    return distance(batch, away), kept

  return loss


def num_tokens(batch: Batch) -> Scalar:
  """The number of tokens that are no padding."""
  return jnp.sum(batch['documents'] > 0).astype(jnp.float32)


def tokens_beside(batch: Batch) -> tuple[Scalar, Scalar]:
  """The denominators of the two terms of ``misdirect``."""
  return num_tokens(batch), num_tokens(batch['beside'])


@functools.cache
def descend_mirrored(scale: float) -> LossFn:
  r"""Cross-entropy of the parameters mirrored at the reference.

  .. math:: L(\theta_{ref} + (\theta_{ref} - \theta) / \alpha)

  While the mirrored parameters are finetuned, these go the opposite way: at
  every step they are the reference minus alpha times the task vector.

  Raises:
    ValueError: if alpha, the scale, is not positive.
  """
  if not scale > 0:
    raise UserError(
      f'the scale of a task vector must be positive, got scale={scale}; a '
      'negative one would learn the forget set.'
    )

  def loss(
    forward: Forward, params: Params, ref_params: Params, batch: Batch
  ) -> Scalar:
    mirrored = jax.tree.map(
      lambda p, ref: ref + (ref - p) / scale, params, ref_params
    )
    return descend(forward, mirrored, None, batch)

  return loss
