"""The losses of unlearning: arrays in, arrays out, all reductions in float32.

Every loss takes the weights ``[B, L]`` that say which predictions count, and
divides by their sum, so padding, prompts and image tokens weigh nothing.
"""

import chex
import jax
import jax.numpy as jnp

from mmu_jax.errors import UserError


def token_log_probs(logits: jax.Array, targets: jax.Array) -> jax.Array:
  """Returns log p(target) at every position.

  Args:
    logits: ``[B, L, V]``, any float dtype.
    targets: ``[B, L]`` int, the token to predict at each position.

  Returns:
    ``[B, L]`` float32, <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> token_log_probs(jnp.zeros((1, 1, 4)), jnp.array([[2]])).round(4)
    Array([[-1.3863]], dtype=float32)
  """
  chex.assert_rank([logits, targets], [3, 2])
  chex.assert_equal_shape_prefix([logits, targets], 2)
  logits = logits.astype(jnp.float32)
  chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return chosen - jax.nn.logsumexp(logits, axis=-1)


def nll(logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
  r"""Cross-entropy: the mean negative log-likelihood of the target tokens.

  .. math:: L = - \frac{\sum_{bl} w_{bl} \log p(y_{bl})}{\sum_{bl} w_{bl}}

  Args:
    logits: ``[B, L, V]``.
    targets: ``[B, L]`` int.
    weights: ``[B, L]`` >= 0.

  Returns:
    A float32 scalar in nats per token, >= 0; 0 where all weights are 0.

  Example:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([[1., 0.]])
    >>> nll(jnp.zeros((1, 2, 4)), jnp.array([[2, 3]]), w).round(4)
    Array(1.3863, dtype=float32)
  """
  return _weighted_mean(-token_log_probs(logits, targets), weights)


def sum_by_answer(
  values: jax.Array,
  weights: jax.Array,
  documents: jax.Array,
  branches: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Sums per-token values over every answer of a batch.

  A packed row holds several answers, one for each (document, branch).

  Args:
    values: ``[B, L]``.
    weights: ``[B, L]`` >= 0; a token counts where it is positive.
    documents: ``[B, L]`` int, see ``typing.Batch``.
    branches: ``[B, L]`` int.

  Returns:
    ``[B, L]`` float32, an entry for each answer of the row, in their order,
    among entries that stand for none; and ``[B, L]`` bool, which are answers.

  Example:
    >>> import jax.numpy as jnp
    >>> ones = jnp.ones((1, 3))
    >>> total, real = sum_by_answer(ones, ones, ones, jnp.array([[1, 2, 2]]))
    >>> total[real]
    Array([1., 2.], dtype=float32)
  """
  chex.assert_equal_shape([values, weights, documents, branches])
  counted = weights > 0
  changed = (jnp.diff(documents, axis=1) != 0) | (
    jnp.diff(branches, axis=1) != 0
  )
  length = values.shape[1]
  changed = jnp.pad(changed, ((0, 0), (1, 0)))[:, :length]  # L may be 0
  answer = jnp.cumsum(changed, axis=1)  # [B, L]
  add = jax.vmap(lambda x, i: jax.ops.segment_sum(x, i, num_segments=length))
  total = add(jnp.where(counted, values, 0).astype(jnp.float32), answer)
  return total, add(counted.astype(jnp.int32), answer) > 0


def kl_divergence(
  logits: jax.Array, ref_logits: jax.Array, weights: jax.Array
) -> jax.Array:
  r"""KL(p_ref || p_theta), the mean over the positions that count.

  It holds a model to a reference on the retain set: where the two agree the
  gradient is zero but for rounding, below 2e-7 of a position's weight. The
  published code sums over every position, padding included, and divides by B
  alone; here the weights choose.

  .. math:: \frac{1}{\sum w} \sum_{bl} w_{bl} \sum_v p_{ref}
            (\log p_{ref} - \log p_\theta)

  Args:
    logits: ``[B, L, V]`` of the trained model.
    ref_logits: ``[B, L, V]`` of the frozen reference; no gradient flows.
    weights: ``[B, L]`` >= 0.

  Returns:
    A float32 scalar in nats per token, >= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> x = jnp.array([[[0., 1., 2.]]])
    >>> float(kl_divergence(x, x, jnp.ones((1, 1))))
    0.0

  References:
    Maini et al., TOFU: A Task of Fictitious Unlearning for LLMs, 2024
    (https://arxiv.org/abs/2401.06121), section 4.
  """
  chex.assert_equal_shape([logits, ref_logits])
  ref_logits = jax.lax.stop_gradient(ref_logits).astype(jnp.float32)
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  log_ref = jax.nn.log_softmax(ref_logits)
  kl = jnp.sum(jnp.exp(log_ref) * (log_ref - log_p), axis=-1)  # [B, L]
  return _weighted_mean(kl, weights)


def npo(
  nll_theta: jax.Array,
  nll_ref: jax.Array,
  *,
  beta: float,
  where: jax.Array | None = None,
) -> jax.Array:
  r"""Negative preference optimization: an ascent that fades as it forgets.

  .. math:: L = \frac{2}{\beta} \, \mathrm{mean} \, \log (1 + (p_\theta /
            p_{ref})^\beta) = - \frac{2}{\beta} \, \mathrm{mean} \,
            \log \sigma(\beta (\mathrm{nll}_\theta - \mathrm{nll}_{ref}))

  At theta = theta_ref it has the gradient of ``-nll_theta``: gradient ascent.
  For beta -> 0 it is gradient ascent everywhere.

  Args:
    nll_theta: negative log-likelihood of each answer, any shape, in nats:
      summed over its tokens (the paper) or their mean (the MMUnlearner code).
    nll_ref: nll_theta under the frozen reference; no gradient flows.
    beta: inverse temperature > 0; 0.1 with summed, 0.4 with mean nll.
    where: weights >= 0 of the same shape, or bool: 0 or False for no answer;
      None for all alike.

  Returns:
    A float32 scalar, > 0.

  Raises:
    ValueError: if beta is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> one = jnp.ones(3)
    >>> print(round(float(npo(one, one, beta=0.1)), 3))  # 2 / 0.1 * log 2
    13.863

  References:
    Zhang et al., Negative Preference Optimization: From Catastrophic Collapse
    to Effective Unlearning, 2024 (https://arxiv.org/abs/2404.05868).
  """
  if beta <= 0:
    raise UserError(
      f'npo needs beta > 0, got {beta}; 0.1 is usual for summed nll, 0.4 '
      'for mean nll.'
    )
  chex.assert_equal_shape([nll_theta, nll_ref])
  nll_ref = jax.lax.stop_gradient(nll_ref)
  return _preference(nll_theta - nll_ref, beta, where)


def simple_npo(
  nll_per_token: jax.Array,
  *,
  beta: float,
  gamma: float = 0.0,
  where: jax.Array | None = None,
) -> jax.Array:
  r"""NPO without a reference: the nll per token stands for the difference.

  .. math:: L = - \frac{2}{\beta} \, \mathrm{mean} \, \log \sigma(\beta \,
            \mathrm{nll} - \gamma)

  Args:
    nll_per_token: mean negative log-likelihood of the tokens of each answer,
      any shape, in nats.
    beta: inverse temperature > 0, as 2.5.
    gamma: margin that an answer must exceed, in units of beta nll.
    where: weights >= 0 of the same shape, or bool: 0 or False for no answer;
      None for all alike.

  Returns:
    A float32 scalar, > 0.

  Raises:
    ValueError: if beta is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> print(round(float(simple_npo(jnp.zeros(3), beta=2.5)), 3))  # .8 log 2
    0.555

  References:
    Fan et al., Simplicity Prevails: Rethinking Negative Preference
    Optimization for LLM Unlearning, 2024 (https://arxiv.org/abs/2410.07163).
  """
  if not beta > 0:
    raise UserError(f'simnpo needs beta > 0, got {beta}; 2.5 is usual.')
  return _preference(nll_per_token, beta, where, gamma)


def direct_preference(
  better: jax.Array,
  worse: jax.Array,
  *,
  beta: float,
  where: jax.Array | None = None,
) -> jax.Array:
  r"""Direct preference optimization of one answer over another.

  .. math:: L = - \frac{2}{\beta} \, \mathrm{mean} \, \log \sigma(\beta (a_w -
            a_l)), \quad a = \log p_\theta - \log p_{ref}

  Args:
    better: log-likelihood of each preferred answer over the reference's, any
      shape, in nats.
    worse: the same of the other answer to the same question.
    beta: inverse temperature > 0, as 0.1.
    where: weights >= 0 of the same shape, or bool: 0 or False for no answer;
      None for all alike.

  Returns:
    A float32 scalar, > 0; 2 / beta log 2 at the reference.

  Raises:
    ValueError: if beta is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> zero = jnp.zeros(3)
    >>> print(round(float(direct_preference(zero, zero, beta=0.1)), 3))
    13.863

  The factor 2 / beta, which the paper has not, gives the gradient the size of
  NPO's.

  References:
    Rafailov et al., Direct Preference Optimization, 2023
    (https://arxiv.org/abs/2305.18290).
  """
  if not beta > 0:
    raise UserError(f'dpo needs beta > 0, got {beta}; 0.1 is usual.')
  chex.assert_equal_shape([better, worse])
  return _preference(better - worse, beta, where)


def logit_margin(
  logits: jax.Array, targets: jax.Array, weights: jax.Array
) -> jax.Array:
  r"""Mean log odds of the target tokens, against all others together.

  .. math:: \frac{1}{\sum w} \sum_{bl} w_{bl} (z_y - \log \sum_{v \ne y}
            e^{z_v})

  Its gradient stays large on answers that are known by heart, where the one of
  the cross-entropy vanishes: an importance of what a model must keep can be
  measured on it.

  Args:
    logits: ``[B, L, V]``.
    targets: ``[B, L]`` int.
    weights: ``[B, L]`` >= 0.

  Returns:
    A float32 scalar in nats per token.

  Example:
    >>> import jax.numpy as jnp
    >>> w = jnp.array([[1.]])
    >>> logit_margin(jnp.zeros((1, 1, 4)), jnp.array([[2]]), w).round(4)
    Array(-1.0986, dtype=float32)
  """
  logits = logits.astype(jnp.float32)
  chosen = jax.nn.one_hot(targets, logits.shape[-1], dtype=bool)
  others = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
  target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  return _weighted_mean(target - others, weights)


def bounded_ascent(
  nll: jax.Array, margin: float, where: jax.Array | None = None
) -> jax.Array:
  r"""How much is missing until answers are forgotten; then nothing more.

  .. math:: L = \mathrm{mean} \, \max(0, m - \mathrm{nll}) / m

  Below the margin its gradient is the one of gradient ascent, over m; from the
  margin on it is zero, so that the ascent ends and does not collapse.

  Args:
    nll: negative log-likelihood of each answer, any shape, in nats.
    margin: m > 0 in nats, where an answer counts as forgotten.
    where: weights >= 0 of the same shape, or bool: 0 or False for no answer;
      None for all alike.

  Returns:
    A float32 scalar in [0, 1] for nll >= 0.

  Raises:
    ValueError: if the margin is not positive.

  Example:
    >>> import jax.numpy as jnp
    >>> float(bounded_ascent(jnp.array([0.0, 6.0, 50.0]), 12.0))
    0.5
  """
  if not margin > 0:  # nan too
    raise UserError(
      f'bounded ascent needs a margin > 0 nats, got {margin}; an answer is '
      'forgotten where its nll is above it, as 12.'
    )
  where = jnp.ones(nll.shape) if where is None else where
  missing = jax.nn.relu(margin - nll.astype(jnp.float32)) / margin
  return _weighted_mean(missing, where)


def _preference(
  x: jax.Array, beta: float, where: jax.Array | None, gamma: float = 0.0
) -> jax.Array:
  """The mean of -2 / beta log sigma(beta x - gamma), a loss that fades."""
  where = jnp.ones(x.shape) if where is None else where
  fading = jax.nn.log_sigmoid(beta * x.astype(jnp.float32) - gamma)
  return _weighted_mean(-2 / beta * fading, where)


def _weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
  """Mean of values under weights of their shape; 0 if all weights are 0."""
  weights = weights.astype(jnp.float32)
  total = jnp.sum(weights)
  return jnp.sum(values * weights) / jnp.where(total > 0, total, 1)
