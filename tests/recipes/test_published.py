"""The published recipe changes these fields, and no others."""

import math
import re

import pytest

from mmu_jax import recipes


def _config(variant):
  return recipes.load(f'people:{variant}')


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
  streams.add('attacks.relearn.models')  # of the runs that there are
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
    recipes.paper_exact(config, benchmark, forget_batches=2, retain_batches=5)
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
    recipes.paper_exact(
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
  assert not re.match(recipes.exempt(), name)


@pytest.mark.parametrize(
  'name',
  [
    'language_model/model/norm/scale',
    'language_model/lm_head/kernel',
    'vision_tower/vision_model/embeddings/patch_embedding/kernel',
  ],
)
def test_names_without_a_listed_word_are_exempt(name):
  assert re.match(recipes.exempt(), name)


def test_what_a_mask_file_lacks_is_exempt():
  rule = recipes.exempt('language_model/')
  assert re.match(rule, 'vision_tower/encoder/layers/q_proj/kernel')
  assert re.match(rule, 'language_model/norm/scale')
  assert not re.match(rule, 'language_model/layers/q_proj/kernel')
