"""One question to one model: its answer, and what else it might have said."""

from collections.abc import Sequence
import os
from typing import NamedTuple

import numpy as np

from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding.images import Image
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.encoding.processing import Example
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.asking.protocols import question as question_lib
from mmu_jax.models import Model
from mmu_jax.typing import Batch


class Reply(NamedTuple):
  """A text that a model may answer with.

  Attributes:
    text: reply without special tokens or space around them.
    probability: probability in [0, 1] of all its tokens, the end included.
    ended: whether the model ended it; otherwise it was cut off.
  """

  text: str
  probability: float
  ended: bool


def ask(
  model: Model,
  question: str,
  image: Image | str | os.PathLike | None = None,
  *,
  alternatives: int = 4,
  max_new_tokens: int = 64,
) -> list[Reply]:
  """Asks a question, by the chat template of the model and nothing more.

  The first reply is the answer, decoded greedily. The others are its
  alternatives: the next likeliest first tokens, each continued greedily. Other
  replies may be likelier, and an alternative may be likelier than the answer.
  Probabilities are the model's own, without a repetition penalty.

  Args:
    model: model with parameters and processor, from ``models.load`` or
      ``stages.load_run``; on a mesh if one is set.
    question: question, without the placeholder of a picture.
    image: RGB ``[height, width, 3]`` uint8, or the path of a file; None for a
      question in text.
    alternatives: number of alternatives, >= 0.
    max_new_tokens: longest reply, >= 1.

  Returns:
    The answer, and the alternatives by falling probability.

  Raises:
    ValueError: if there is no question, the model lacks something, the image
      cannot be read, or the prompt is longer than the model's context.
    FloatingPointError: if logits are not finite.
  """
  if model.params is None or model.processor is None:
    lacks = 'parameters' if model.params is None else 'tokenizer'
    raise UserError(
      f'the model has no {lacks}, and cannot be asked. Load it with '
      'models.load from a folder that has both.'
    )
  if not question.strip() or alternatives < 0 or max_new_tokens < 1:
    raise UserError(
      'ask takes a question, alternatives >= 0 and max_new_tokens >= 1; got '
      f'{question!r}, {alternatives} and {max_new_tokens}.'
    )
  encoder = batching.Encoder(model.processor)
  prompt = _prompt(question.strip(), image, model.processor)
  tasks.check_length(model, int(prompt.positions.max()) + 1 + max_new_tokens)
  said = _continuations(model, prompt, encoder, alternatives, max_new_tokens)
  batch = _batch([_extended(prompt, tokens) for tokens in said], encoder)
  scores = decoding.answer_scores(model.params, batch, forward=model.forward)
  nll = decoding.answer_nll(scores)[: len(said)]
  stops = model.processor.stop_ids
  texts = model.processor.tokenizer.batch_decode(said, skip_special_tokens=True)
  replies = [
    Reply(text.strip(), float(np.exp(-x[0])), tokens[-1] in stops)
    for text, tokens, x in zip(texts, said, nll, strict=True)
  ]
  return replies[:1] + sorted(replies[1:], key=lambda r: -r.probability)


def _prompt(question, image, processor) -> Example:
  """The question as tokens, behind its picture."""
  if isinstance(image, (str, os.PathLike)):
    image = LazyImage(image, str(image))
  pictures = () if image is None else (Picture('image', image),)
  row = Row('of the question', question, '', '', *pictures)
  turns = [question_lib.ChatTurn(question, pictures)]
  text, _ = question_lib.chat(turns, processor)
  return question_lib.encode_prompt(text, pictures, row, processor).example


def _continuations(model, prompt, encoder, alternatives, most):
  """The tokens of each reply, up to and with the end token if it ended."""
  stops = encoder.processor.stop_ids
  how = {'repetition_penalty': encoder.processor.repetition_penalty}
  logits = decoding.first_logits(
    model.params, _batch([prompt], encoder), prefill=model.prefill, **how
  )
  if not np.isfinite(logits[0]).all():
    raise decoding.NotFinite(np.array([True]))
  first = np.argsort(-np.asarray(logits[0]), kind='stable')[: alternatives + 1]
  begun = [token for token in first.tolist() if token not in stops]
  rest = {}
  if begun and most > 1:
    entries = [_extended(prompt, [token], False) for token in begun]
    more = decoding.greedy(
      model.params,
      _batch(entries, encoder),
      model=model,
      max_new_tokens=most - 1,
      stop_ids=stops,
      **how,
    )
    rest = dict(zip(begun, np.asarray(more).tolist()))
  whole = ([token, *rest.get(token, [])] for token in first.tolist())
  ends = lambda t: [i + 1 for i, token in enumerate(t) if token in stops]
  return [tokens[: (ends(tokens) or [None])[0]] for tokens in whole]


def _extended(
  prompt: Example, tokens: Sequence[int], label: bool = True
) -> Example:
  """A prompt with tokens behind it, as its answer or as more of the prompt."""
  after = int(prompt.positions.max()) + 1 + np.arange(len(tokens))
  if prompt.positions.ndim == 2:  # text goes on alike in time, row and column
    after = np.repeat(after[:, None], 3, axis=1)
  return prompt._replace(
    tokens=np.append(prompt.tokens, np.asarray(tokens, np.int32)),
    positions=np.concatenate([prompt.positions, after.astype(np.int32)]),
    labelled=np.append(prompt.labelled, [label] * len(tokens)),
  )


def _batch(examples: Sequence[Example], encoder: batching.Encoder) -> Batch:
  """A batch with a row for each, on the mesh that is set, if one is.

  A placeholder that the model itself said is a token like any other.
  """
  rows, size = [[encoder.document([x])] for x in examples], len(examples)
  for (document, _), example in zip((row[0] for row in rows), examples):
    document['image_slots'][example.prompt_length :] = -1
  (made,) = batching.stack(rows, encoder, size=size, share=sharding.share)
  return sharding.place_shared(made, size)
