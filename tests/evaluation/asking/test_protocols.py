"""How questions are put: templates, shots, placeholders, given answers."""

import folders
import jax
import numpy as np
import pytest
from results import make_tasks

from mmu_jax import models
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.encoding import processing
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import fixed
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.asking.protocols import question as question_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
FAMILIES = pytest.mark.parametrize('family', folders.FAMILIES)
FIXED = protocols.PROTOCOLS['fixed']
PLAIN = protocols.PROTOCOLS['plain']
MLLMU = protocols.PROTOCOLS['official_mllmu_bench']
CLEAR = protocols.PROTOCOLS['official_clear']
SIZES = dict(
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=16,
)
OPTIONS = {
  'llava': dict(
    text_config=SIZES | dict(num_key_value_heads=1),
    vision_config=SIZES | dict(image_size=30, patch_size=10),
  ),
  'qwen2_vl': dict(
    text_config=SIZES | dict(num_key_value_heads=1, mrope_section=(2, 2, 2)),
    vision_config=dict(
      depth=2,
      embed_dim=16,
      hidden_size=24,
      num_heads=2,
      mlp_ratio=2,
      patch_size=4,
    ),
  ),
}


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
  tmp = tmp_path_factory.mktemp('checkpoints')
  return {
    family: batching.Encoder(folders.load(tmp, family))
    for family in folders.FAMILIES
  }


def _rows(pictures=True, people=4):
  """Every kind of question about some people."""
  rows = []
  for i in range(people):
    more = {'person': f'p{i}'}
    if pictures:
      more |= dict(image=folders.picture(i, 30, 36), image_key=f'face {i}')
    rows += [
      Row(
        f'{i}/a',
        f'Where is {i}?',
        f'Oslo {i}',
        f'Oslo {i}',
        task='classification',
        options=(f'Rome {i}', f'Oslo {i}'),
        **more,
      ),
      Row(
        f'{i}/b',
        f'Who is {i}?',
        f'Person {i}',
        f'Person {i}',
        task='classification',
        options=(f'Person {i}', 'Nobody'),
        **more,
      ),
      Row(
        f'{i}/c',
        f'{i} works as ____ in __.',
        f'Chef{i}',
        f'Chef{i}',
        task='cloze',
        **more,
      ),
      Row(f'{i}/d', f'Describe {i}', f'A chef {i}.', f'chef {i}', **more),
    ]
  return rows


ROWS = {'forget_vqa': _rows(), 'forget_qa': _rows(False)}
TASKS = make_tasks(ROWS)


def test_a_protocol_is_found_by_name_or_by_the_dataset():
  people = Dataset({}, {}, {}, protocol='plain')
  clear = Dataset({}, {}, {}, official='official_clear')
  found = lambda name, data: protocols.find(name, data).name
  assert found('', people) == 'plain'
  assert found('', clear) == found('fixed', people) == 'fixed'
  assert found('official', clear) == 'official_clear'
  assert found('official_clear', people) == 'official_clear'
  for name, data in (('official', people), ('exact', clear)):
    with pytest.raises(ValueError, match='there is no protocol'):
      protocols.find(name, data)


@FAMILIES
def test_the_plain_protocol_asks_the_row_as_it_was_trained_on(family, encoders):
  encoder = encoders[family]
  choice, _, _, said = ROWS['forget_vqa'][:4]
  asked = PLAIN.ask(Question(said), encoder)
  prompt = processing.prompt_of(encoder.example(said))
  np.testing.assert_array_equal(asked.example.tokens, prompt.tokens)
  assert PLAIN.ask(Question(choice), encoder) is None
  given = PLAIN.answers(Question(choice), encoder)
  assert [e.row.answer for e in given] == list(choice.options)
  assert PLAIN.answers(Question(said), encoder) == []


TEXT = {
  'classification': 'Where is 0?\nA: Rome 0\nB: Oslo 0\n'
  'Answer with the letter of the right option only.',
  'cloze': '0 works as [Blank] in [Blank].\n'
  'Answer only with the words that [Blank] stands for.',
  'generation': 'Describe 0\nAnswer in one sentence in English.',
}


@FAMILIES
@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('kind', TEXT)
def test_the_fixed_protocol_uses_the_chat_template_for_text_and_pictures(
  kind, task, family, encoders
):
  """One instruction, one [Blank] a gap, a placeholder for each picture."""
  row = next(r for r in ROWS[task] if r.task == kind)
  processor = encoders[family].processor
  asked = FIXED.ask(Question(row), encoders[family])
  plain = processing.encode(row._replace(question=TEXT[kind]), processor)
  np.testing.assert_array_equal(
    asked.example.tokens, processing.prompt_of(plain).tokens
  )
  assert asked.text.count(TEXT[kind]) == 1
  assert asked.text.count(processor.image_token) == (task == 'forget_vqa')


@FAMILIES
def test_shots_are_a_conversation_with_one_picture_a_person(family, encoders):
  asked = FIXED.questions(TASKS['forget_vqa'], TASKS, 2, 0)
  shot_people = {shot.person for q in asked for shot in q.shots}
  assert len(shot_people) == 2 and len(asked) == 2 * 4
  assert not shot_people & {q.row.person for q in asked}
  question = next(q for q in asked if q.row.task == 'classification')
  assert [s.task for s in question.shots] == ['classification'] * 4
  found = FIXED.ask(question, encoders[family])
  processor = encoders[family].processor
  assert found.text.count(processor.image_token) == 3  # two people, and one
  assert len(found.example.pictures) == 3
  for shot in question.shots:
    place = found.text.index(fixed.instructed(shot))
    answer = {'a': 'B', 'b': 'A'}[shot.key[-1]]
    rest = found.text[place + len(fixed.instructed(shot)) :]
    said = rest.split('assistant\n' if 'qwen' in family else 'ASSISTANT: ')[1]
    assert said.startswith(answer)
  assert fixed.instructed(question.row) in found.text


def test_one_seed_draws_the_same_people_for_pictures_and_text():
  drawn = lambda task, seed: {
    s.person
    for q in FIXED.questions(TASKS[task], TASKS, 1, seed)
    for s in q.shots
  }
  assert [drawn('forget_vqa', s) for s in range(9)] == [
    drawn('forget_qa', s) for s in range(9)
  ]
  assert len({next(iter(drawn('forget_qa', s))) for s in range(9)}) > 1


@pytest.mark.parametrize('shots', [4, 7, -1])
def test_somebody_must_be_left_to_ask(shots):
  with pytest.raises(ValueError, match='more people than shots'):
    FIXED.questions(TASKS['forget_vqa'], TASKS, shots, 0)


@pytest.mark.parametrize(
  'protocol, shots', [(PLAIN, 1), (CLEAR, 1), (MLLMU, 2)]
)
def test_shots_that_a_protocol_does_not_have_are_refused(protocol, shots):
  with pytest.raises(ValueError, match=f'got shots={shots}'):
    protocol.questions(TASKS['forget_vqa'], TASKS, shots, 0)


def test_published_shots_depend_on_task_and_kind():
  """None for generation, none for choices about real people."""
  rows = ROWS | {
    'real_qa': _rows(False),
    'forget_vqa_holdout': [
      row._replace(key=f'new {row.key}', image_key=f'new {row.image_key}')
      for row in ROWS['forget_vqa']
      if row.task == 'classification'
    ],
  }
  tasks = make_tasks(rows)
  ask = lambda task: MLLMU.questions(tasks[task], tasks, 1, 0)
  count = lambda task: {
    kind: {len(q.shots) for q in ask(task) if q.row.task == kind}
    for kind in ('classification', 'cloze', 'generation')
  }
  assert count('forget_vqa') == {
    'classification': {2},
    'cloze': {1},
    'generation': {0},
  }
  assert count('real_qa')['classification'] == {0}
  assert count('real_qa')['cloze'] == {1}
  kinds = [q.row.task for q in ask('forget_qa')]
  assert [kinds.count(k) for k in ('cloze', 'generation')] == [3, 4]
  # Held-out pictures are asked with shots of the trained ones.
  for question in ask('forget_vqa_holdout'):
    assert question.row.image_key.startswith('new')
    assert {s.image_key[:4] for s in question.shots} == {'face'}


@pytest.mark.parametrize(
  'protocol', [FIXED, MLLMU, CLEAR], ids=lambda p: p.name
)
def test_a_placeholder_in_a_question_is_refused(protocol, encoders):
  row = ROWS['forget_vqa'][3]._replace(question='What is <image>?')
  with pytest.raises(ValueError, match="must not contain '<image>'"):
    protocol.ask(Question(row), encoders['llava'])


@FAMILIES
def test_given_answers_are_labelled_and_share_their_prompt(family, encoders):
  """The answer, its paraphrase, what is wrong; without an instruction."""
  row = ROWS['forget_vqa'][3]._replace(
    paraphrase='It is a chef 0.', perturbed=('A cat.', 'A painter.')
  )
  processor = encoders[family].processor
  given = FIXED.answers(Question(row), encoders[family])
  want = [row.answer, row.paraphrase, *row.perturbed]
  decode = processor.tokenizer.decode
  said = [
    decode(e.tokens[e.labelled], skip_special_tokens=True).strip()
    for e in given
  ]
  assert said == want
  plain = processing.prompt_of(processing.encode(row, processor))
  for example in given:
    np.testing.assert_array_equal(
      processing.prompt_of(example).tokens, plain.tokens
    )
  bare = Question(row._replace(perturbed=()))
  (only,) = FIXED.answers(bare, encoders[family])
  assert only.row.answer == row.answer


def _model(family, encoder):
  return models.from_options(
    family, len(encoder.processor.tokenizer), **OPTIONS[family]
  )


@FAMILIES
@pytest.mark.parametrize('shots', [0, 1])
def test_a_model_answers_every_kind_of_question(family, shots, encoders):
  """Likelihoods are those of the same answers, each in a row of its own."""
  encoder = encoders[family]
  model = _model(family, encoder)
  params = model.init(jax.random.key(0))
  questions = FIXED.questions(TASKS['forget_vqa'], TASKS, shots, 0)
  found = [
    p
    for batch in tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=FIXED,
      max_new_tokens=3,
      size=4,
    )
    for p in batch
  ]
  assert {p['key'] for p in found} == {q.row.key for q in questions}
  by_key = {p['key']: p for p in found}
  choice = next(q for q in questions if q.row.task == 'classification')
  alone = [
    _nll(model, params, example, encoder)
    for example in FIXED.answers(choice, encoder)
  ]
  given = by_key[choice.row.key]['likelihoods']
  np.testing.assert_allclose([g['nll'] for g in given], alone, rtol=1e-4)
  for p in found:
    assert all(g['nll'] > 0 for g in p['likelihoods']) and 'prompt' in p


@FAMILIES
def test_a_prompt_that_the_model_cannot_hold_is_refused(
  family, encoders, monkeypatch
):
  """With its answer, and before anything is compiled; shots are longest."""
  encoder = encoders[family]
  zero, one = (
    FIXED.questions(TASKS['forget_vqa'], TASKS, n, 0) for n in (0, 1)
  )
  first = lambda questions: [q for q in questions if q.row.options][:1]
  end = lambda question: int(
    FIXED.ask(question, encoder).example.positions.max() + 1
  )
  asked = first(one)
  room = end(asked[0]) + 3  # new tokens
  assert end(asked[0]) > end(first(zero)[0])
  monkeypatch.setattr(decoding, 'texts', lambda *_, **__: [''])
  nll = [1.0] * len(asked[0].row.options)
  monkeypatch.setattr(decoding, 'answer_nll', lambda *_: [nll])

  def predict(limit, questions=asked):
    options = OPTIONS[family]
    text = options['text_config'] | dict(max_position_embeddings=limit)
    model = models.from_options(
      family,
      len(encoder.processor.tokenizer),
      **options | dict(text_config=text),
    )
    return [
      *tasks_lib.predict(
        model,
        None,
        questions,
        encoder,
        protocol=FIXED,
        max_new_tokens=3,
        size=1,
      )
    ]

  assert predict(room) and predict(0)
  with pytest.raises(ValueError, match=f'got {room}. Set evaluation.shots'):
    predict(room - 1)
  assert predict(room - 1, first(zero))


def _nll(model, params, example, encoder):
  """The nll of one answer, alone in its batch."""
  shape = encoder.pixel_shape(encoder.room(example.pictures))
  batch = encoder.batch([[encoder.document([example])]], 512, shape)
  (nll,) = decoding.answer_nll(model, params, batch)
  return float(nll[0])


@FAMILIES
def test_a_placeholder_without_a_picture_can_be_asked(family, encoders):
  """As in the published code, it is a token with its own embedding."""
  encoder = encoders[family]
  model = _model(family, encoder)
  params = model.init(jax.random.key(0))
  row = ROWS['forget_qa'][3]
  blind, seen = Question(row, blind=True), Question(row)
  predict = lambda questions: [
    p['text']
    for batch in tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=CLEAR,
      max_new_tokens=5,
      size=2,
    )
    for p in batch
  ]
  other = blind._replace(row=row._replace(key='other'))
  answers = predict([blind, other, seen._replace(row=row._replace(key='x'))])
  assert len(answers) == 3 and answers[0] == answers[1]
  tokens = CLEAR.ask(blind, encoder).example.tokens
  assert (tokens == encoder.image_token).sum() == 1


def test_groups_are_people_or_pictures_or_rows():
  person, picture = ROWS['forget_vqa'][0], ROWS['forget_vqa'][5]
  assert question_lib.group_of(person) == 'p0'
  assert question_lib.group_of(picture._replace(person=None)) == 'face 1'
  bare = ROWS['forget_qa'][2]._replace(person=None)
  assert question_lib.group_of(bare) == '0/c'
