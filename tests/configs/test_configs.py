"""Every config file is valid as it stands, in all its variants."""

import importlib.util
import math
import re

import jax
import paths
import pytest

from mmu_jax import methods
from mmu_jax import tree as tree_lib
from mmu_jax.data import datasets
from mmu_jax.data.people import vocabulary
from mmu_jax.evaluation.report import table
from mmu_jax.models import from_options
from mmu_jax.stages import job
from mmu_jax.training import optimizer

FOLDER = paths.CONFIGS
VARIANTS = ('full', 'all', 'fast', 'paper_exact')


def _load(name):
  spec = importlib.util.spec_from_file_location(name, FOLDER / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _config(variant):
  return _load('people').get_config(variant)


@pytest.fixture(scope='module')
def splits():
  """The names of the splits of a small world."""
  options = _config('fast').data.to_dict()
  return set(datasets.load(options.pop('name'), 0, **options).train)


def test_full_is_the_default():
  assert _config('full').to_dict() == _load('people').get_config().to_dict()
  assert _config('fast').to_dict() != _config('full').to_dict()


def test_an_unknown_variant_is_a_clear_error():
  message = "full, all, fast, paper_exact; got 'huge'"
  with pytest.raises(ValueError, match=message):
    _config('huge')


@pytest.mark.parametrize('variant', VARIANTS)
def test_every_run_has_a_method_a_mask_and_a_stream(variant):
  config = _config(variant)
  assert len(config.runs) >= 3
  for name in config.runs:
    run = job.run_settings(config, name)
    turns = methods.make(run.method, **run.options)
    assert any(turn.masked for turn in turns) == bool(run.mask)
    for turn in turns:
      assert turn.split in ('forget', 'retain')
    assert optimizer.schedule('constant', run.rate, steps=1)(0) == (
      pytest.approx(run.rate)
    )


def test_masks_are_compared_with_their_controls():
  runs = {variant: _config(variant).runs for variant in ('full', 'all')}
  masks = {run.mask for run in runs['full'].values()}
  assert masks >= {'', 'saliency', 'topk', 'random'}
  assert {run.mask for run in runs['all'].values()} == {'', *job.MASKS}
  used = {run.method for run in runs['all'].values()}
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
  assert 1e5 < tree_lib.count(params) < 3e6
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
    for task in table.UTILITY_TASKS
    for row in data.tasks[task]
  )
  assert longest + 1 <= config.evaluation.max_new_tokens  # and the end token


def _differences(a, b, path=''):
  """Field -> the two values, where two configs differ."""
  found = {}
  for key in a.keys() | b.keys():
    name, x, y = f'{path}.{key}'.lstrip('.'), a.get(key), b.get(key)
    if isinstance(x, dict) and isinstance(y, dict):
      found |= _differences(x, y, name)
    elif x != y:
      found[name] = (x, y)
  return found


# Field -> our default, the published behaviour.
PUBLISHED = {
  'labels': ('answer', 'published'),
  'saliency.batches': (48, 0),
  'saliency.normalize': (True, False),
  'saliency.ties_are_salient': (False, True),
  'unlearn.optimizer.chain': (None, ('project', 'clip', 'mask', 'optimizer')),
  'unlearn.optimizer.eps': (None, 1e-6),
  'unlearn.optimizer.weight_decay': (None, 0.0),
  'unlearn.exempt': ('', r'(?!(?:).*(?:proj|fc|linear|mlp|qkv))'),
  'unlearn.limits.forget': (None, 18),
  'unlearn.clip_norm': (1.0, math.inf),
  'unlearn.max_retain_loss': (10.0, math.inf),
  'unlearn.retain_rate': (1e-4, 1e-5),
  'unlearn.rounds': (60, 162),
  'vanilla.optimizer.name': ('adamw', 'hf_adamw'),
  'vanilla.optimizer.eps': (None, 1e-6),
  'vanilla.optimizer.weight_decay': (0.05, 0.0),
  'vanilla.optimizer.b2': (0.98, None),
  'vanilla.schedule': ('cosine', 'linear'),
  'vanilla.warmup': (30, 0),
  'vanilla.clip_norm': (1.0, math.inf),
}


def test_paper_exact_changes_these_fields_and_streams_and_runs_alone():
  full, exact = (_config(v).to_dict() for v in ('full', 'paper_exact'))
  found = _differences(full, exact)
  streams = {
    name
    for name in found
    if name.startswith(('runs.', 'saliency.preserve', 'unlearn.streams'))
    or name.endswith('stream')
  } | {'saliency.forget', 'saliency.protects.language'}
  assert {k: v for k, v in found.items() if k not in streams} == PUBLISHED


def test_paper_exact_runs_have_the_published_options():
  runs = _config('paper_exact').runs.to_dict()
  assert set(runs) == {'ga', 'ga_diff', 'kl_min', 'npo', 'mmunlearner'}
  for name, run in runs.items():
    assert run['method'] == name and run['rate'] == 1e-5
  for name in ('ga', 'npo'):  # one pass over the forget set
    assert (runs[name]['rounds'], runs[name]['schedule']) == (18, 'linear')
  for name in ('ga_diff', 'kl_min', 'mmunlearner'):
    assert runs[name]['schedule'] == 'constant'
    assert runs[name]['options']['forget_every'] == 162 // 18
  assert runs['kl_min']['options']['kl_over'] == 'rows'
  assert runs['npo']['options'] == {'per': 'batch', 'beta': 0.4}
  assert runs['npo']['reference'] == 'retrained'
  clips = runs['mmunlearner']['clip_norms']
  assert clips == {'forget': 1.0, 'retain': math.inf}


def test_the_benchmarks_differ_in_the_clip_and_the_batch_of_the_importance():
  made = {}
  for benchmark in ('clear', 'mllmu'):
    config = _config('full')
    _load('choices').paper_exact(
      config, benchmark, forget_batches=2, retain_batches=5
    )
    made[benchmark] = config.to_dict()
  found = _differences(made['clear'], made['mllmu'])
  retain = found.pop('runs.mmunlearner.clip_norms.retain')
  assert retain == (math.inf, 1.0)
  for name, parts in found.items():
    assert name.startswith('saliency.')
    assert [sum(p['size'] for p in ps) for ps in parts] == [2, 4]
  assert made['clear']['runs']['mmunlearner']['options']['forget_every'] == 2


@pytest.mark.parametrize(
  'benchmark, forget, retain, message',
  [
    ('mmlu', 2, 5, "'clear' or 'mllmu', got 'mmlu'"),
    ('clear', 5, 4, 'so it needs as many; got 4 and 5'),
  ],
)
def test_a_choice_that_cannot_be_made_is_an_error(
  benchmark, forget, retain, message
):
  with pytest.raises(ValueError, match=message):
    _load('choices').paper_exact(
      _config('full'), benchmark, forget_batches=forget, retain_batches=retain
    )


@pytest.mark.parametrize(
  'name',
  [
    'visual.patch_embed.proj.kernel',
    'visual/blocks/attn/qkv/kernel',
    'multi_modal_projector/linear_1/bias',
    'visual/merger/mlp_0/kernel',
    'vision_tower/vision_model/encoder/layers/mlp/fc1/kernel',
  ],
)
def test_names_with_a_listed_word_are_masked(name):
  assert not re.match(_load('choices').exempt(), name)


@pytest.mark.parametrize(
  'name',
  [
    'language_model/model/norm/scale',
    'language_model/lm_head/kernel',
    'vision_tower/vision_model/embeddings/patch_embedding/kernel',
  ],
)
def test_names_without_a_listed_word_are_exempt(name):
  assert re.match(_load('choices').exempt(), name)


def test_what_a_mask_file_lacks_is_exempt():
  rule = _load('choices').exempt('language_model/')
  assert re.match(rule, 'vision_tower/encoder/layers/q_proj/kernel')
  assert re.match(rule, 'language_model/norm/scale')
  assert not re.match(rule, 'language_model/layers/q_proj/kernel')
