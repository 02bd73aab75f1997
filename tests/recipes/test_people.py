"""The people config is valid as it stands, in all its variants."""

import jax
import pytest

from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax import tree as tree_lib
from mmu_jax.data import datasets
from mmu_jax.data.people import vocabulary
from mmu_jax.models import from_options
from mmu_jax.settings import table
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import mask_specs
from mmu_jax.stages.budgets import plans
from mmu_jax.stages.budgets import run_rules
from mmu_jax.stages.budgets import settle
from mmu_jax.training import optimizer

VARIANTS = ('full', 'all', 'small', 'fast', 'paper_exact')


def _config(variant):
  return recipes.load(f'people:{variant}')


@pytest.fixture(scope='module')
def splits():
  """The names of the splits of a small world."""
  options = _config('fast').data.to_dict()
  train = datasets.load(options.pop('name'), 0, **options).train
  return {*train, drawing.RELABELLED}  # made by the teacher of a run


def test_full_is_the_default():
  assert _config('full').to_dict() == recipes.load('people').to_dict()
  assert _config('fast').to_dict() != _config('full').to_dict()


def test_an_unknown_variant_is_a_clear_error():
  message = "full, all, small, fast, paper_exact; got 'huge'"
  with pytest.raises(ValueError, match=message):
    _config('huge')


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_run_has_a_method_a_mask_and_a_stream(variant):
  config = _config(variant)
  assert len(config.runs) >= 3
  for name in config.runs:
    run = run_rules.run_settings(config, name)
    turns = settle.turns_of(run)
    assert any(turn.masked for turn in turns) == bool(run.mask)
    for turn in turns:
      assert turn.split in ('forget', 'retain')
    assert optimizer.schedule('constant', run.rate, steps=1)(0) == (
      pytest.approx(run.rate)
    )


def test_masks_are_compared_with_their_controls():
  runs = {variant: _config(variant).runs for variant in ('full', 'all')}
  masks = {run.mask for run in runs['full'].values()}
  assert masks == {'', 'saliency', 'random', 'turn'}
  more = recipes.load('frontier:all').runs
  masks = {run.mask for run in runs['all'].values()}
  assert masks == {'', 'turn', *mask_specs.MASKS}
  used = {run.method for run in (*runs['all'].values(), *more.values())}
  assert used == set(methods.METHODS) - {'finetune'}
  for name, run in runs['full'].items():  # the same runs, and more
    assert runs['all'][name].to_dict() == run.to_dict()


def test_all_adds_runs_to_the_same_models():
  """Both variants can share a workdir: nothing else differs."""
  full, more = (_config(variant).to_dict() for variant in ('full', 'all'))
  assert full.pop('runs') != more.pop('runs')
  assert full == more


def _parts(config):
  """(splits, part) of every stream of a config."""
  yield from config.base.stream
  yield from config.vanilla.stream
  yield from config.saliency.forget
  for parts in config.saliency.preserve.values():
    yield from parts
  for parts in config.unlearn.streams.values():
    yield from parts


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_stream_names_splits_and_roles_that_exist(variant, splits):
  config = _config(variant)
  for groups in (config.groups, config.validation_groups):
    assert set(groups) == {'forget', 'retain', 'everybody'}
    for part in _parts(config):
      assert part['size'] >= 1 and part['questions'] >= 1
      assert part['weight'] > 0
      for split in part['splits']:
        kind, _, role = split.partition(':')
        found = [f'{kind}/{g}' for g in groups[role]] if role else [split]
        assert found and set(found) <= splits
  assert set(config.retrained.without) <= splits


@pytest.mark.parametrize('variant', VARIANTS)
def test_nobody_is_both_forgotten_and_retained(variant):
  config = _config(variant)
  for groups in (config.groups, config.validation_groups):
    assert not set(groups.forget) & set(groups.retain)
    assert not set(groups.forget) - set(groups.everybody)
  assert 'forget' not in sum(
    (tuple(g) for g in config.validation_groups.values()), ()
  )
  assert set(config.retrained.without) == {
    f'vqa/{group}' for group in config.groups.forget
  }


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_model_and_the_optimizers_can_be_built(variant):
  config = _config(variant)
  sizes = config.model.to_dict()
  assert not sizes.pop('path')  # no checkpoint: made from these sizes
  assert not any(sizes.pop('processor').values())  # nor its processor
  tokenizer = vocabulary.make_tokenizer()
  model = from_options(sizes.pop('name'), len(tokenizer), **sizes)
  params = jax.eval_shape(model.init, jax.random.key(0))
  least, most = (1e4, 1e5) if variant == 'fast' else (1e6, 2e6)
  assert least < tree_lib.count(params) < most
  assert set(config.saliency.protects) == set(model.components)
  for names in config.saliency.protects.values():
    assert set(names) <= set(config.saliency.preserve)
  for spec in (config.base, config.vanilla, config.unlearn):
    optimizer.build(**spec.optimizer.to_dict(), clip_norm=spec.clip_norm)
  for spec in (config.base, config.vanilla):
    assert 0 <= spec.warmup < spec.rounds
    optimizer.schedule(
      spec.schedule, spec.rate, steps=spec.rounds, warmup=spec.warmup
    )


def test_longest_answers_can_be_decoded():
  """An answer that is cut off can never be right."""
  config = _config('full')
  options = _config('fast').data.to_dict()
  data = datasets.load(options.pop('name'), 0, **options)
  tokenizer = data.processor.tokenizer
  longest = max(
    len(tokenizer(row.answer, add_special_tokens=False)['input_ids'])
    for task in data.tasks.values()
    for row in task.rows
    if task.headline and task.role == 'keep'
  )
  assert longest + 1 <= config.evaluation.max_new_tokens  # and the end token


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_models_to_attack_are_runs_of_the_config(variant):
  models = _config(variant).attacks.relearn.models
  assert len(models) == (0 if variant in ('fast', 'paper_exact') else 3)
  assert {*models} <= {*_config(variant).runs}


@pytest.mark.parametrize('variant', ['full', 'fast'])
def test_smol_adapts_the_decoder_and_trains_on_no_fact_of_the_world(variant):
  config = recipes.load(f'people_smol:{variant}')
  table.check(config)
  options = config.data.to_dict()
  train = datasets.load(options.pop('name'), 0, **options).train
  streams = config.unlearn.streams
  assert {run.retain for run in config.runs.values()} == {'retain'}
  drawn = [*config.vanilla.stream, *streams.forget, *streams.retain]
  drawn += config.saliency.forget
  for parts in config.saliency.preserve.values():
    drawn += parts
  drawn = {split for part in drawn for split in part['splits']}
  assert {'general', 'vqa/forget', 'qa/forget'} <= drawn & {*train}
  assert 'facts' in train and 'facts' not in drawn
  sizes = _config('fast').model.to_dict()
  for name in ('path', 'processor', 'name'):
    del sizes[name]
  model = from_options('llava', 64, **sizes)
  lora = plans.adapters_of(config.vanilla, config.vanilla, model)
  part = lambda name: tree_lib.component_of(name, model.components)
  assert {part(name) for name in lora.targets} == {'language'}
  assert {part(name) for name in lora.whole} == {'vision', 'projector'}
  assert len(lora.targets) == 3
  assert plans.adapters_of(config.unlearn, config.runs.ga_diff, model)
