"""Greedy decoding, and likelihoods of given answers: batches in, arrays out."""

from collections.abc import Iterator, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmu_jax import losses
from mmu_jax import objectives
from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.models import Model
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Params


class NotFinite(FloatingPointError):
  """Raised for logits that are NaN or infinite: no answer follows from them.

  Attributes:
    places: rows of the batch; and numbers in them, of prompts or answers.
  """

  def __init__(self, bad: np.ndarray):
    """Takes a bool for each row, ``[B]``, or for each of its parts."""
    self.places = np.argwhere(bad).tolist()
    rows = sorted({row for row, *_ in self.places})
    super().__init__(f'the logits of the rows {rows} are not finite')


def greedy(
  params: Params,
  batch: Batch,
  *,
  model: Model,
  max_new_tokens: int,
  stop_ids: Sequence[int],
  repetition_penalty: float = 1.0,
  prompts: int | None = None,
) -> jax.Array:
  """Continues prompts with the likeliest token, again and again.

  The prompts are read once and their keys and values kept; then all go on
  together, and the loop ends when each has produced a stop token. A row may
  hold several prompts, packed as branches of one document: the tokens that they
  share, a picture most of all, are read once and kept once.

  Args:
    params: parameters of the model.
    batch: prompts ``[B, L]``, one document a row, padded on either side; their
      targets and weights are not read.
    model: model from ``models.build`` or ``models.load``.
    max_new_tokens: T, the most tokens of an answer.
    stop_ids: tokens that end an answer, at least one.
    repetition_penalty: number > 0 that makes tokens less likely which stand in
      the prompt, image placeholders too, or in the answer so far: a positive
      logit is divided by it, a negative one multiplied. 1 for none.
    prompts: Q, the most prompts of a row; None for rows of one.

  Returns:
    ``[B, Q, T]`` int32 new tokens, or ``[B, T]`` for rows of one; from the stop
    token on, ``stop_ids[0]``. Where logits are not finite no token is the
    likeliest: there stands -1.

  Raises:
    ValueError: if there is no stop token, or none may be generated.
  """
  if not stop_ids or max_new_tokens < 1:
    raise UserError(
      'greedy needs a stop token and room for one new token; got stop_ids='
      f'{stop_ids}, max_new_tokens={max_new_tokens}.'
    )
  # The functions are static and not the model, whose parameters would stay.
  out = _greedy(
    params,
    batch,
    prefill=model.prefill,
    extend=model.extend,
    max_new_tokens=max_new_tokens,
    stop_ids=tuple(stop_ids),
    repetition_penalty=repetition_penalty,
    prompts=prompts or 1,
  )
  return out[:, 0] if prompts is None else out


_NONE = -1  # the token that logits give which are not finite


@functools.partial(
  jax.jit,
  static_argnames=(
    'prefill',
    'extend',
    'max_new_tokens',
    'stop_ids',
    'repetition_penalty',
    'prompts',
  ),
)
def _greedy(
  params,
  batch,
  *,
  prefill,
  extend,
  max_new_tokens,
  stop_ids,
  repetition_penalty,
  prompts,
):
  """The jitted part of ``greedy``."""
  # 1. Read the rows [B, L] once; the cache has room for T more tokens of each
  #    of Q prompts.
  # 2. Slots of the cache: the row in 0..L-1, new token t of prompt q in
  #    L + t Q + q. Positions go on behind the last one that a prompt sees.
  # 3. Feed the Q new tokens of a row back until every prompt has stopped; one
  #    that has stopped, or is padding, repeats the stop token.
  rows, length = batch['documents'].shape
  seen_by, at = _prompts(batch, prompts)  # [B, Q, L], [B, Q]
  used = jnp.where(seen_by, _latest(batch['positions'])[:, None], -1)
  first_new = jnp.max(used, axis=-1) + 1  # [B, Q] position of first new tokens
  size = length + max_new_tokens * prompts
  logits, cache = prefill(params, batch, jnp.maximum(at, 0), size)
  prompt = jnp.pad(seen_by, ((0, 0), (0, 0), (0, size - length)))
  new = jnp.arange(size) - length  # number of each slot behind the row
  own = new % prompts == jnp.arange(prompts)[:, None]  # [Q, S]
  stops = jnp.asarray(stop_ids, jnp.int32)

  penalize, seen = _repetition(repetition_penalty, batch, seen_by, logits)

  def write(t, out, logits, done, seen):
    finite = jnp.all(jnp.isfinite(logits), axis=-1)
    token = jnp.argmax(penalize(logits, seen), axis=-1).astype(jnp.int32)
    token = jnp.where(finite, token, _NONE)
    token = jnp.where(done, stops[0], token)
    ended = jnp.isin(token, stops) | (token == _NONE)
    seen = _add(seen, token[..., None])
    return token, out.at[..., t].set(token), done | ended, seen

  def unfinished(carry):
    t, _, _, done, _, _ = carry
    return (t < max_new_tokens) & ~jnp.all(done)

  def step(carry):
    t, token, out, done, seen, cache = carry
    visible = prompt | (own & (new >= 0) & (new < t * prompts))
    slot = length + (t - 1) * prompts
    # A stop token may be none of the model's, whose embedding is NaN: the row's
    # other prompts do not see it, but 0 x NaN would reach them.
    fed = jnp.where(done, 0, token)
    logits, cache = extend(params, fed, first_new + t - 1, visible, slot, cache)
    token, out, done, seen = write(t, out, logits, done, seen)
    return t + 1, token, out, done, seen, cache

  out = jnp.full((rows, prompts, max_new_tokens), stops[0], jnp.int32)
  done = at < 0  # padding
  token, out, done, seen = write(0, out, logits, done, seen)
  carry = (jnp.int32(1), token, out, done, seen, cache)
  out = jax.lax.while_loop(unfinished, step, carry)[2]
  return sharding.replicate(out)  # every process reads all answers


def _prompts(batch: Batch, number: int) -> tuple[jax.Array, jax.Array]:
  """Which tokens ``[B, Q, L]`` each prompt of a row sees, and where it ends.

  A document without branches is one prompt; of one with branches each is one,
  behind the tokens that they share. The place ``[B, Q]`` of the last token is
  -1 where a row has fewer prompts.
  """
  real, branches = batch['documents'] > 0, batch['branches']
  single = ~jnp.any(branches > 0, axis=1, keepdims=True)
  of = jnp.where(real, branches + single, -1)[:, None]  # [B, 1, L]
  mine = of == jnp.arange(1, number + 1)[:, None]  # [B, Q, L]
  place = jnp.arange(real.shape[1])
  at = jnp.max(jnp.where(mine, place, -1), axis=-1)
  return (mine | (of == 0)) & (at >= 0)[..., None], at


@functools.partial(jax.jit, static_argnames=('prefill', 'repetition_penalty'))
def first_logits(
  params: Params, batch: Batch, *, prefill: Any, repetition_penalty: float
) -> jax.Array:
  """Returns the logits ``[B, V]`` of which ``greedy`` takes its first token."""
  seen_by, at = _prompts(batch, 1)
  logits, _ = prefill(params, batch, jnp.maximum(at, 0), seen_by.shape[-1])
  penalize, seen = _repetition(repetition_penalty, batch, seen_by, logits)
  return sharding.replicate(penalize(logits, seen)[:, 0])


def _repetition(penalty, batch, seen_by, logits):
  """A function that lowers the logits of seen tokens, and the prompts' tokens.

  Tokens are marked in ``[B, Q, V]`` bool; in ``[B, Q, 0]`` where nothing is
  lowered.
  """
  size = logits.shape[-1]
  if penalty == 1:
    return lambda logits, seen: logits, jnp.zeros((*logits.shape[:-1], 0), bool)
  tokens = jnp.where(seen_by, batch['tokens'][:, None], size)

  def penalize(logits, seen):
    logits = logits.astype(jnp.float32)
    lower = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, lower, logits)

  return penalize, _add(jnp.zeros(logits.shape, bool), tokens)


def _add(seen, tokens):
  """Marks tokens ``[B, Q, n]``; those beyond the width are none."""
  rows, prompts, width = seen.shape
  at = jnp.arange(rows)[:, None, None], jnp.arange(prompts)[:, None]
  tokens = jnp.where(tokens < 0, width, tokens)
  return seen.at[(*at, tokens)].set(True, mode='drop')


def _latest(positions: jax.Array) -> jax.Array:
  """The position ``[B, L]`` after which text goes on: the largest of three."""
  return positions if positions.ndim == 2 else jnp.max(positions, axis=-1)


def generate(
  model: Model,
  params: Params,
  rows: Sequence[Row],
  encoder: batching.Encoder,
  *,
  max_new_tokens: int,
  size: int,
) -> list[str]:
  """Returns the model's answer to every row's question, as text.

  Args:
    model: model from ``models.build``.
    params: parameters of the model.
    rows: questions, with pictures and without.
    encoder: encoder of the questions.
    max_new_tokens: longest answer.
    size: B, questions a batch.

  Returns:
    One answer for each row, without special tokens.
  """
  answers = []
  for batch in prompt_batches(rows, encoder, size=size):
    answers += answer_texts(
      model, params, batch, encoder.processor, max_new_tokens=max_new_tokens
    )
  return [answer for (answer,) in answers[: len(rows)]]


def answer_texts(
  model: Model,
  params: Params,
  batch: Batch,
  processor: Processor,
  *,
  max_new_tokens: int,
  prompts: int = 1,
) -> list[list[str]]:
  """Returns the model's answer to every prompt of a batch.

  Args:
    model: model from ``models.build``.
    params: parameters of the model.
    batch: rows ``[B, L]``, a prompt each, or several as branches.
    processor: tokenizer and images of the model.
    max_new_tokens: longest answer.
    prompts: Q, the most prompts of a row.

  Returns:
    Q answers for each of B rows, without special tokens or space around them.

  Raises:
    NotFinite: if logits are not finite.
  """
  out = greedy(
    params,
    batch,
    model=model,
    max_new_tokens=max_new_tokens,
    stop_ids=processor.stop_ids,
    repetition_penalty=processor.repetition_penalty,
    prompts=prompts,
  )
  tokens = np.asarray(out)
  if (tokens == _NONE).any():
    raise NotFinite((tokens == _NONE).any(axis=-1))
  decode = functools.partial(
    processor.tokenizer.batch_decode, skip_special_tokens=True
  )
  return [[text.strip() for text in decode(row)] for row in tokens]


def prompt_batches(
  rows: Sequence[Row],
  encoder: batching.Encoder,
  *,
  size: int,
  padding: str = 'right',
) -> Iterator[Batch]:
  """Yields batches of the prompts alone, one a row, of one static shape.

  Args:
    rows: questions, with pictures and without.
    encoder: encoder of the questions.
    size: B; the last batch is padded with empty rows.
    padding: ``'right'`` or ``'left'``, the side where short prompts are
      padded.
  """
  prompts = [processing.prompt_of(encoder.example(row)) for row in rows]
  sequences = [[encoder.document([prompt])] for prompt in prompts]
  return batching.stack(sequences, encoder, size=size, padding=padding)


@functools.partial(jax.jit, static_argnames='forward')
def answer_scores(
  params: Params, batch: Batch, *, forward: Forward
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Scores the given answers of a batch without decoding.

  Args:
    params: parameters of the model.
    batch: rows with their answers, packed or plain.
    forward: forward pass of the model.

  Returns:
    Three arrays ``[B, K]``: the nll of every answer in nats; whether greedy
    decoding would give exactly this answer (each of its tokens is the
    likeliest); and which entries are answers.
  """
  logits = objectives.answer_logits(forward, params, batch)
  here = objectives.counted(batch)
  targets = here['targets']
  answers = here['weights'], here['documents'], here['branches']
  log_probs = losses.token_log_probs(logits, targets)
  nll, is_answer = losses.sum_by_answer(-log_probs, *answers)
  wrong = jnp.argmax(logits, axis=-1) != targets
  num_wrong, _ = losses.sum_by_answer(wrong, *answers)
  return sharding.replicate((nll, (num_wrong == 0) & is_answer, is_answer))


def exact_share(
  params: Params, batches: Sequence[Batch], *, forward: Forward
) -> float:
  """Returns the share of answers in the batches that greedy decoding gives.

  Raises:
    NotFinite: if a likelihood is not finite.
  """
  right = total = 0
  for batch in batches:
    nll, exact, is_answer = answer_scores(params, batch, forward=forward)
    _check_finite(nll, is_answer)
    right += int(exact.sum())
    total += int(is_answer.sum())
  return right / total


def answer_nll(model: Model, params: Params, batch: Batch) -> list[np.ndarray]:
  """Returns the nll of the answers in every row of a batch, nats, in order.

  Raises:
    NotFinite: if a likelihood is not finite.
  """
  nll, _, is_answer = answer_scores(params, batch, forward=model.forward)
  nll, is_answer = _check_finite(nll, is_answer)
  return [x[real] for x, real in zip(nll, is_answer)]


def _check_finite(nll, is_answer) -> tuple[np.ndarray, np.ndarray]:
  """Both arrays on the host; raises if the nll of an answer is not finite."""
  nll, is_answer = np.asarray(nll), np.asarray(is_answer)
  bad = ~np.isfinite(nll) & is_answer
  if bad.any():
    raise NotFinite(bad)
  return nll, is_answer
