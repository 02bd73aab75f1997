"""Models that must be caught, and models that must not, by their answers."""

from attacked import small_job
import jax
import pytest

from mmu_jax.attacks import prompts
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import changes

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.fixture
def job(tmp_path, monkeypatch):
  monkeypatch.setattr(prompts.origins, 'content', lambda folder: 'c')
  made = small_job(tmp_path, monkeypatch)
  made.config.attacks.prompts.rows = 6
  made.config.evaluation.max_new_tokens = 3
  return made


def _attack(job, name='ga'):
  folder = job.folder / name
  folder.mkdir(exist_ok=True)
  with jax.set_mesh(job.mesh):
    found = prompts.prompts(job, name, folder)
  assert all(row['step'] is None and 0 <= row['value'] <= 1 for row in found)
  return {(row['case'], row['metric']): row for row in found}


def _answering(monkeypatch, say):
  """A model that says ``say(question)`` to every question."""

  def predict(model, params, questions, encoder, *, protocol, done, **how):
    yield [
      answers.record(q, protocol, (q.row.question, say(q)), ())
      for q in questions
      if q.row.key not in done
    ]

  monkeypatch.setattr(prompts.tasks, 'predict', predict)


def _values(found, metric):
  return {case: row['value'] for (case, m), row in found.items() if m == metric}


def test_a_model_that_knows_everybody_is_caught_in_every_case(job, monkeypatch):
  _answering(monkeypatch, lambda q: q.row.answer)
  found = _attack(job)
  for split in ('forget', 'retain'):
    assert _values(found, split) == dict.fromkeys(changes.CASES, 1)
  assert {row['n'] for row in found.values()} == {6}


def test_refusing_and_parroting_are_no_knowledge(job, monkeypatch):
  """A parrot repeats the question and all that stands before it."""
  _answering(monkeypatch, lambda q: 'I do not know.')
  for row in _attack(job, 'refusing').values():
    assert row['value'] == 0
  parrot = lambda q: ' '.join(
    [q.row.question, *(t for s in q.shots for t in (s.question, s.answer))]
  )
  _answering(monkeypatch, parrot)
  for row in _attack(job, 'parrot').values():
    assert row['value'] == 0


def test_a_model_that_knows_one_wording_only_is_caught_by_others(
  job, monkeypatch
):
  clean = lambda q: q.row.key.endswith('@clean')
  hide = lambda q: 'No.' if clean(q) else q.row.answer
  _answering(monkeypatch, hide)
  values = _values(_attack(job), 'forget')
  assert values.pop('clean') == 0 and set(values.values()) == {1}


def test_an_answer_without_a_fact_is_to_be_the_same(job, monkeypatch):
  tasks = {
    name: task._replace(rows=[row._replace(fact='') for row in task.rows])
    for name, task in job.data.tasks.items()
  }
  factless = job._replace(data=job.data._replace(tasks=tasks))
  for end, value in (('', 1), (' I think.', 0)):
    _answering(monkeypatch, lambda q: q.row.answer + end)
    values = _values(_attack(factless, f'ga{value}'), 'forget')
    assert values and set(values.values()) == {value}


def test_a_model_is_asked_once(job, monkeypatch):
  """A model of a few weights, through all that asks it."""
  found = _attack(job)
  assert _values(found, 'forget').keys() == changes.CASES.keys()
  monkeypatch.setattr(prompts.tasks, 'predict', None)
  assert _attack(job) == found


def test_data_without_questions_to_forget_are_refused(job, capsys):
  nothing = job._replace(data=job.data._replace(tasks={}))
  with pytest.raises(UserError, match='no reported task'):
    prompts.changed_questions(nothing)
  nameless = job._replace(data=job.data._replace(names={}, train={}))
  nameless = nameless._replace(groups=dict.fromkeys(job.groups, ()))
  found = prompts.changed_questions(nameless)
  assert ('reworded', 'forget') in found and ('named', 'forget') not in found
  assert "left out: the case 'few-shot'" in capsys.readouterr().out
