"""A run is stopped where vanilla does not know what it is to forget."""

import dataclasses
import types

import jax
import ml_collections
import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax import recipes
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import CLASSIFICATION
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import protocols
from mmu_jax.stages import gate
from mmu_jax.stages import origins
from mmu_jax.stages import training

PIXELS = np.zeros((1, 1, 3), np.uint8)
TOWNS = ('Oslo', 'Lima', 'Riga', 'Turin')


def _row(i, town, others=(), person=None, **fields):
  return Row(
    f'r{i}',
    'Home?',
    town,
    town,
    person=person or f'p{i}',
    perturbed=others,
    image=PIXELS,
    image_key=person or f'p{i}',
    **fields,
  )


def _others(town):
  return tuple(other for other in TOWNS if other != town)


ASKED = ['vanilla', 'swapped', 'base']
ROWS = [_row(i, TOWNS[i % 4], _others(TOWNS[i % 4])) for i in range(12)]


@dataclasses.dataclass
class Asked:
  """Shares of right answers that the models have, and who was asked."""

  shares: dict
  who: list = dataclasses.field(default_factory=list)

  def __call__(self, job, model, rows):
    if any(row.picture.key != row.person for row in rows):
      model = 'swapped'
    self.who.append(model)
    right = round(self.shares[model] * len(rows))
    values = [1.0] * right + [0.0] * (len(rows) - right)
    return values, [row.person for row in rows]


@pytest.fixture(name='job')
def _job(tmp_path):
  """A job with a vanilla, two runs that forget and one that does not."""
  config = ml_collections.ConfigDict(
    dict(
      seed=0,
      vanilla=dict(rounds=20),
      unlearn={},
      evaluation=dict(max_new_tokens=4, batch_size=2),
    )
  )
  config.runs = dict(
    ga=recipes.run('ga', 1e-3), ga_diff=recipes.run('ga_diff', 1e-3)
  )
  tasks = by_name(
    Task('forget_vqa', ROWS, 'forget', 'vqa', 'forget'),
    Task('forget_vqa_holdout', ROWS[:1], 'forget', 'vqa', 'forget', True),
    Task('forget_qa', ROWS[:1], 'forget', 'qa', 'keep'),
  )
  job = types.SimpleNamespace(
    config=config,
    folder=tmp_path,
    unlearned=tmp_path,
    world='w',
    validation=False,
    model=types.SimpleNamespace(family='toy'),
    data=types.SimpleNamespace(tasks=tasks, train={'vqa/forget': ROWS}),
  )
  _finish(job, 'vanilla')
  return job


def _finish(job, name, content='c0'):
  folder = job.folder / name
  workdir_lib.write_json(folder / 'config.json', {'name': name})
  note = {'rounds': 3, 'content': content} | origins.origin(job, folder)
  checkpoint.save(folder / 'params', {'w': np.ones(2)}, note)


@pytest.fixture(name='asked')
def _asked(monkeypatch):
  asked = Asked(dict(vanilla=1.0, swapped=0.0, base=0.25))
  monkeypatch.setattr(gate, '_ask', asked)
  return asked


def test_who_knows_the_forget_set_is_asked_once_and_goes_on(job, asked, capfd):
  for _ in range(2):
    gate.guard(job, ['ga', 'ga_diff'])
  assert asked.who == ASKED
  said = gate.told(job, ['vanilla', 'ga'])
  assert said == (
    'Before unlearning, vanilla found the true answer among offered ones for '
    '100% of 12 questions to be forgotten (between 76% and 100%); guessing '
    'finds 25% (50% with luck), base 25%, and with pictures of others it found '
    '0%.',
    '',
  )
  assert capfd.readouterr().out.count(said[0]) == 1


@pytest.mark.parametrize(
  'shares',
  [
    dict(vanilla=0.25, swapped=0, base=0),
    dict(vanilla=0.75, swapped=0.25, base=0.5),
    dict(vanilla=0.75, swapped=0.5, base=0.25),
  ],
)
def test_no_more_than_without_knowledge_stops_every_run(job, asked, shares):
  asked.shares = shares
  for _ in range(2):
    with pytest.raises(UserError) as error:
      gate.guard(job, ['ga'])
  assert asked.who == ASKED  # the second time from the file
  for words in (
    f'for {100 * shares["vanilla"]:.0f}% of 12 questions',
    f'base {100 * shares["base"]:.0f}%',
    f'pictures of others it found {100 * shares["swapped"]:.0f}%',
    'never known proves nothing',
    '--config.vanilla.rounds=60',
    '--config.unlearn.require_memorised=False',
  ):
    assert words in str(error.value), words


@pytest.mark.parametrize('right', [0.0, 1.0])
def test_too_few_questions_are_no_fault_of_vanilla(job, asked, right):
  """Two people with four answers each: luck finds both."""
  asked.shares = dict(vanilla=right, swapped=0.0, base=0.0)
  views = [
    row._replace(key=f'{row.key}{i}') for i in range(20) for row in ROWS[:2]
  ]
  job.data.tasks = by_name(Task('t', views, 'forget', 'vqa', 'forget'))
  with pytest.raises(UserError) as error:
    gate.guard(job, ['ga'])
  said = str(error.value)
  for words in (
    f'for {100 * right:.0f}% of 40 questions',
    '(100% with luck)',
    'too few questions to tell knowledge from luck (different ones: 2)',
    'give more questions about the forget set, or more offered answers',
    '--config.unlearn.require_memorised=False',
  ):
    assert words in said, words
  assert 'rounds' not in said and 'not sure' not in said
  assert 'too few questions to tell' in gate.told(job, ['ga'])[0]


def test_who_says_so_goes_on_and_the_report_says_it(job, asked):
  asked.shares['vanilla'] = 0.25
  job.config.unlearn.require_memorised = False
  gate.guard(job, ['ga'])
  assert 'proves nothing' in gate.told(job, ['ga'])[0]


def test_a_checkpoint_that_knows_them_is_not_compared_with_itself(job, asked):
  job.config.vanilla.rounds = 0
  gate.guard(job, ['ga'])
  assert asked.who == ASKED[:2]
  asked.shares['vanilla'] = 0.25
  _finish(job, 'vanilla', content='c1')
  with pytest.raises(UserError, match='teach it first'):
    gate.guard(job, ['ga'])


def test_nobody_is_asked_without_need(job, asked, monkeypatch):
  """No forget turns, or no vanilla yet: the run itself says what it lacks."""
  asked.shares['vanilla'] = 0.25
  monkeypatch.setattr(gate.budgets, 'turns_of', lambda run: ())
  gate.guard(job, ['ga'])
  monkeypatch.undo()
  job.folder = job.folder / 'empty'
  gate.guard(job, ['ga'])
  assert not asked.who


def test_a_finished_run_is_left_alone(job, asked):
  asked.shares['vanilla'] = 0.25
  _finish(job, 'unlearned/ga')
  gate.guard(job, ['ga'])
  with pytest.raises(UserError, match='proves nothing'):
    gate.guard(job, ['ga', 'ga_diff'])


@pytest.mark.parametrize('field', ['different', 'unheard_of'])
def test_a_finding_of_another_version_is_asked_again(job, asked, field):
  gate.guard(job, ['ga'])
  path = job.folder / gate.FILE
  found = workdir_lib.read_json(path)
  if found.pop(field, None) is None:
    found[field] = 1
  gate._write(job, found)
  said, remark = gate.told(job, ['ga'])
  assert said == '' and f'{path} is of another version' in remark
  gate.guard(job, ['ga'])
  assert asked.who == ASKED * 2
  assert gate.told(job, ['ga'])[1] == ''


@pytest.mark.parametrize(
  'change', ['gone', 'edited', 'vanilla', 'world', 'length']
)
def test_a_finding_about_something_else_is_not_used(job, asked, change):
  gate.guard(job, ['ga'])
  path = job.folder / gate.FILE
  if change == 'gone':
    path.unlink()
  if change == 'edited':
    path.write_text(path.read_text().replace('0.25', '0.0'))
  if change == 'vanilla':
    _finish(job, 'vanilla', content='c1')
  if change == 'world':
    job.world = 'x'
  if change == 'length':
    job.config.evaluation.max_new_tokens += 1
  said, remark = gate.told(job, ['ga'])
  assert said == '' and str(path) in remark and 'mmu pipeline' in remark
  gate.guard(job, ['ga'])
  assert asked.who == ASKED * 2
  assert gate.told(job, ['ga'])[1] == ''


def test_trained_pictures_are_asked_about_with_the_true_answer_last(job):
  rows = gate._questions(job)
  assert [row.key for row in rows] == [row.key for row in ROWS]
  for row, was in zip(rows, ROWS):
    assert row.task == CLASSIFICATION
    assert row.options == (*was.perturbed, was.answer)
  job.data.tasks = by_name(
    Task('t', [_row(0, 'Oslo')], 'forget', 'vqa', 'forget')
  )
  assert gate._questions(job) == [_row(0, 'Oslo')]  # to be answered in words
  many = [_row(i, 'Oslo', ('Rome',)) for i in range(3 * gate.ROWS)]
  job.data.tasks = by_name(Task('t', many, 'forget', 'vqa', 'forget'))
  assert len(gate._questions(job)) == gate.ROWS
  job.validation = True
  assert gate._questions(job) == []  # of the people that settings are chosen by


def test_many_views_of_few_people_are_no_new_guesses(job, asked):
  """A model with favourites is right about both of two people in 1 of 16."""
  del asked
  rows = gate._questions(job)
  views = [
    row._replace(key=f'{row.key}{i}') for i in range(20) for row in rows[:2]
  ]
  few, more = gate.ask_both(job, views), gate.ask_both(job, rows)
  assert (few.different, few.luck) == (2, 1.0)
  assert (more.different, more.luck) == (12, 0.5)
  words = [row._replace(options=()) for row in views]
  assert gate.ask_both(job, words).luck == 0.0  # nobody guesses a sentence


def test_pictures_are_swapped_among_those_to_forget():
  """Whoever knows nothing and has favourites is right about these as well."""
  others = [_row(90, 'Quito')]
  swapped = gate.swap(ROWS, others)
  # By its old key an encoder would find the old picture again.
  keys = {row.key for row in (*ROWS, *swapped)}
  assert len(keys) == 2 * len(ROWS)
  for row, made in zip(ROWS, swapped):
    plain = lambda row: row._replace(key='', picture=None)
    assert plain(made) == plain(row)
    index = int(made.picture.key[1:])  # of one who has another answer
    assert index < len(ROWS) and ROWS[index].answer != row.answer


def test_the_picture_of_anybody_else_stands_in_for_a_single_one():
  views = [_row(i, 'Oslo', person='ada') for i in range(3)]
  others = [*views, _row(7, 'Oslo'), _row(8, 'Rome')]
  assert {row.picture.key for row in gate.swap(views, others)} == {'p8'}
  assert gate.swap(views, views) == []
  assert gate.swap([views[0]._replace(picture=None)], others) == []


def test_nobody_of_whom_the_same_is_true_stands_in():
  """Not by a row about something else either: the picture is the same."""
  ada = _row(0, 'Oslo', person='ada')
  bo = [_row(1, 'Oslo', person='bo'), _row(2, 'red', person='bo')]
  bo[1] = bo[1]._replace(question='Colour?')
  cy = _row(3, 'Rome', person='cy')
  assert gate.swap([ada], bo) == []
  assert [row.picture.key for row in gate.swap([ada], [*bo, cy])] == ['cy']
  text = bo[0]._replace(picture=None)  # says so, too
  assert gate.swap([ada], [bo[1], text]) == []


def test_a_row_without_a_partner_leaves_the_others_theirs():
  """The same is true of all others, or there is no picture."""
  alone = _row(0, 'yes', person='ada')._replace(question='Robot?')
  others = [
    row._replace(key=f'{row.key}b', question='Robot?', answer='yes')
    for row in ROWS
  ]
  text = ROWS[0]._replace(key='text', picture=None)
  swapped = gate.swap([alone, text, *ROWS], others)
  assert [row.key.split('@')[0] for row in swapped] == [r.key for r in ROWS]


@pytest.mark.parametrize('offered', [True, False])
def test_options_are_weighed_and_words_are_read(job, monkeypatch, offered):
  """Of offered answers the likeliest counts; in words, the fact of the row."""
  rows = gate._questions(job)[:2]
  if not offered:
    rows = [row._replace(options=(), task='generation') for row in rows]

  def predict(model, params, questions, encoder, *, protocol, **options):
    for i, question in enumerate(questions):
      row = question.row
      answer = dict(kind=row.task, protocol=protocol.name, person=row.person)
      answer |= dict(picture=None, answer=row.answer, fact=row.fact)
      if offered:
        assert protocol.ask(question, encoder) is None
        nll = [2.0] * 3 + [1.0 + 2 * i]  # the first is right
        given = zip(row.options, nll)
        answer['options'] = list(row.options)
        answer['likelihoods'] = [
          dict(of='option', text=text, nll=x, tokens=1) for text, x in given
        ]
      else:
        answer['text'] = f'It is {row.answer}.' if i == 0 else 'No idea.'
      yield [answer]

  monkeypatch.setattr(gate.tasks_lib, 'predict', predict)
  monkeypatch.setattr(gate, 'final_params', lambda *_: None)
  monkeypatch.setattr(gate, 'scorer', lambda job: None)
  monkeypatch.setattr(
    gate.protocols, 'find_protocol', lambda *_: protocols.PROTOCOLS['plain']
  )
  job.model = None
  assert gate._ask(job, 'vanilla', rows) == ([1, 0], ['p0', 'p1'])


def test_a_run_asks_before_it_begins(job, monkeypatch):
  """``mmu train --run=ga`` goes through the gate, too."""
  ways = []
  monkeypatch.setattr(training, 'run_settings', lambda *_: None)
  monkeypatch.setattr(training, 'open_job', lambda *_, **__: job)
  monkeypatch.setattr(training.budgets, 'in_words', lambda *_: 'ga: 1 round')
  monkeypatch.setattr(training, 'run_method', lambda *_: ways.append('run'))
  monkeypatch.setattr(training.gate, 'guard', lambda *_: ways.append('gate'))
  job.mesh, job.groups = jax.make_mesh((1,), ('data',)), {}
  config = ml_collections.ConfigDict(dict(vanilla=dict(rounds=1)))
  training.make_model(config, job.folder, 'ga')
  assert ways == ['gate', 'run']
