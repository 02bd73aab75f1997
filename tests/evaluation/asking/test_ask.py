"""The answer is greedy decoding, and probabilities come from plain logits."""

import dataclasses
import functools

import jax
import numpy as np
import PIL.Image
import pytest
from small_worlds import TASKS

from mmu_jax import errors
from mmu_jax import evaluation
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processing
from mmu_jax.evaluation.asking import decoding

NEW = 3  # tokens of a reply, at most
pytestmark = pytest.mark.usefixtures('quick_compile')


@functools.cache
def _forward(model):
  return jax.jit(model.forward)


def _logits(model, params, encoder, row, more):
  """Logits behind a prompt and further tokens, by one plain forward."""
  prompt = processing.prompt_of(encoder.example(row))
  n, places = len(prompt.tokens), np.arange(len(prompt.tokens) + len(more))
  example = prompt._replace(
    tokens=np.append(prompt.tokens, np.asarray(more, np.int32)),
    positions=places.astype(np.int32),
    labelled=places >= n,
  )
  shape = encoder.pixel_shape(encoder.room(row.pictures))
  batch = encoder.batch([[encoder.document([example])]], 64, shape, 1)
  logits = np.asarray(_forward(model)(params, batch), np.float64)[0]
  return logits[n - 1 : n + len(more)]


def _log_softmax(logits):
  top = logits - logits.max()
  return top - np.log(np.exp(top).sum())


def _plain(model, params, encoder, row, count, penalty):
  """The replies by the definition: text, probability, ended; token by token."""
  processor = encoder.processor
  seen = processing.prompt_of(encoder.example(row)).tokens.tolist()

  def ranked(logits, more):
    logits = logits.copy()
    for token in {*seen, *more}:
      logits[token] *= penalty if logits[token] < 0 else 1 / penalty
    return np.argsort(-logits)

  (start,) = _logits(model, params, encoder, row, [])
  found = []
  for token in ranked(start, [])[:count].tolist():
    tokens = [token]
    while tokens[-1] not in processor.stop_ids and len(tokens) < NEW:
      last = _logits(model, params, encoder, row, tokens)[-1]
      tokens.append(int(ranked(last, tokens)[0]))
    logits = _logits(model, params, encoder, row, tokens)[:-1]
    p = sum(_log_softmax(x)[t] for x, t in zip(logits, tokens, strict=True))
    text = processor.tokenizer.decode(tokens, skip_special_tokens=True)
    ended = tokens[-1] in processor.stop_ids
    found.append((text.strip(), float(np.exp(p)), ended))
  return found[:1] + sorted(found[1:], key=lambda reply: -reply[1])


def _file(row, folder):
  """The picture of a row as a file; None for a question in text."""
  if row.picture is None:
    return None
  path = folder / 'a.png'
  PIL.Image.fromarray(np.asarray(row.picture.image)).save(path)
  return path


CASES = {'pictures': 1.3, 'text': 1.0}  # and a repetition penalty


@pytest.mark.parametrize('kind', CASES)
def test_replies_are_those_of_the_plain_forward(
  kind, tasks, encoder, model, params, tmp_path
):
  row, penalty = tasks[TASKS[kind]][1], CASES[kind]
  (start,) = _logits(model, params, encoder, row, [])
  second = int(np.argsort(-start)[1])  # ends an answer
  made = dataclasses.replace(
    encoder.processor,
    repetition_penalty=penalty,
    stop_ids=(*encoder.processor.stop_ids, second),
  )
  plain = batching.Encoder(made)
  want = _plain(model, params, plain, row, 4, penalty)
  got = evaluation.ask(
    dataclasses.replace(model, params=params, processor=made),
    row.question,
    _file(row, tmp_path),
    alternatives=3,
    max_new_tokens=NEW,
  )
  assert [(r.text, r.ended) for r in got] == [(t, e) for t, _, e in want]
  np.testing.assert_allclose(
    [r.probability for r in got], [p for _, p, _ in want], rtol=1e-3
  )
  assert len({r.text for r in got}) == 4
  assert sum(r.ended and ' ' not in r.text for r in got) == 1  # the second
  if kind == 'text':
    (answer,) = decoding.generate(
      model, params, [row], plain, max_new_tokens=NEW, size=1
    )
    assert got[0].text == answer


@pytest.mark.parametrize(
  'change, said',
  [
    (dict(question=' '), 'takes a question'),
    (dict(params=None), 'model has no parameters'),
    (dict(processor=None), 'model has no tokenizer'),
    (dict(image='nowhere.png'), 'nowhere.png'),
    (dict(question='Who is <image>?'), "must not contain '<image>'"),
    (dict(alternatives=-1), "'Who?', -1 and 64"),
    (dict(max_new_tokens=0), "'Who?', 4 and 0"),
    (dict(max_new_tokens=100_000), 'max_position_embeddings'),
  ],
)
def test_a_question_that_cannot_be_asked_is_a_clear_error(
  change, said, encoder, model, params
):
  text = dataclasses.replace(
    model.config.text_config, max_position_embeddings=512
  )
  config = dataclasses.replace(model.config, text_config=text)
  has = dict(params=params, processor=encoder.processor, config=config)
  of_model = {k: change[k] for k in change if k in has}
  given = {'question': 'Who?'} | {k: change[k] for k in change if k not in has}
  with pytest.raises(errors.UserError) as error:
    evaluation.ask(dataclasses.replace(model, **has | of_model), **given)
  assert said in str(error.value)


def test_a_model_of_nan_gives_no_answer(encoder, model, params):
  bad = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
  has = dict(params=bad, processor=encoder.processor)
  with pytest.raises(FloatingPointError, match='not finite'):
    evaluation.ask(dataclasses.replace(model, **has), 'Who?')


@pytest.mark.parametrize('most', [1, 2])
def test_every_first_token_is_a_reply_and_their_probabilities_are_one(
  most, tasks, encoder, model, params
):
  """The placeholder too, which has no picture behind the prompt."""
  row, size = tasks[TASKS['text']][1], model.config.text_config.vocab_size
  has = dict(params=params, processor=encoder.processor)
  said = evaluation.ask(
    dataclasses.replace(model, **has),
    row.question,
    alternatives=2 * size,
    max_new_tokens=most,
  )
  total = sum(reply.probability for reply in said)
  assert len(said) == size
  assert total == pytest.approx(1, abs=1e-4) if most == 1 else 0 < total < 1
