"""The configs of the benchmarks fit the datasets, and their fast ones run."""

import json

import benchmark_folders
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax import workdir
from mmu_jax.data import datasets
from mmu_jax.evaluation.asking import protocols
from mmu_jax.stages import job
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import run_rules

BENCHMARKS = ('mllmu_bench', 'clear')
RATIOS = {'mllmu_bench': (5, 10, 15), 'clear': (1, 5, 10)}
VARIANTS = ('', 'fast', 'paper_exact')
CASES = [
  (name, ','.join(filter(None, (variant, f'ratio={ratio}'))))
  for name in BENCHMARKS
  for variant in VARIANTS
  for ratio in RATIOS[name]
]


def _load(name, variant=''):
  return recipes.load(f'{name}:{variant}')


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A folder of each benchmark and a file of own data."""
  root = tmp_path_factory.mktemp('data')
  benchmark_folders.mllmu_bench(root / 'mllmu_bench')
  benchmark_folders.clear(root / 'clear')
  lines = []
  for i in range(4):
    (root / f'{i}.jpg').write_bytes(benchmark_folders.file(i))
    about = dict(person=str(i), split='forget' if i == 0 else 'retain')
    lines.append(
      dict(image=f'{i}.jpg', question='Who?', answer=f'P{i}', **about)
    )
    lines.append(dict(question=f'Home of P{i}?', answer='Oslo', **about))
  path = root / 'own'
  path.with_suffix('.jsonl').write_text('\n'.join(map(json.dumps, lines)))
  return root


def _parts(config):
  """The splits of every stream of a config."""
  streams = [config.base.stream, config.vanilla.stream, config.saliency.forget]
  streams += [*config.saliency.preserve.values()]
  streams += [*config.unlearn.streams.values()]
  for parts in streams:
    for part in parts:
      assert part['size'] >= 1 and part['questions'] >= 1
      yield from part['splits']


@pytest.mark.parametrize('name, variant', CASES)
def test_every_stream_and_run_is_of_the_dataset(name, variant):
  config = _load(name, variant)
  splits = {
    f'{kind}/{g}'
    for kind in ('vqa', 'qa')
    for g in config.groups
    if g != 'everybody'
  }
  for split in _parts(config):
    kind, _, role = split.partition(':')
    if split == drawing.RELABELLED:
      continue
    assert {f'{kind}/{g}' for g in config.groups[role]} <= splits
  assert set(config.retrained.without) <= splits
  preserved = set(config.saliency.preserve)
  for names in config.saliency.protects.values():
    assert set(names) <= preserved
  for run in config.runs:
    settings = run_rules.run_settings(config, run)
    turns = methods.make(settings.method, **settings.options)
    assert any(turn.masked for turn in turns) == bool(settings.mask)
  known = ('', protocols.OFFICIAL, *protocols.PROTOCOLS)
  assert config.evaluation.protocol in known


@pytest.mark.parametrize('name', BENCHMARKS)
def test_a_counterfactual_run_needs_no_more_than_a_line(name):
  config = _load(name)
  with config.unlocked():
    config.runs = dict(mine=recipes.counterfactual_run(teacher='base'))
  assert run_rules.run_settings(config, 'mine').retain == 'mixed'


@pytest.mark.parametrize('name', BENCHMARKS)
def test_an_epoch_takes_the_published_number_of_steps(name):
  """At 5 %: forget batches, and retain batches of one question a row."""
  config = _load(name, 'paper_exact')
  forget, retain = {'mllmu_bench': (96, 1831), 'clear': (47, 895)}[name]
  assert config.unlearn.rounds == retain
  assert config.unlearn.limits.forget == forget
  assert config.runs.mmunlearner.options.forget_every == retain // forget
  packed = _load(name)
  assert packed.unlearn.rounds == {'mllmu_bench': 119, 'clear': 895}[name]
  assert packed.data.text == 'training' if 'text' in packed.data else True


@pytest.mark.parametrize('variant', ['slow', 'ratio=7', 'fast,ratio'])
def test_an_unknown_variant_is_a_clear_error(variant):
  with pytest.raises(ValueError, match='full, fast, paper_exact, and ratio='):
    _load('clear', variant)


def test_own_data_has_no_published_recipe():
  assert _load('own').data.name == 'own'
  with pytest.raises(ValueError, match='is one of full, fast; got'):
    _load('own', 'paper_exact')


@pytest.mark.parametrize('name', [*BENCHMARKS, 'own'])
def test_the_data_options_are_those_of_the_reader(name, folders):
  options = _load(name, 'fast').data.to_dict()
  path = folders / (name + ('.jsonl' if name == 'own' else ''))
  data = datasets.load(options.pop('name'), 0, **options | dict(path=path))
  assert data.processor is not None and all(t.rows for t in data.tasks.values())


def test_a_benchmark_without_a_checkpoint_says_what_to_set(folders, tmp_path):
  config = _load('mllmu_bench')
  config.data.path = str(folders / 'mllmu_bench')
  with pytest.raises(ValueError, match='Set config.model.path .*processor to'):
    job.open_job(config, tmp_path)


TASKS = {
  'mllmu_bench': {
    'forget_vqa',
    'forget_qa',
    'forget_vqa_holdout',
    'forget_qa_holdout',
    'retain_vqa',
    'retain_qa',
    'real_vqa',
    'real_qa',
  },
  'clear': {
    'forget_vqa',
    'forget_qa',
    'retain_vqa',
    'retain_qa',
    'real_faces',
    'real_world',
  },
}


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compile', 'unpainted', 'roughly_scored')
@pytest.mark.parametrize(
  'name, run', [('mllmu_bench', 'mmunlearner'), ('clear', 'vanilla')]
)
def test_a_benchmark_goes_from_its_folder_to_a_report(
  name, run, folders, tmp_path
):
  """Training and every task, by the command line."""
  assert command_line.main(['data', 'check', str(folders / name)]) == 0
  flags = (
    f'--config={name}:fast',
    f'--workdir={tmp_path}',
    f'--config.data.path={folders / name}',
    '--config.mesh=',
    '--config.base.rounds=2',
    '--config.vanilla.rounds=2',
    '--config.saliency.batches=1',
    '--config.unlearn.rounds=1',
    '--config.evaluation.max_new_tokens=2',
    '--config.data.retain_rows=1',
  )
  for command in (
    ['train', '--run=base'],
    ['train', '--run=vanilla'],
    ['train', f'--run={run}'],
    ['evaluate', f'--run={run}'],
    ['report'],
  ):
    assert command_line.main([*command, *flags]) == 0
  rows = workdir.read_jsonl(tmp_path / 'results.jsonl')
  assert TASKS[name] <= {row['task'] for row in rows}
  for row in rows:
    if row['task'] in TASKS[name]:
      assert row['n'] >= 1 and row['low'] <= row['value'] <= row['high']
      assert (row['protocol'], row['shots']) == ('fixed', 0)
  assert run in (tmp_path / 'report.html').read_text()
