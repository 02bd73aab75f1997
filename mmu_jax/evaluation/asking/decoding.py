"""Greedy decoding, and likelihoods of given answers: batches in, arrays out.

Both come of one reading of a row: a picture that a prompt and a given answer
begin with alike is encoded once, and goes through the layers once.
"""

from collections.abc import Iterator, Sequence
import functools
from typing import Any, NamedTuple

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


class Scores(NamedTuple):
  """Likelihoods of given answers, each array ``[B, K]``.

  Attributes:
    nll: nats of every answer.
    exact: bool; greedy decoding would give exactly this answer, for each of its
      tokens is the likeliest.
    is_answer: bool; the entry is an answer.
  """

  nll: jax.Array
  exact: jax.Array
  is_answer: jax.Array


def greedy(params: Params, batch: Batch, **how: Any) -> jax.Array:
  """Continues prompts, one a row: new tokens ``[B, T]``.

  Args:
    params: parameters of the model.
    batch: prompts ``[B, L]``, padded on either side; nothing is scored.
    **how: keyword arguments of ``continue_and_score``.
  """
  batch = batch | {'counted': np.zeros((len(batch['tokens']), 0), np.int32)}
  out, _ = continue_and_score(params, batch, **how)
  assert out.shape[1] == 1, 'continue_and_score takes several prompts a row'
  return out[:, 0]


def continue_and_score(
  params: Params,
  batch: Batch,
  *,
  model: Model,
  max_new_tokens: int,
  stop_ids: Sequence[int],
  repetition_penalty: float = 1.0,
) -> tuple[jax.Array, Scores]:
  """Continues prompts greedily, and scores given answers in the same rows.

  The rows are read once and their keys and values kept. Then all prompts go on
  together with the likeliest token, again and again, until each has produced a
  stop token. Prompts and given answers of a row may be branches of one
  document, whose shared tokens, a picture most of all, are read and kept once.

  Args:
    params: parameters of the model.
    batch: rows ``[B, L]``, see ``together.pack_row``; without ``'prompts'``
      each row is one prompt, padded on either side.
    model: model from ``models.build`` or ``models.load``.
    max_new_tokens: T, the most tokens of an answer.
    stop_ids: tokens that end an answer, at least one.
    repetition_penalty: number > 0 that makes tokens less likely which stand in
      the prompt, image placeholders too, or in the answer so far: a positive
      logit is divided by it, a negative one multiplied. 1 for none.

  Returns:
    ``[B, Q, T]`` int32 new tokens; from the stop token on, ``stop_ids[0]``.
    Where logits are not finite no token is the likeliest: there stands -1. And
    the scores of the given answers.

  Raises:
    ValueError: if there is no stop token, or none may be generated.
  """
  if not stop_ids or max_new_tokens < 1:
    raise UserError(
      'an answer needs a stop token and room for one new token; got stop_ids='
      f'{stop_ids}, max_new_tokens={max_new_tokens}.'
    )
  # The functions are static and not the model, whose parameters would stay.
  return _continue_and_score(
    params,
    batch,
    prefill=model.prefill,
    extend=model.extend,
    max_new_tokens=max_new_tokens,
    stop_ids=tuple(stop_ids),
    repetition_penalty=repetition_penalty,
  )


_NONE = -1  # the token that logits give which are not finite


_STATIC = 'prefill extend max_new_tokens stop_ids repetition_penalty'.split()


@functools.partial(jax.jit, static_argnames=_STATIC)
def _continue_and_score(
  params,
  batch,
  *,
  prefill,
  extend,
  max_new_tokens,
  stop_ids,
  repetition_penalty,
):
  """The jitted part of ``continue_and_score``."""
  # 1. Read the rows [B, L] once; the cache has room for T more tokens of each
  #    of Q prompts.
  # 2. Slots of the cache: the row in 0..L-1, new token t of prompt q in
  #    L + t Q + q. Positions go on behind the last one that a prompt sees.
  # 3. Feed the Q new tokens of a row back until every prompt has stopped; one
  #    that has stopped, or is padding, repeats the stop token.
  rows, length = batch['documents'].shape
  seen_by, at = _prompts(batch)  # [B, Q, L], [B, Q]
  prompts = at.shape[1]
  used = jnp.where(seen_by, _latest(batch['positions'])[:, None], -1)
  first_new = jnp.max(used, axis=-1) + 1  # [B, Q] position of first new tokens
  size = length + max_new_tokens * prompts
  everywhere = jnp.broadcast_to(jnp.arange(length), (rows, length))
  read = jnp.concatenate([at, batch.get('counted', everywhere)], axis=1)
  logits, cache = prefill(params, batch, jnp.maximum(read, 0), size)
  scores = _scores(logits[:, prompts:], batch)
  logits = logits[:, :prompts]
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
  return sharding.replicate((out, scores))  # every process reads all answers


def _prompts(batch: Batch) -> tuple[jax.Array, jax.Array]:
  """Which tokens ``[B, Q, L]`` each prompt of a row sees, and where it ends.

  The place ``[B, Q]`` of its last token is -1 where a row has fewer prompts.
  """
  documents, branches = batch['documents'], batch['branches']
  place = jnp.arange(documents.shape[1])
  if 'prompts' in batch:
    at = batch['prompts']
  else:  # all that the row holds
    at = jnp.max(jnp.where(documents > 0, place, -1), axis=1, keepdims=True)
  last = jnp.maximum(at, 0)
  of = lambda x: jnp.take_along_axis(x, last, axis=1)[..., None]  # [B, Q, 1]
  shared = (branches == 0)[:, None]
  seen = shared | (branches[:, None] == of(branches))
  seen &= documents[:, None] == of(documents)
  return seen & (place <= at[..., None]), at


@functools.partial(jax.jit, static_argnames=('prefill', 'repetition_penalty'))
def first_logits(
  params: Params, batch: Batch, *, prefill: Any, repetition_penalty: float
) -> jax.Array:
  """Returns the logits ``[B, V]`` of which ``greedy`` takes its first token."""
  seen_by, at = _prompts(batch)
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
  texts = []
  for batch in prompt_batches(rows, encoder, size=size):
    tokens, _ = continue_and_score(
      params,
      batch,
      model=model,
      max_new_tokens=max_new_tokens,
      stop_ids=encoder.processor.stop_ids,
      repetition_penalty=encoder.processor.repetition_penalty,
    )
    texts += answer_texts(tokens, encoder.processor)
  return [text for (text,) in texts[: len(rows)]]


def answer_texts(tokens: jax.Array, processor: Processor) -> list[list[str]]:
  """Returns answers as text, without special tokens or space around them.

  Args:
    tokens: ``[B, Q, T]`` from ``continue_and_score``.
    processor: tokenizer of the model.

  Returns:
    Q answers for each of B rows.

  Raises:
    NotFinite: if logits were not finite.
  """
  tokens = np.asarray(tokens)
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
    padding: side where short prompts are padded, ``'right'`` or ``'left'``.
  """
  prompts = [processing.prompt_of(encoder.example(row)) for row in rows]
  sequences = [[encoder.document([prompt])] for prompt in prompts]
  return batching.stack(sequences, encoder, size=size, padding=padding)


@functools.partial(jax.jit, static_argnames='forward')
def answer_scores(params: Params, batch: Batch, *, forward: Forward) -> Scores:
  """Scores the given answers of a batch without decoding.

  Args:
    params: parameters of the model.
    batch: rows with their answers, packed or plain.
    forward: forward pass of the model.
  """
  logits = objectives.answer_logits(forward, params, batch)
  return sharding.replicate(_scores(logits, batch))


def _scores(logits: jax.Array, batch: Batch) -> Scores:
  """Scores of logits ``[B, K, V]`` where predictions count."""
  here = objectives.counted(batch)
  targets = here['targets']
  of = here['weights'], here['documents'], here['branches']
  log_probs = losses.token_log_probs(logits, targets)
  nll, is_answer = losses.sum_by_answer(-log_probs, *of)
  wrong = jnp.argmax(logits, axis=-1) != targets
  num_wrong, _ = losses.sum_by_answer(wrong, *of)
  return Scores(nll, (num_wrong == 0) & is_answer, is_answer)


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


def answer_nll(scores: Scores) -> list[np.ndarray]:
  """Returns the nll of the answers in every row of a batch, nats, in order.

  Raises:
    NotFinite: if a likelihood is not finite.
  """
  nll, is_answer = _check_finite(scores.nll, scores.is_answer)
  return [x[real] for x, real in zip(nll, is_answer)]


def _check_finite(nll, is_answer) -> tuple[np.ndarray, np.ndarray]:
  """Both arrays on the host; raises if the nll of an answer is not finite."""
  nll, is_answer = np.asarray(nll), np.asarray(is_answer)
  bad = ~np.isfinite(nll) & is_answer
  if bad.any():
    raise NotFinite(bad)
  return nll, is_answer
