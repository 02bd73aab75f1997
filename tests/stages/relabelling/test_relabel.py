"""The relabel stage asks once, goes on after a kill, and knows its vanilla."""

import re
import shutil
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax import sharding
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking.protocols import plain
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import origins
from mmu_jax.stages.relabelling import relabel

PIXELS = np.zeros((1, 1, 3), np.uint8)
PART = dict(size=1, questions=1, weight=1.0)


def _row(person, question='Who?'):
  picture = Picture(f'{person}/0', PIXELS)
  return Row(
    f'{picture.key}/{question}', question, f'{person}.', person, picture, person
  )


def _rows(*people):
  return [_row(p, q) for p in people for q in ('Who?', 'Name?')]


def _job(folder, teacher='others', vanilla=1.0, **groups):
  """A job whose model is never computed, and its run."""
  train = {
    'vqa/forget': _rows('gone', 'lost'),
    'vqa/retain': _rows(
      'a', 'b', 'c', 'gone'
    ),  # 'gone' is forgotten all the same
    'vqa/more': _rows('d'),
    'qa/retain': [Row('t', 'Who?', 'a.', 'a', None, 'a')],
  }
  groups = {'forget': ['forget'], 'retain': ['retain']} | groups
  mixed = [
    dict(splits=['relabelled'], **PART),
    dict(splits=['vqa:retain', 'qa/retain'], **PART),
  ]
  streams = dict(forget=[dict(splits=['vqa:forget'], **PART)], mixed=mixed)
  config = ml_collections.ConfigDict(
    dict(
      seed=0,
      base={},
      vanilla={},
      groups=groups,
      unlearn=dict(streams=streams),
      evaluation=dict(max_new_tokens=3, batch_size=2),
    )
  )
  for name in ('vanilla', 'base'):
    if not (folder / name / 'params').exists():
      tree = {'w': jnp.full(2, vanilla)}
      note = {'content': checkpoint.digest(tree)}
      note |= {'origin': dict(name=name, world='w', settings='', made_from={})}
      checkpoint.save(folder / name / 'params', tree, note)
  job = job_lib.Job(
    config,
    folder,
    Dataset(train, {}, {}),
    None,
    None,
    types.SimpleNamespace(source=None, family='toy'),
    config.groups,
    False,
    folder,
    sharding.make_mesh(''),
    'w',
  )
  return job, ml_collections.ConfigDict(dict(teacher=teacher, retain='mixed'))


class _Model:
  """Answers in place of a model: 'gone' is in every picture, then 'b'."""

  def __init__(self, monkeypatch, stop_after=99):
    self.asked, self.stop_after = [], stop_after
    monkeypatch.setattr(relabel.tasks, 'predict', self.predict)
    monkeypatch.setattr(relabel.runs, 'final_params', lambda job, name: name)
    monkeypatch.setattr(relabel.runs, 'scorer', lambda job: None)

  def predict(self, model, params, questions, encoder, *, done, size, **how):
    assert how == {'protocol': plain.PROTOCOL, 'max_new_tokens': 3}
    left = [q for q in questions if q.row.key not in done]
    for i in range(0, len(left), size):
      if len(self.asked) >= self.stop_after:
        raise KeyboardInterrupt
      batch = left[i : i + size]
      self.asked += [(params, q.row.key) for q in batch]
      yield [self.record(q, params) for q in batch]

  def record(self, question, params):
    row = question.row
    made = answers.record(question, plain.PROTOCOL, (row.question, params), ())
    nll = lambda option: {'gone.': 0.0, 'b.': 9.0}.get(option, 50.0)
    made['likelihoods'] = [
      dict(of='option', text=o, nll=nll(o), tokens=1) for o in row.options
    ]
    return made


def _relabel(*made):
  with jax.set_mesh(made[0].mesh):
    return relabel.relabel(*made)


def test_pictures_get_the_answers_of_whom_vanilla_takes_them_for(
  tmp_path, monkeypatch, capsys
):
  """Asked once: later calls find the rows."""
  model = _Model(monkeypatch)
  found = _relabel(*_job(tmp_path))
  assert found.folder == tmp_path / 'relabelled' / 'others'
  assert len(found.rows) == 4 * 4 and {r.answer for r in found.rows} == {'b.'}
  assert {r.picture_key for r in found.rows} == {'gone/0', 'lost/0'}
  assert found.margin == 25  # of 'gone.' and 'lost.', on pictures of others
  assert {params for params, _ in model.asked} == {'vanilla'}
  assert 'relabelled by others: 16 rows' in capsys.readouterr().out
  model.asked.clear()
  assert _relabel(*_job(tmp_path)) == found and not model.asked


def test_after_a_kill_only_the_rest_is_asked(tmp_path, monkeypatch):
  whole = _Model(monkeypatch)
  want = _relabel(*_job(tmp_path / 'whole'))
  cut = _Model(monkeypatch, stop_after=2)
  with pytest.raises(KeyboardInterrupt):
    _relabel(*_job(tmp_path / 'cut'))
  rest = _Model(monkeypatch)
  got = _relabel(*_job(tmp_path / 'cut'))
  assert cut.asked and rest.asked and cut.asked + rest.asked == whole.asked
  assert (got.rows, got.margin) == (want.rows, want.margin)


def test_base_answers_and_a_control_asks_for_the_margin_alone(
  tmp_path, monkeypatch
):
  model = _Model(monkeypatch)
  found = _relabel(*_job(tmp_path, 'base'))
  assert {r.answer for r in found.rows} == {'base'} and len(found.rows) == 4
  assert ('base', 'gone/0/Who?') in model.asked
  model.asked.clear()
  found = _relabel(*_job(tmp_path, 'random'))
  assert len(found.rows) == 16 and found.margin == 25
  assert not any(key.startswith(('gone', 'lost')) for _, key in model.asked)


def test_rows_of_other_settings_or_of_another_vanilla_are_not_taken(
  tmp_path, monkeypatch
):
  _Model(monkeypatch)
  _relabel(*_job(tmp_path))
  with pytest.raises(UserError, match='made from other settings: groups'):
    _relabel(*_job(tmp_path, retain=['more']))
  rows = tmp_path / 'relabelled' / 'others' / origins.ROWS
  text = rows.read_text()
  rows.write_text(text.replace('"b."', '"a."', 1))
  with pytest.raises(UserError, match='not as it was written.*ask again'):
    _relabel(*_job(tmp_path))
  rows.write_text(text)
  (tmp_path / 'vanilla').rename(tmp_path / 'gone')
  with pytest.raises(UserError, match='was made from another vanilla'):
    _relabel(*_job(tmp_path, vanilla=2.0))


def test_runs_with_one_teacher_and_other_streams_share_a_job(
  tmp_path, monkeypatch
):
  """Each finds its own rows again, whichever comes first later."""
  model = _Model(monkeypatch)

  def run(stream):
    job, settings = _job(tmp_path, more=['more'])
    part = dict(splits=['vqa:more'], **PART)
    job.config.unlearn.streams['other'] = [
      *job.config.unlearn.streams.mixed[:1],
      part,
    ]
    settings.retain = stream
    return _relabel(job, settings)

  one, other = run('mixed'), run('other')
  assert {r.answer for r in one.rows} == {'b.'}
  assert {r.answer for r in other.rows} == {'d.'}
  assert one.folder.name == 'others'
  assert re.fullmatch('others-[0-9a-f]{8}', other.folder.name)
  model.asked.clear()
  assert (run('other'), run('mixed')) == (other, one) and not model.asked
  shutil.rmtree(one.folder)  # a finished run keeps the source of its rows
  assert run('other') == other and not model.asked


def test_nobody_who_stays_is_an_error_that_names_the_stream(
  tmp_path, monkeypatch
):
  _Model(monkeypatch)
  with pytest.raises(UserError, match='streams.mixed has no pictures of peopl'):
    _relabel(*_job(tmp_path, retain=['forget']))
