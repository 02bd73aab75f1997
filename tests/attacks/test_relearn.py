"""Relearning learns from the pictures of its case, and catches who knew."""

from attacked import small_job
import jax
import ml_collections
import pytest

from mmu_jax.attacks import asking
from mmu_jax.attacks import relearn
from mmu_jax.attacks import showing
from mmu_jax.attacks import stage
from mmu_jax.distributed import preemption
from mmu_jax.stages import runs

pytestmark = pytest.mark.usefixtures('quick_compile')
Config = ml_collections.ConfigDict
SETTINGS = dict(
  models=(),
  steps=(0, 1, 3),
  rows=12,
  size=2,
  questions=4,
  cases=dict(
    one=dict(learns='pictures', pictures=1, draw=0, rate=1e-2),
    text=dict(learns='text', pictures=0, draw=0, rate=1e-2),
  ),
)


@pytest.fixture
def job(tmp_path, monkeypatch):
  job = small_job(tmp_path, monkeypatch, attacks={'relearn': SETTINGS})
  with jax.set_mesh(job.mesh):
    yield job


def _learned(job, learns='pictures', pictures=0, draw=0):
  case = dict(learns=learns, pictures=pictures, draw=draw)
  return relearn.learned_rows(job, Config(case))


def test_so_many_pictures_of_each_and_all_of_their_rows(job):
  every = _learned(job)
  keys = lambda rows: {row.picture_key for row in rows}
  people = {row.person for row in every}
  draws = [_learned(job, pictures=1, draw=i) for i in range(3)]
  for rows in draws:
    assert len(keys(rows)) == len(people) == job.config.data.num_forget
    assert rows == [r for r in every if r.picture_key in keys(rows)]
  # Three draws of one are the three pictures of each.
  assert set.union(*map(keys, draws)) == keys(every)
  assert keys(_learned(job, pictures=9)) == keys(every)
  assert _learned(job, pictures=2) == _learned(job, pictures=2)


def test_other_cases_learn_nothing_about_pictures_of_the_forgotten(job):
  forgotten = {row.person for row in _learned(job)}
  text, retain = _learned(job, 'text'), _learned(job, 'retain')
  assert {row.person for row in text} == forgotten
  assert not any(row.picture for row in text)
  assert all(row.picture for row in retain)
  assert not {row.person for row in retain} & forgotten


def test_a_curve_begins_at_the_model_and_a_stopped_attack_goes_on(
  job, tmp_path, monkeypatch
):
  stop = []
  monkeypatch.setattr(preemption, 'requested', lambda step: bool(stop))
  done, case = [], relearn._case

  def noted(job, model, spec, name, *rest):
    if name == 'text':
      stop.append(1)
    done.append(name)
    return case(job, model, spec, name, *rest)

  monkeypatch.setattr(relearn, '_case', noted)
  with pytest.raises(preemption.Preempted, match='earlier cases are kept'):
    relearn.relearn(job, 'vanilla', tmp_path)
  stop.clear()
  monkeypatch.setattr(relearn, '_case', case)
  cut = relearn.relearn(job, 'vanilla', tmp_path)
  whole = relearn.relearn(job, 'vanilla', tmp_path / 'whole')
  assert done == ['one', 'text'] and cut == whole
  stage.check_rows(whole)
  curve = showing._curves({'x': whole}, 'one', 'nll')['x']
  look = asking.make_look(job, asking.headline_rows(job, 'vqa', most=12))
  assert list(curve) == [0, 1, 3]
  assert curve[0] == pytest.approx(look(runs.final_params(job, 'x'))['nll'])
  assert curve[3] < curve[0]  # it learns something


def test_a_case_that_learns_as_another_is_left_out(
  job, tmp_path, monkeypatch, capsys
):
  one = SETTINGS['cases']['one'] | {'pictures': 0}
  job.config.attacks.relearn.cases = dict(
    all=one, more=one | {'pictures': 99}, slow=one | {'rate': 1e-3}
  )
  monkeypatch.setattr(relearn, '_case', lambda *given: [{'case': given[3]}])
  rows = relearn.relearn(job, 'vanilla', tmp_path)
  assert [row['case'] for row in rows] == ['all', 'slow']
  assert "the case 'more' is as 'all'" in capsys.readouterr().out


def test_a_model_that_knew_them_is_far_from_one_that_never_did(
  job, tmp_path, monkeypatch
):
  """Vanilla for one that hides nothing: it learned the same pictures before."""
  seen = {}

  def look(params):
    seen['vanilla'] = jax.tree.map(lambda x: x.copy(), params)
    return {}

  part = relearn.batching.Part(_learned(job), 2, 4)
  relearn.finetuned(
    job, 'x', part, steps=(25,), rate=1e-2, look=look, title='learn'
  )
  found = {'retrained': relearn.relearn(job, 'retrained', tmp_path / 'r')}
  copy = lambda *_: jax.tree.map(lambda x: x.copy(), seen['vanilla'])
  monkeypatch.setattr(runs, 'final_params', copy)
  found['vanilla'] = relearn.relearn(job, 'vanilla', tmp_path / 'v')
  lines = showing.lines_of(found)
  area = next(x for x in lines if (x.case, x.score) == ('one', 'nll, area'))
  assert area.values['vanilla'] < -3  # nats, of 10 or so
