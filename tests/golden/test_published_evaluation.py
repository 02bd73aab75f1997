"""The official protocols against what the published evaluators did.

``official/common/eval_prompts.json`` holds every prompt that they made of three
people, how many pictures they gave with it, what a scripted model answered, and
the scores that they printed. The people are made again here.
"""

import functools
import json
import types

import folders
import numpy as np
import pytest
from results import make_tasks

from mmu_jax import metrics
from mmu_jax.data.batches import batching
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import Question
from mmu_jax.evaluation.scoring import scores
from mmu_jax.models.families import llava
from mmu_jax.workdir import seals

RUNS = json.loads((folders.COMMON / 'eval_prompts.json').read_text())
METRICS = json.loads((folders.COMMON / 'metrics.json').read_text())
MODELS = {'llava': 'llava-1.5', 'qwen2_vl': 'qwen2-vl'}
FAMILIES = pytest.mark.parametrize('family', MODELS)
KINDS = ('classification', 'cloze', 'generation')
MLLMU = protocols.PROTOCOLS['official_mllmu_bench']
CLEAR = protocols.PROTOCOLS['official_clear']


@pytest.fixture(scope='module')
def encoders(tmp_path_factory):
  tmp = tmp_path_factory.mktemp('checkpoints')
  return {f: batching.Encoder(folders.load(tmp, f)) for f in MODELS}


def _row(key, question, answer, **more):
  return Row(key, question, answer, answer, **more)


def _choice(i, j, modality):
  """A question of four options."""
  letters, right = ('abcd', i + j) if modality == 'IT' else ('efgh', 2 * i + j)
  options = tuple(f'{letter}{i}{j}' for letter in letters)
  question = f'{modality} q{i}-{j}?'
  return question, options[right % 4], {'options': options}


def _mllmu_rows(modality):
  """The questions of three people: image-textual (IT) or pure text (PT)."""
  rows = []
  for i in range(3):
    picture = None
    if modality == 'IT':
      picture = Picture(f'face {i}', folders.picture(i, 30, 30))
    asked = {'classification': [_choice(i, j, modality) for j in (0, 1)]}
    if modality == 'IT':
      asked['cloze'] = [(f'Person {i} lives in __.', f'City{i}', {})]
      said = f'Describe person {i}', f'Name{i} lives in City{i} .', {}
    else:
      blanks = f'Name{i} works as ____ in __.'
      asked['cloze'] = [(blanks, f'Chef{i}', {})]
      said = f'What does Name{i} do?', f'He is a Chef{i} in City{i}.', {}
    asked['generation'] = [said]
    rows += [
      _row(f'{i}/{q}', q, a, picture=picture, person=str(i), task=kind, **more)
      for kind, found in asked.items()
      for q, a, more in found
    ]
  return rows


MLLMU_TASKS = make_tasks(
  {'forget_vqa': _mllmu_rows('IT'), 'forget_qa': _mllmu_rows('PT')}
)


@functools.cache
def _seed():
  """A seed that draws person 2, as the published run did."""
  for seed in range(50):
    asked = MLLMU.questions(MLLMU_TASKS['forget_vqa'], MLLMU_TASKS, 1, seed)
    if {q.row.person for q in asked if q.row.task == 'cloze'} == {'0', '1'}:
      return seed
  raise AssertionError('no seed draws person 2')


def _mllmu_questions(task, kind, shots):
  asked = MLLMU.questions(MLLMU_TASKS[task], MLLMU_TASKS, shots, _seed())
  return [q for q in asked if q.row.task == kind]


def _calls(run, task):
  """The published calls about pictures, or in text, in their order."""
  return [
    call
    for call in RUNS[run]['calls']
    if (call['n_images'] is not None) == (task == 'forget_vqa')
  ]


def _assert_asked(questions, calls, protocol, encoder):
  """The same prompts, pictures and tokens, and the same limit."""
  for question, call in zip(questions, calls, strict=True):
    made = protocol.ask(question, encoder)
    assert made.text == call['prompt']
    assert len(made.example.pictures) == (call['n_images'] or 0)
    assert call['max_new_tokens'] == 50 and not call['do_sample']


def _scripted(monkeypatch, questions, calls, protocol, encoder):
  """Answers of a model that says what the published one was made to."""
  says = {q.row.key: c['scripted_output'] for q, c in zip(questions, calls)}
  waiting = []

  def ask(question, encoder):
    waiting.append(question.row.key)
    return protocol.ask(question, encoder)

  def say(params, batch, *, max_new_tokens, **_):
    assert max_new_tokens == 50
    counts = (batch['prompts'] >= 0).sum(axis=1)
    asked = iter(waiting[-sum(counts) :])
    said = [[says[next(asked)] for _ in range(n)] for n in counts if n]
    return said, [()] * len(said)

  monkeypatch.setattr(decoding, 'continue_and_score', say)
  monkeypatch.setattr(decoding, 'answer_texts', lambda said, _: said)
  monkeypatch.setattr(decoding, 'answer_nll', lambda scores: scores)
  found = tasks_lib.predict(
    types.SimpleNamespace(config=llava.LlavaConfig()),
    None,
    questions,
    encoder,
    protocol=protocol._replace(ask=ask),
    max_new_tokens=protocol.max_new_tokens,
    size=2,
  )
  by_key = {p['key']: p for batch in found for p in batch}
  return [by_key[q.row.key] for q in questions]


RAN = [
  (family, shots, kind)
  for family in MODELS
  for shots in (0, 1)
  for kind in KINDS
  if f'MLLMU/{MODELS[family]}/{("zero", "few")[shots]}_shot/{kind}' in RUNS
]


@pytest.mark.parametrize('task', MLLMU_TASKS)
@pytest.mark.parametrize('family, shots, kind', RAN)
def test_mllmu_bench_is_asked_in_the_published_words(
  family, shots, kind, task, encoders
):
  run = f'MLLMU/{MODELS[family]}/{("zero", "few")[shots]}_shot/{kind}'
  questions = _mllmu_questions(task, kind, shots)
  calls = _calls(run, task)
  assert len(calls) >= 2
  _assert_asked(questions, calls, MLLMU, encoders[family])


# Where the published evaluator keeps the accuracy of a task, and its scale.
ACCURACY = {
  'classification': {
    'forget_vqa': ('Image-Textual Question Accuracy', 100),
    'forget_qa': ('Pure Text Question Accuracy', 100),
  },
  'cloze': {
    'forget_vqa': ('image_textual_accuracy', 100),
    'forget_qa': ('pure_text_accuracy', 100),
  },
}
WORDS = {
  'ROUGE-1': 'rouge1',
  'ROUGE-2': 'rouge2',
  'ROUGE-L': 'rougeL',
  'BLEU': 'bleu',
}
MODALITY = {'forget_vqa': 'Image_Textual', 'forget_qa': 'Pure_Text'}


def _mean(answers, metric):
  """The mean score; every answer must have it."""
  return np.mean([scores.score(answer)[metric] for answer in answers])


@pytest.mark.parametrize('task', MLLMU_TASKS)
@pytest.mark.parametrize('family, shots, kind', RAN)
def test_mllmu_bench_answers_earn_the_published_scores(
  family, shots, kind, task, encoders, monkeypatch
):
  run = f'MLLMU/{MODELS[family]}/{("zero", "few")[shots]}_shot/{kind}'
  questions = _mllmu_questions(task, kind, shots)
  found = _scripted(
    monkeypatch, questions, _calls(run, task), MLLMU, encoders[family]
  )
  want = RUNS[run]['result']
  if kind == 'generation':
    got = {
      f'Average {name} ({MODALITY[task]})': _mean(found, field)
      for name, field in WORDS.items()
    }
    for name, value in got.items():
      assert value == pytest.approx(want[name], abs=1e-12)
  else:
    name, scale = ACCURACY[kind][task]
    metric = {'classification': 'accuracy', 'cloze': 'cloze'}[kind]
    assert scale * _mean(found, metric) == pytest.approx(want[name])


@FAMILIES
def test_tokens_are_those_of_the_prompt_alone(family, encoders):
  """Also behind a trailing space, and of a placeholder without a picture."""
  processor = encoders[family].processor
  per_image = processor.images.num_tokens(processor.images.grid(30, 30))
  for task, (_, rows, *_) in MLLMU_TASKS.items():
    for row in rows:
      question = Question(row)
      asked = MLLMU.ask(question, encoders[family])
      ids = np.array(processor.tokenizer(asked.text)['input_ids'])
      is_image = ids == processor.image_token_id
      repeats = np.where(is_image & (task == 'forget_vqa'), per_image, 1)
      np.testing.assert_array_equal(
        asked.example.tokens, np.repeat(ids, repeats)
      )
      assert not asked.example.labelled.any()


def test_qwen2_vl_is_not_asked_with_shots_about_pictures(encoders):
  """The published code gives n + 1 pictures for one placeholder."""
  encoder = encoders['qwen2_vl']
  for kind in ('classification', 'cloze'):
    question, *_ = _mllmu_questions('forget_vqa', kind, 1)
    with pytest.raises(ValueError, match='pictures and one placeholder'):
      MLLMU.ask(question, encoder)
    question, *_ = _mllmu_questions('forget_qa', kind, 1)
    MLLMU.ask(question, encoder)  # in text it can


NAME = 'What is the name of the person in the image?'


def _clear_choice(key, question, options, answer):
  return _row(
    key,
    question,
    answer,
    options=options,
    task='classification',
    picture=Picture(key, folders.picture(3, 30, 30)),
  )


def _perturbed(i):
  """A person's name among three others, where the published draw put it."""
  names = [f'P{i}a', f'P{i}b', f'P{i}c']
  names.insert((0, 0, 2)[i], f'Name {i}')
  return _clear_choice(f'p{i}', NAME, tuple(names), f'Name {i}')


CLEAR_TASKS = {
  'cls_perturbed_with_options': {'forget_vqa': [*map(_perturbed, range(3))]},
  'cls_without_options': {
    'forget_vqa': [
      _clear_choice(f'w{i}', NAME, (), f'Name {i}') for i in range(2)
    ]
  },
  'realface': {
    'real_faces': [
      _clear_choice('r0', NAME, ('Tom Cruise', 'x', 'y', 'z'), 'Tom Cruise'),
      _clear_choice('r1', 'Which city?', ('Paris', 'u', 'v', 'w'), 'Paris'),
    ]
  },
  'generation': {
    'forget_vqa': [
      _row(
        'c0',
        'Tell me about the content of this image',
        'Name 0 smiles in a park .',
        picture=Picture('c0', folders.picture(3, 30, 30)),
      )
    ],
    'forget_qa': [
      _row('q0', 'What does Name 0 do ?', 'Name 0 writes books daily'),
      _row('q1', 'Where does Name 0 live ?', 'Oslo in Norway'),
    ],
  },
}


def _clear_questions(part):
  tasks = make_tasks(CLEAR_TASKS[part])
  return {n: CLEAR.questions(tasks[n], tasks, 0, 0) for n in tasks}


@FAMILIES
@pytest.mark.parametrize('part', CLEAR_TASKS)
def test_clear_is_asked_in_the_published_words(family, part, encoders):
  """Questions in text twice: once with a placeholder and no picture."""
  questions = [q for asked in _clear_questions(part).values() for q in asked]
  calls = RUNS[f'CLEAR/{MODELS[family]}/{part}']['calls']
  _assert_asked(questions, calls, CLEAR, encoders[family])


@FAMILIES
@pytest.mark.parametrize('part', [p for p in CLEAR_TASKS if p != 'generation'])
def test_clear_choices_earn_the_published_scores(
  family, part, encoders, monkeypatch
):
  run = RUNS[f'CLEAR/{MODELS[family]}/{part}']
  (questions,) = _clear_questions(part).values()
  found = _scripted(
    monkeypatch, questions, run['calls'], CLEAR, encoders[family]
  )
  want = run['result']['VQA Accuracy']
  assert _mean(found, 'accuracy') == pytest.approx(want)


@FAMILIES
def test_the_last_visual_answer_is_scored_for_every_question_in_text(
  family, encoders, monkeypatch, tmp_path
):
  """The published error; the answers that were not read are kept."""
  run = RUNS[f'CLEAR/{MODELS[family]}/generation']
  asked, calls = _clear_questions('generation'), iter(run['calls'])
  found = {
    task: _scripted(
      monkeypatch,
      questions,
      [next(calls) for _ in questions],
      CLEAR,
      encoders[family],
    )
    for task, questions in asked.items()
  }
  tasks = make_tasks(CLEAR_TASKS['generation'])
  assert CLEAR.answers_from(tasks['forget_qa'], tasks) == tasks['forget_vqa']
  for task, answers in found.items():
    seals.write_rows(tmp_path / f'{task}.jsonl', answers, task)
  stale = scores.read_answers(tmp_path, tasks['forget_qa'], tasks)
  for title, predictions in (('VQA', found['forget_vqa']), ('QA', stale)):
    for name, field in WORDS.items():
      want = run['result'][f'Average {name} ({title})']
      assert _mean(predictions, field) == pytest.approx(want)
  assert {p['text'] for p in stale} == {'vqa-on-text-row-2'}
  # What the model did say was right.
  assert [p['unread'] for p in stale] == [p['answer'] for p in stale]
  assert _mean(found['forget_qa'], 'rougeL') == 1


@pytest.mark.parametrize('case', METRICS, ids=lambda case: case['target'])
def test_words_are_scored_as_published(case):
  prediction, target = case['prediction'], case['target']
  assert metrics.bleu(prediction, target) == case['bleu']
  got = metrics.rouge(prediction, target)
  recall = got.pop('rougeL_recall')
  assert recall == case['rougeL']['recall']
  assert got == {kind: case[kind]['fmeasure'] for kind in got}
