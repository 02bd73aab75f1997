"""Every row is asked in its own way, and only rows that are not done."""

from contextlib import nullcontext
import types

import jax
import numpy as np
import pytest

from mmu_jax import sharding
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import Asked
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.models.families import llava

ANSWER = 'Maria Lopez keeps a parrot.'
PETS = ('dog', 'parrot', 'cat')
OPTIONS = tuple(f'Maria Lopez keeps a {pet}.' for pet in PETS)
MODEL = types.SimpleNamespace(config=llava.LlavaConfig(), forward=None)
PLAIN, FIXED = protocols.PROTOCOLS['plain'], protocols.PROTOCOLS['fixed']


def _row(key, task='generation', person='p1', **more):
  return Row(
    key, f'Q {key}?', ANSWER, 'parrot', person=person, task=task, **more
  )


def _choice(key, **more):
  return _row(key, 'classification', options=OPTIONS, **more)


class _Example:
  """An example of so many answer tokens, whose row the model sees."""

  def __init__(self, row, answer='', tokens=1):
    self.row = row._replace(answer=answer)
    self.labelled = np.ones(tokens, bool)


class _Stack:
  """Batches that hold the entries of their rows."""

  def __init__(self, encoder, size, rows, *, max_new_tokens):
    assert max_new_tokens == 9
    self.encoder, self.end = encoder, 0
    asks = [entry.asked for row in rows for entry in row if entry.asked]
    self._prompts = {'prompts': None} if asks else {}

  def batch(self, rows):
    return {'rows': rows, **self._prompts}


def _told(protocol, given=None):
  """The protocol, with rows for prompts, and given answers for examples."""
  wants_text = lambda q: protocol.name != 'plain' or not q.row.options

  def ask(question, encoder):
    if not wants_text(question):
      return None
    return Asked(f'<{question.row.question}>', _Example(question.row))

  def answers(question, encoder):
    texts = question.row.options or (given or {}).get(question.row.key, ())
    return [_Example(question.row, x, len(x.split())) for x in texts]

  return protocol._replace(ask=ask, answers=answers)


@pytest.fixture
def predict(monkeypatch):
  """Predictions of a model that says what it is told to."""

  def make(rows, texts=(), nll=(), protocol=PLAIN, size=4, **options):
    asked = {'texts': [], 'nll': []}

    def score(params, batch, *, forward):
      given = [entry.given for (entry,) in batch['rows']]
      found = [of[0].row.key if of else '' for of in given]
      asked['nll'] += [keys] if (keys := [key for key in found if key]) else []
      return [np.asarray(nll[key] if key else ()) for key in found]

    def say(params, batch, *, max_new_tokens, **_):
      assert max_new_tokens == 9
      keys = [entry.asked.example.row.key for (entry,) in batch['rows']]
      asked['texts'].append(keys)
      return [[texts[key]] for key in keys], score(params, batch, forward=None)

    monkeypatch.setattr(decoding, 'continue_and_score', say)
    monkeypatch.setattr(decoding, 'answer_scores', score)
    monkeypatch.setattr(decoding, 'answer_texts', lambda said, _: said)
    monkeypatch.setattr(decoding, 'answer_nll', lambda scores: scores)
    monkeypatch.setattr(tasks_lib, '_Stack', _Stack)
    processor = types.SimpleNamespace(stop_ids=(0,), repetition_penalty=1.0)
    encoder = type('Encoder', (), {'processor': processor})
    batches = tasks_lib.predict(
      MODEL,
      None,
      [Question(row) for row in rows],
      encoder,
      protocol=protocol,
      max_new_tokens=9,
      size=size,
      **options,
    )
    by_key = {p['key']: p for batch in batches for p in batch}
    return [by_key[r.key] for r in rows if r.key in by_key], asked

  return make


def test_rows_are_asked_in_the_way_of_their_task(predict):
  rows = [_choice('a'), _row('b'), _row('c', 'cloze'), _choice('d')]
  found, asked = predict(
    rows,
    texts={'b': ANSWER, 'c': 'It is a Parrot, I think.'},
    nll={'a': [3.0, 1.0, 2.0], 'd': [0.5, 1.0, 2.0]},
    protocol=_told(PLAIN),
  )
  assert asked == {'texts': [['b', 'c']], 'nll': [['a', 'd']]}
  said = [None, ANSWER, 'It is a Parrot, I think.', None]
  assert [p.get('text') for p in found] == said
  assert [p['kind'] for p in found] == [row.task for row in rows]


def test_a_choice_is_generated_and_compared_by_the_fixed_protocol(predict):
  (found,), asked = predict(
    [_choice('a')],
    texts={'a': 'The answer is B'},
    nll={'a': [9.0, 8.0, 7.0]},
    protocol=_told(FIXED),
  )
  assert asked == {'texts': [['a']], 'nll': [['a']]}
  assert (found['text'], found['prompt']) == ('The answer is B', '<Q a?>')
  assert found['likelihoods'] == [
    {'of': 'option', 'text': text, 'nll': nll, 'tokens': 5}
    for text, nll in zip(OPTIONS, (9.0, 8.0, 7.0))
  ]


def test_every_row_keeps_the_likelihoods_of_its_own_answers(predict):
  """Rows without given answers stand between rows with some."""
  rows = [_row('with'), _row('without'), _row('alone')]
  given = {
    'with': (ANSWER, 'A parrot lives there', 'a dog', 'a cat'),
    'alone': (ANSWER,),
  }
  found, asked = predict(
    rows,
    texts={row.key: f'to {row.key}' for row in rows},
    nll={'with': [5.0, 4.0, 6.0, 2.0], 'alone': [10.0]},
    protocol=_told(FIXED, given),
  )
  assert asked['nll'] == [['with', 'alone']]
  told = lambda p: [(g['of'], g['nll'], g['tokens']) for g in p['likelihoods']]
  assert told(found[0]) == [
    ('answer', 5.0, 5),
    ('paraphrase', 4.0, 4),
    ('perturbed', 6.0, 2),
    ('perturbed', 2.0, 2),
  ]
  assert told(found[2]) == [('answer', 10.0, 5)]
  assert 'likelihoods' not in found[1]
  assert [p['text'] for p in found] == [f'to {row.key}' for row in rows]


def test_records_hold_no_score(predict):
  found, _ = predict([_row('a')], texts={'a': ANSWER}, protocol=_told(PLAIN))
  assert set(found[0]) == {
    'key',
    'kind',
    'protocol',
    'person',
    'picture',
    'question',
    'answer',
    'fact',
    'options',
    'text',
    'prompt',
  }


@pytest.fixture(name='ask_for_real')
def _ask_for_real(tasks, encoder, model):
  """Asks five questions of a kind; ``ask(params, kind)``."""

  def ask(params, kind):
    rows = [r for r in tasks['real_qa'] if bool(r.options) == kind][:5]
    found = tasks_lib.predict(
      model,
      params,
      [Question(row) for row in rows],
      encoder,
      protocol=PLAIN,
      max_new_tokens=2,
      size=3,
    )
    return rows, [answer for batch in found for answer in batch]

  return ask


@pytest.mark.parametrize('has_options', [False, True])
def test_logits_that_are_not_finite_stop_with_the_question(
  has_options, ask_for_real, params, encoder
):
  """A NaN model once answered every question with token 0."""
  rows, found = ask_for_real(params, has_options)
  assert len(found) == len(rows) == 5
  broken = jax.tree.map(np.array, params)
  embedding = broken['language_model']['model']['embed_tokens']['embedding']
  example = encoder.example(rows[3])  # in the second batch
  others = [set(encoder.example(r).tokens) for r in rows[:3] + rows[4:]]
  prompt = set(example.tokens[: example.prompt_length])
  (token, *_) = prompt.difference(*others)
  embedding[token] = np.nan
  with pytest.raises(FloatingPointError) as error:
    ask_for_real(broken, has_options)
  assert rows[3].key in str(error.value)
  assert not any(row.key in str(error.value) for row in rows[:3] + rows[4:])
  assert '(1 in all)' in str(error.value) and 'dtype' in str(error.value)


def test_batches_that_are_done_are_left_out(predict):
  rows = [_row(str(i)) for i in range(5)] + [_choice('a')]
  texts = {row.key: ANSWER for row in rows}
  nll = {'a': [1.0, 2.0, 3.0]}
  ask = dict(texts=texts, nll=nll, protocol=_told(PLAIN), size=2)
  every, asked = predict(rows, **ask)
  assert asked == {'texts': [['0', '1'], ['2', '3'], ['4']], 'nll': [['a']]}
  left, asked = predict(rows, done={'0', '1', '2', 'a'}, **ask)
  assert asked == {'texts': [['2', '3'], ['4']], 'nll': []}
  assert left == every[2:5]


@pytest.mark.parametrize(
  'mesh, size, most',
  [('', 64, 64), ('fsdp=8', 64, 8), ('data=2,fsdp=2,tensor=2', 64, 16)]
  + [('fsdp=8', 4, 1), ('data=2,fsdp=4', 20, 2)],
)
def test_no_device_is_without_a_row_because_others_hold_many_questions(
  monkeypatch, mesh, size, most
):
  found = []

  def rows_of(questions, *_, most, new_tokens):
    found.append(most)
    return []

  monkeypatch.setattr(tasks_lib.together, 'rows_of', rows_of)
  how = dict(protocol=PLAIN, max_new_tokens=3, size=size)
  with jax.set_mesh(sharding.make_mesh(mesh)) if mesh else nullcontext():
    assert not list(tasks_lib.predict(MODEL, {}, [], None, **how))
  assert found == [most, most]


class _Measured(Exception):
  """Heights are known: nothing needs to be asked."""


@pytest.mark.parametrize(
  'rows, height', [(1, 1), (4, 4), (5, 8), (32, 32), (33, 64), (100, 64)]
)
def test_a_small_task_is_padded_to_less_than_twice_its_rows(
  monkeypatch, rows, height
):
  found = []

  def stop(*_):
    raise _Measured

  class Stack(_Stack):
    def __init__(self, encoder, size, entries, *, max_new_tokens):
      found.append(size)
      super().__init__(encoder, size, (), max_new_tokens=9)

  asked = [[Question(_row(f'r{i}'), ())] for i in range(rows)]
  monkeypatch.setattr(tasks_lib.together, 'rows_of', lambda *_, **__: asked)
  monkeypatch.setattr(tasks_lib, '_Stack', Stack)
  monkeypatch.setattr(tasks_lib, 'check_length', stop)
  how = dict(protocol=PLAIN, max_new_tokens=3, size=64)
  with pytest.raises(_Measured):
    list(tasks_lib.predict(MODEL, {}, [], None, **how))
  assert found == [height]
