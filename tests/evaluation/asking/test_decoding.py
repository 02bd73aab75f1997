"""Decoding with a cache is the plain loop, and scores are the plain sums."""

import functools

import jax
import numpy as np
import pytest
from small_worlds import NEW_TOKENS
from small_worlds import TASKS

from mmu_jax.data.batches import batching
from mmu_jax.data.batches import packing
from mmu_jax.data.encoding import processing
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import together

pytestmark = pytest.mark.usefixtures('quick_compile')


def _rows(tasks, name, number=5):
  """Questions of unequal length."""
  rows = sorted(tasks[TASKS[name]], key=lambda row: row.question)
  return rows[:: len(rows) // number][:number]


@functools.cache
def _forward(model):
  return jax.jit(model.forward)


def _penalized(logits, tokens, penalty):
  """The rule of transformers, a token at a time; however often it stands."""
  logits = logits.copy()
  for token in set(tokens):
    factor = penalty if logits[token] < 0 else 1 / penalty
    logits[token] *= np.float32(factor)
  return logits


def _continue(model, params, batch, b, penalty=1.0):
  """Twelve times: the whole forward again, of one row alone.

  Returns:
    The tokens, and how far the likeliest was ahead of the next, at least.
  """
  length = batch['tokens'].shape[1]
  row = {name: np.array(x[b : b + 1]) for name, x in batch.items()}
  for name in packing.FIELDS:
    fill = packing.PAD.get(name, 0)
    row[name] = np.pad(
      row[name], ((0, 0), (0, NEW_TOKENS)), constant_values=fill
    )
  end = int((row['documents'] > 0).sum())
  assert end <= length
  tokens, gap = [], np.inf
  for t in range(NEW_TOKENS):
    logits = np.asarray(_forward(model)(params, row))[0, end + t - 1]
    logits = _penalized(logits, row['tokens'][0, : end + t].tolist(), penalty)
    second, first = np.sort(logits)[-2:]
    gap = min(gap, first - second)
    tokens.append(int(np.argmax(logits)))
    row['tokens'][0, end + t] = tokens[-1]
    row['documents'][0, end + t] = 1
    row['positions'][0, end + t] = end + t
  return tokens, gap


@pytest.fixture(scope='module', params=['pictures', 'text'])
def continued(request, tasks, encoder, model, params):
  """Rows, their batch of prompts, and what the plain loop makes of them."""
  rows = _rows(tasks, request.param)
  (batch,) = decoding.prompt_batches(rows, encoder, size=len(rows) + 1)
  found = [_continue(model, params, batch, b) for b in range(len(rows))]
  assert min(gap for _, gap in found) > 1e-3  # float32 noise decides nothing
  return rows, batch, [tokens for tokens, _ in found]


def _stop_in(continuations):
  """A token that stops some rows after a few steps, and not all rows."""
  for token in continuations[0][3:]:
    if token not in continuations[0][:3]:
      if any(token not in tokens for tokens in continuations):
        return token
  raise AssertionError('choose another seed')


def test_greedy_with_a_cache_is_the_plain_loop(continued, model, params):
  rows, batch, want = continued
  lengths = {int(n) for n in (batch['documents'] > 0).sum(axis=1)}
  assert len(lengths) > 2  # ragged, with a padding row
  stop = _stop_in(want)
  got = np.asarray(
    decoding.greedy(
      params, batch, model=model, max_new_tokens=NEW_TOKENS, stop_ids=(stop,)
    )
  )
  assert got.shape == (len(rows) + 1, NEW_TOKENS)
  for tokens, plain in zip(got.tolist(), want):
    end = plain.index(stop) + 1 if stop in plain else NEW_TOKENS
    assert tokens == plain[:end] + [stop] * (NEW_TOKENS - end)
  assert got[-1].tolist() == [stop] * NEW_TOKENS  # a padding row says nothing
  assert len({tuple(tokens) for tokens in want}) > 1  # not one answer for all


@pytest.mark.parametrize('penalty', [1.3, 0.8])
def test_a_repetition_penalty_is_the_plain_loop_with_one(
  continued, penalty, model, params
):
  """Of prompt and answer; image placeholders are tokens too."""
  rows, batch, plain = continued
  want = [_continue(model, params, batch, b, penalty) for b in range(len(rows))]
  vocabulary = model.config.text_config.vocab_size
  got = decoding.greedy(
    params,
    batch,
    model=model,
    max_new_tokens=NEW_TOKENS,
    stop_ids=(vocabulary,),  # none that can come
    repetition_penalty=penalty,
  )
  for tokens, (expected, gap) in zip(np.asarray(got).tolist(), want):
    assert gap > 1e-4 and tokens == expected
  assert [tokens for tokens, _ in want] != plain


def _labelled(tokens, row):
  """An example whose answer are the last tokens."""
  prompt, answer = tokens
  places = np.arange(len(prompt) + len(answer))
  return processing.Example(
    tokens=np.asarray([*prompt, *answer], np.int32),
    positions=places,
    labelled=places >= len(prompt),
    prompt_length=len(prompt),
    row=row,
    pictures=row.pictures,
  )


def test_an_answer_is_exact_where_greedy_decoding_gives_it(
  continued, encoder, model, params
):
  """Of three candidates one is what decoding gives; they are one document."""
  rows, _, want = continued
  sequences = []
  for row, tokens in zip(rows, want):
    example = encoder.example(row)
    prompt = example.tokens[: example.prompt_length]
    first, last = ([*tokens], [*tokens])
    first[0] = (first[0] + 1) % 50
    last[-1] = (last[-1] + 1) % 50
    examples = [_labelled((prompt, a), row) for a in (first, tokens, last)]
    sequences.append([encoder.document(examples)])
  (batch,) = batching.stack(sequences, encoder, size=len(rows) + 1)
  nll, exact, is_answer = decoding.answer_scores(
    params, batch, forward=model.forward
  )
  for b in range(len(rows)):
    real = np.asarray(is_answer[b])
    assert exact[b][real].tolist() == [False, True, False]
    assert np.argmin(nll[b][real]) in (1, 2)  # a wrong start costs the most
  assert not is_answer[-1].any() and not exact[-1].any()
  assert decoding.exact_share(params, [batch], forward=model.forward) == (
    pytest.approx(1 / 3)
  )


def _plain_nll(model, params, row, encoder, length, size):
  """-log p of the labelled tokens, from the logits of a plain row."""
  example = encoder.example(row)
  shape = encoder.pixel_shape(encoder.room(example.pictures))
  batch = encoder.batch([[encoder.document([example])]], length, shape, size)
  logits = np.asarray(_forward(model)(params, batch), np.float64)[0]
  log_p = logits - np.log(np.exp(logits - logits.max()).sum(-1))[:, None]
  log_p -= logits.max()
  places = np.flatnonzero(example.labelled)
  return -sum(log_p[i - 1, example.tokens[i]] for i in places)


@pytest.mark.parametrize('kind', ['pictures', 'text'])
def test_the_nll_of_options_is_that_of_plain_rows(
  kind, tasks, encoder, model, params
):
  rows = [r for r in tasks[TASKS[kind]] if r.options][:3]
  given = [
    [
      encoder.example(row._replace(key=f'{row.key}#{i}', answer=option))
      for i, option in enumerate(row.options)
    ]
    for row in rows
  ]
  documents = [[encoder.document(examples)] for examples in given]
  (batch,) = batching.stack(documents, encoder, size=4)
  got = decoding.answer_nll(
    decoding.answer_scores(params, batch, forward=model.forward)
  )
  assert [len(x) for x in got] == [4, 4, 4, 0]  # one row is padding
  for row, nll in zip(rows, got):
    want = [
      _plain_nll(
        model,
        params,
        row._replace(key=f'{row.key}!{i}', answer=option),
        encoder,
        length=48,
        size=1,
      )
      for i, option in enumerate(row.options)
    ]
    np.testing.assert_allclose(nll, want, rtol=1e-4)
    assert np.ptp(want) > 0.1


@pytest.mark.parametrize('bare', [False, True])
def test_one_reading_continues_prompts_and_scores_answers(
  bare, tasks, encoder, model, params
):
  """As apart: rows of 4 prompts with answers, of 1, of answers alone.

  With ``bare`` prompts are branches of their own, as of other questions, and a
  row has two documents, with a prompt in each.
  """
  example = encoder.example
  of_picture = {}
  for row in tasks[TASKS['pictures']]:
    if not row.options:
      of_picture.setdefault(row.picture_key, []).append(example(row))
  examples = max(of_picture.values(), key=len)[:4]
  picture = examples[0].row.picture_key
  choice = next(
    r
    for r in tasks[TASKS['pictures']]
    if r.options and r.picture_key != picture
  )
  options = [example(choice._replace(key=o, answer=o)) for o in choice.options]
  asked = [[processing.prompt_of(x) for x in examples]]
  given = [examples]
  asked += [asked[0][:1], []]
  given += [options if bare else examples[:1], options]
  if bare:
    asked[0], given[0] = asked[0][:2], given[0][2:]
    asked[1].append(processing.prompt_of(options[0]))
  packed = [together.pack_row(*of, encoder) for of in zip(asked, given)]
  assert [len(x.prompts) for x in packed] == [len(x) for x in asked]
  assert [len(x.documents) for x in packed] == [1, 1 + bare, 1]
  (batch,) = batching.stack([x.documents for x in packed], encoder, size=4)
  most = len(asked[0])
  batch['prompts'] = np.full((4, most), -1, np.int32)
  for row, x in zip(batch['prompts'], packed):
    row[: len(x.prompts)] = x.prompts
  stop = len(encoder.processor.tokenizer)  # none that can come
  how = dict(model=model, max_new_tokens=NEW_TOKENS, stop_ids=(stop,))
  tokens, scores = decoding.continue_and_score(params, batch, **how)

  want = np.full((4, most, NEW_TOKENS), stop)
  for b, prompts in enumerate(asked):
    for i, prompt in enumerate(prompts):
      (alone,) = batching.stack([[encoder.document([prompt])]], encoder, size=1)
      want[b, i] = decoding.greedy(params, alone, **how)[0]
  np.testing.assert_array_equal(tokens, want)
  assert len({tuple(x) for x in want.reshape(-1, NEW_TOKENS).tolist()}) > 2
  rows = [[encoder.document(answers)] for answers in given]
  (apart,) = batching.stack(rows, encoder, size=4)
  plain = decoding.answer_scores(params, apart, forward=model.forward)
  for got, nll in zip(*map(decoding.answer_nll, (scores, plain)), strict=True):
    np.testing.assert_allclose(got, nll, rtol=1e-4)
  assert [len(x) for x in decoding.answer_nll(scores)] == [*map(len, given), 0]


def test_the_batch_size_changes_no_answer(tasks, encoder, model, params):
  rows = _rows(tasks, 'text')
  answers = [
    decoding.generate(
      model, params, rows, encoder, max_new_tokens=NEW_TOKENS, size=size
    )
    for size in (3, 5)
  ]
  assert answers[0] == answers[1]
  assert len(answers[0]) == len(rows) == 5 and len(set(answers[0])) > 1
  assert all(a == a.strip() and '<pad>' not in a for a in answers[0])


def test_prompts_hold_no_answer(tasks, encoder):
  rows = _rows(tasks, 'pictures')
  batches = list(decoding.prompt_batches(rows, encoder, size=2))
  tokenizer = encoder.processor.tokenizer
  assert [len(b['tokens']) for b in batches] == [2, 2, 2]
  assert len({b['tokens'].shape for b in batches}) == 1
  shown = [
    tokenizer.decode(tokens[documents > 0])
    for batch in batches
    for tokens, documents in zip(batch['tokens'], batch['documents'])
  ]
  assert shown.pop() == ''  # the padding row
  for row, text in zip(rows, shown, strict=True):
    assert text.endswith(f'{row.question} ASSISTANT:')
    assert text.count('<image>') == 16
