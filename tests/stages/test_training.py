"""A run gets the mask of its kind, and a run without one gets none."""

import pathlib
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import toy

from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.stages import training
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.relabelling import relabel


@pytest.mark.parametrize(
  'kind, want',
  [('saliency', 'mask saliency'), ('random', 'mask random'), ('', None)],
)
def test_a_run_is_trained_with_the_mask_of_its_kind(monkeypatch, kind, want):
  plans = []
  streams = dict(forget=(), retain=())
  unlearn = ml_collections.ConfigDict(dict(streams=streams, save_every=1))
  job = types.SimpleNamespace(
    config=types.SimpleNamespace(unlearn=unlearn, seed=0),
    folder=pathlib.Path('work'),
    unlearned=pathlib.Path('work'),
    model=types.SimpleNamespace(forward=None),
    data=types.SimpleNamespace(train={}),
    groups={},
  )
  method = 'mmunlearner' if kind else 'ga_diff'
  run = ml_collections.ConfigDict(recipes.run(method, 1e-3, kind))
  nothing = lambda *_, **__: None
  for name in ('require', 'make_stream', '_reference', 'run_claim'):
    monkeypatch.setattr(training, name, nothing)
  monkeypatch.setattr(training, '_found_finished', lambda *_: False)
  monkeypatch.setattr(training.masking, 'mask', lambda _, kind: f'mask {kind}')
  monkeypatch.setattr(
    training.plans,
    'unlearning_plan',
    lambda config, run, **given: types.SimpleNamespace(**given),
  )
  monkeypatch.setattr(
    training, 'fit_model', lambda job, name, plan, *rest: plans.append(plan)
  )
  training.run_method(job, 'run', run, probe=False)
  assert [plan.mask for plan in plans] == [want]


def test_a_stream_of_runs_with_a_teacher_leaves_the_claims_of_others():
  config = recipes.load('people:fast')
  job = types.SimpleNamespace(config=config, groups=config.groups)
  claim = lambda name: training.run_claim(job, config.runs[name])
  names = 'ga_diff', 'counterfactual'
  before = [claim(name) for name in names]
  mixed = config.unlearn.streams.mixed
  assert before[1]['unlearn']['streams']['mixed'] == mixed
  config.unlearn.streams.mixed = mixed[:2]
  assert [claim(k) == was for k, was in zip(names, before)] == [True, False]
  config.unlearn.streams.retain = config.unlearn.streams.forget
  assert claim('ga_diff') != before[0]


def test_adapters_are_in_the_claims_of_their_runs_alone():
  config = recipes.load('people:fast')
  job = types.SimpleNamespace(config=config, groups=config.groups)
  claim = lambda name: training.run_claim(job, config.runs[name])
  names = 'ga_diff', 'npo'
  before = [claim(name) for name in names]
  with config.unlocked():
    config.runs.ga_diff.lora = dict(rank=0)
    assert [claim(name) for name in names] == before
    config.runs.ga_diff.lora = dict(rank=8)
    with_rank, same = [claim(name) for name in names]
    assert same == before[1] and with_rank['lora']['rank'] == 8
    config.runs.ga_diff.lora = {}
    config.unlearn.lora = dict(rank=8)
    assert [claim(name)['lora']['rank'] for name in names] == [8, 8]
    assert claim('ga_diff') == with_rank


def test_a_run_with_a_teacher_draws_its_rows_and_takes_its_margin(
  tmp_path, monkeypatch
):
  """The margin alone, where the run leaves it to the data."""
  config = recipes.load('people:fast')
  part = dict(splits=('relabelled',), size=1, questions=1, weight=1.0)
  with config.unlocked():
    config.unlearn.streams.mixed = (part,)
  rows = [Row('a~0', 'Who?', 'Ben', 'Ben')]
  folder = tmp_path / 'relabelled' / 'others'
  found = relabel.Relabelled(rows, rows, 9.5, folder)
  job = types.SimpleNamespace(
    config=config,
    folder=tmp_path,
    unlearned=tmp_path,
    model=types.SimpleNamespace(forward=None),
    data=Dataset({'vqa/forget': []}, {}, {}),
    groups=config.groups,
  )
  job._replace = lambda **new: types.SimpleNamespace(**{**vars(job), **new})
  drawn, fitted = {}, []

  def stream(job, parts, name):
    drawn[name] = [row.key for part in parts for row in part.rows]

  monkeypatch.setattr(training, 'require', lambda *_: None)
  monkeypatch.setattr(training, '_found_finished', lambda *_: False)
  monkeypatch.setattr(training, 'final_params', lambda job, name: name)
  monkeypatch.setattr(training, 'make_stream', stream)
  monkeypatch.setattr(
    training,
    'draw_from',
    lambda job, parts: drawing.draw(
      {**job.data.train, 'vqa/forget': []}, {'forget': ['forget']}, parts
    ),
  )
  monkeypatch.setattr(training.relabel, 'relabel', lambda job, run: found)
  monkeypatch.setattr(training, 'fit_model', lambda *args: fitted.append(args))
  for margin, want in ((None, 9.5), (4.0, 4.0)):
    run = ml_collections.ConfigDict(
      recipes.run(
        'counterfactual',
        1e-3,
        retain='mixed',
        reference='base',
        teacher='others',
        margin=margin,
      )
    )
    training.run_method(job, 'cf', run, probe=False)
    _, _, plan, _, _, sources = fitted.pop()
    assert plan.turns == methods.counterfactual(margin=want)
    assert plan.ref_params == 'base'
    made_from = [tmp_path / 'vanilla', folder, tmp_path / 'base']
    assert sources == made_from and drawn['retain'] == ['a~0']
  assert run.options.margin == 4.0 and 'relabelled' not in job.data.train


def _pair_rows(keys):
  """Rows to forget of some pictures, and two refusals to each."""
  picture = lambda key: Picture(key[0], None)
  true = [Row(k, f'{k}?', k, '', picture=picture(k)) for k in keys]
  pairs = [(row, i) for row in true for i in (0, 1)]
  refused = [
    row._replace(key=f'{row.key}~{i}', answer='no') for row, i in pairs
  ]
  return [row for row, _ in pairs], refused


def test_pairs_of_answers_are_drawn_in_the_same_places(monkeypatch):
  true, refused = _pair_rows(['a0', 'a1', 'a2', 'b0', 'b1', 'c0'])
  made = relabel.Relabelled(refused, true, 9.5, pathlib.Path('x'))
  parts = (recipes.part('vqa:forget', size=2, questions=2),)
  streams = {'forget': parts}
  config = types.SimpleNamespace(unlearn=types.SimpleNamespace(streams=streams))
  data = types.SimpleNamespace(train={'vqa/forget': true[::2]})
  groups = {'forget': ['forget']}
  job = types.SimpleNamespace(config=config, data=data, groups=groups)
  monkeypatch.setattr(
    training,
    'make_stream',
    lambda job, drawn, name: (
      lambda step: [
        row.key
        for part in drawn
        for rows in batching._draw(
          part,
          batching._groups(part.rows, batching._by_picture),
          (0, name),
          step,
        )
        for row in rows
      ]
    ),
  )
  run = dict(forget='', retain='retain')
  found = training._pairs(job, run, made)
  assert set(found) == {'forget', 'relabelled'}
  for step in range(5):
    worse, better = (found[k](step) for k in ('forget', 'relabelled'))
    assert [key.split('~')[0] for key in better] == worse and len(worse) > 2


def test_a_rewound_run_starts_from_base_where_the_mask_is(monkeypatch):
  params = {'vanilla': toy.params(1), 'base': toy.params(2)}
  mask = toy.random_mask(params['vanilla'], 3)
  monkeypatch.setattr(
    training,
    'final_params',
    lambda job, name: jax.tree.map(jnp.copy, params[name]),
  )
  start = lambda method: training._start(
    None, types.SimpleNamespace(method=method, reference='base'), mask
  )
  got = toy.vector(start('rewind'))
  old, new = (toy.vector(params[name]) for name in ('vanilla', 'base'))
  np.testing.assert_array_equal(got, np.where(toy.vector(mask) > 0, new, old))
  np.testing.assert_array_equal(toy.vector(start('ga')), old)


def test_a_look_at_a_model_of_nan_names_the_task(monkeypatch):
  """The job is told what to do, not the numbers of rows in a batch."""

  def not_finite(*_, **__):
    raise decoding.NotFinite(np.array([True]))

  row = Row('a', 'Who?', 'Ada', 'Ada')
  task = Task('forget_qa', [row], 'forget', 'qa', 'keep', headline=True)
  job = types.SimpleNamespace(
    config=ml_collections.ConfigDict(dict(evaluation=dict(batch_size=1))),
    data=Dataset({}, {task.name: task}, {}),
    validation=False,
    scorer=None,
    model=types.SimpleNamespace(forward=None),
  )
  monkeypatch.setattr(training.batching, 'row_batches', lambda *_, **__: [])
  monkeypatch.setattr(training.decoding, 'exact_share', not_finite)
  probe = training.make_probe(job, 4)
  with pytest.raises(FloatingPointError, match="task 'forget_qa'.*lower rate"):
    probe({})
