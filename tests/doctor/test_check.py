"""What is wrong with machines or files is found, said, and fails the check."""

import json
import pathlib
import re

import process_group
import pytest

from mmu_jax import doctor
from mmu_jax.doctor import files
from mmu_jax.doctor import gpus
from mmu_jax.doctor import machines

MODEL = dict(
  name='llava',
  path='',
  vision_config=dict(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=8,
    patch_size=4,
  ),
  text_config=dict(
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
  ),
)
SMALL = [4096]


def _by_what(report):
  return {finding.what: finding for finding in report.findings}


def test_a_sound_job_passes_and_nothing_is_left_behind(tmp_path):
  config = {'mesh': 'data=2,fsdp=-1', 'model': MODEL, 'data': {}}
  workdir = tmp_path / 'not' / 'yet'
  report = doctor.check(config, str(workdir), sizes=SMALL)
  assert [f.state for f in report.findings] == ['OK'] * 6
  assert not report.failed
  assert 'data=2, fsdp=4, tensor=1' in _by_what(report)['mesh'].message
  assert list(tmp_path.iterdir()) == []


def test_a_workdir_with_results_stays_as_it_is(tmp_path):
  (tmp_path / 'results.jsonl').write_text('{}')
  assert not doctor.check(workdir=str(tmp_path), sizes=SMALL).failed
  assert [p.name for p in tmp_path.iterdir()] == ['results.jsonl']


@pytest.mark.parametrize(
  'config, what, told',
  [
    ({'mesh': 'fsdp=16'}, 'mesh', 'multiply to the number of devices'),
    (
      {'data': {'path': '/no/such'}},
      'config.data.path = /no/such',
      'process 0: .* No such file',
    ),
    (
      {'a': {'b': {'train_path': '/no'}}},
      'config.a.b.train_path = /no',
      'No such file',
    ),
    ({'model': {'attention': 'cudnn'}}, 'attention', 'needs an NVIDIA GPU'),
  ],
)
def test_what_would_fail_a_job_fails_the_check(config, what, told):
  report = doctor.check(config, sizes=SMALL)
  finding = _by_what(report)[what]
  assert report.failed and finding.state == 'FAIL' and finding.fix
  assert re.search(told, finding.message)


@pytest.mark.parametrize('name', ['own', 'clear', 'mllmu_bench', 'tfds'])
def test_a_path_that_a_dataset_needs_is_asked_for(name):
  config = {
    'data': {'name': name, 'path': '', 'processor': ''},
    'model': dict(MODEL),
  }
  report = doctor.check(config, sizes=SMALL)
  for what in ('config.data.path', 'config.model.path'):
    finding = _by_what(report)[what]
    assert finding.state == 'FAIL' and f'--{what}=' in finding.fix
  config['data']['processor'] = 'small'  # needs no checkpoint
  assert [f.what for f in files.missing(config)] == ['config.data.path']
  config['data'] = {'name': name, 'path': 'x', 'processor': ''}
  config['model']['path'] = 'y'
  assert files.missing(config) == []


def test_the_people_need_no_path():
  assert not files.missing({'data': {'name': 'people'}, 'model': MODEL})
  data = {'name': 'tfds', 'path': 'a/mmu_people/1.0.0', 'processor': ''}
  assert not files.missing({'data': data, 'model': MODEL})


def test_what_jax_is_told_about_gpus_is_looked_at():
  here = machines.about()
  assert gpus.settings([here]) == []  # CPUs
  gpu = here | {
    'platform': 'gpu',
    'total': 80 << 30,
    'memory': 76 << 30,
    'exact': True,
  }
  assert gpus.settings([gpu, gpu]) == []
  (finding,) = gpus.settings([gpu, gpu | {'memory': 60 << 30}])
  assert finding.state == 'WARN' and 'XLA_CLIENT_MEM_FRACTION' in finding.fix
  assert '60.0 GiB of 80.0 GiB of a GPU in process 1' in finding.message
  assert gpus.settings([gpu | {'memory': 60 << 30, 'total': 0}]) == []
  (finding,) = gpus.settings([gpu, gpu | {'exact': False}])
  assert finding.state == 'WARN' and 'not bit for bit' in finding.message
  assert '--xla_gpu_deterministic_ops=true' in finding.fix


@pytest.mark.parametrize(
  'flags, exact',
  [
    ('', False),
    ('--xla_gpu_deterministic_ops', True),
    ('--a=1 --xla_gpu_deterministic_ops=true --b=2', True),
    ('--xla_gpu_deterministic_ops=1', True),
    ('--xla_gpu_deterministic_ops=false', False),
    ('--xla_gpu_deterministic_ops --xla_gpu_deterministic_ops=0', False),
    ('--xla_gpu_deterministic_opsies', False),
  ],
)
def test_the_last_of_the_flags_says_whether_every_bit_repeats(
  monkeypatch, flags, exact
):
  monkeypatch.setenv('XLA_FLAGS', flags)
  assert machines.about()['exact'] == exact


def test_a_workdir_that_cannot_be_made_is_a_finding(tmp_path):
  (tmp_path / 'file').write_text('')
  report = doctor.check(workdir=str(tmp_path / 'file' / 'run'), sizes=SMALL)
  finding = _by_what(report)[f'workdir = {tmp_path / "file" / "run"}']
  assert finding.state == 'FAIL' and 'Not a directory' in finding.message


def test_a_model_that_cannot_be_read_is_a_finding(tmp_path):
  config = {'model': {'path': str(tmp_path)}}  # an empty folder
  report = doctor.check(config, str(tmp_path), sizes=SMALL)
  assert _by_what(report)['size of the job'].state == 'FAIL'


@pytest.mark.parametrize(
  'times, state', [(0.9, 'FAIL'), (1.5, 'WARN'), (2.5, 'OK')]
)
def test_the_disk_must_hold_three_train_states(
  tmp_path, monkeypatch, times, state
):
  # Vocabulary, attention, feed-forward and norms of MODEL, counted by hand.
  language = 2 * 32_000 * 8 + 4 * 64 + 3 * 8 * 16 + 3 * 8
  config = {'model': MODEL}
  needs = []
  free = lambda path: type('Usage', (), {'free': int(times * needs[0])})
  needs.append(files._need(config))  # pylint: disable=protected-access
  assert 36 * language < needs[0] < 36 * (language + 2000)
  monkeypatch.setattr(files.shutil, 'disk_usage', free)
  assert files.room(str(tmp_path), config).state == state


def test_versions_that_differ_or_are_missing_are_named():
  here = machines.about()
  other = dict(here, packages=dict(here['packages'], flax='0.0.1'))
  (finding,) = machines.versions([here, other])
  assert finding.state == 'FAIL' and 'flax: 0.0.1' in finding.message
  gone = dict(here, packages=dict(here['packages'], optax='missing'))
  (finding,) = machines.versions([gone, gone])[:1]
  assert finding.state == 'FAIL' and 'optax missing' in finding.message
  untried = dict(here, untried=['flax 9 (it needs <1)'])
  assert [f.state for f in machines.versions([untried])] == ['OK', 'WARN']
  proxy = dict(here, proxies=['HTTPS_PROXY'])
  states = [f.state for f in machines.versions([proxy, proxy])]
  assert states == ['OK', 'WARN']


def test_versions_outside_of_the_requirements_are_named(monkeypatch):
  lines = ['numpy>=2', 'jax<0.1', 'pytest<0.1; extra == "dev"', 'no_such>=1']
  monkeypatch.setattr(
    machines.importlib.metadata, 'requires', lambda name: lines
  )
  (found,) = machines.about()['untried']
  assert found.startswith('jax ') and found.endswith('(it needs <0.1)')


def test_devices_that_differ_or_lie_idle_are_named():
  here = machines.about() | {'nvidia': False}
  assert machines.devices([here, here])[0].message.startswith('16 devices')
  other = here | {'kind': 'TPU v4'}
  assert machines.devices([here, other])[0].state == 'FAIL'
  assert machines.devices([here | {'nvidia': True}])[0].state == 'WARN'


def test_a_sum_is_checked_and_its_rate_is_that_of_a_ring():
  speeds, finding = machines.sums([4096, 1 << 20])
  assert finding.state == 'OK' and 'over 8 devices' in finding.message
  for speed in speeds:
    moved = 2 * 7 / 8 * speed.size
    assert speed.rate == pytest.approx(moved / speed.seconds / 1e9)


def test_every_line_says_its_state_in_words(tmp_path):
  import io

  import rich.console

  config = {'data': {'path': '/no/[such]'}, 'mesh': 'fsdp=1,fsdp=2'}
  report = doctor.check(config, str(tmp_path), sizes=SMALL)
  out = io.StringIO()
  console = rich.console.Console(file=out, width=200)
  for part in doctor.tables(report):
    console.print(part)
  lines = out.getvalue().splitlines()
  for finding in report.findings:
    assert any(
      line.startswith(finding.state) and finding.what in line for line in lines
    )
  assert 'sum over all devices' in out.getvalue()
  text = ' '.join(out.getvalue().split())
  assert ' is not. Set --config.mesh' in text and 'No such file' in text


def test_processes_that_see_other_files_are_found(tmp_path):
  # Folders of their own stand for machines without a shared file system.
  for i in (0, 1):
    data = tmp_path / f'machine{i}' / 'data'
    data.mkdir(parents=True)
    (data / 'rows.parquet').write_text('x' * (3 + i))
    (data.parent / 'same').write_text('same')
    (data.parent / 'both').mkdir()
  outputs = process_group.results(
    """
  import json, os, sys
  from mmu_jax import distributed
  distributed.initialize()
  from mmu_jax import doctor
  from mmu_jax.doctor import files
  files.PATIENCE = 0.5
  os.chdir(os.path.join(sys.argv[1], 'machine' + os.environ['NUMBER']))
  config = {'data': {'path': 'data'}, 'model': {'path': 'same'}}
  report = doctor.check(config, 'work', sizes=[4096])
  print(json.dumps([list(f) for f in report.findings]))
  print(doctor.check(None, 'both', sizes=[4096]).findings[4].message)
  report = doctor.check(None, sys.argv[1], sizes=[4096])
  print(report.failed, len(report.processes))
  """,
    arguments=[str(tmp_path)],
    devices=2,
  )
  first, second = (text.splitlines()[-3:] for text in outputs)
  assert first == second and first[2] == 'False 2'
  assert first[1].startswith('process 0 sees 1 of 2 files')
  found = {what: (s, m) for s, what, m, _ in json.loads(first[0])}
  assert found['devices'] == ('OK', '4 devices: 2 processes with 2 x cpu each')
  assert found['config.model.path = same'][0] == 'OK'
  assert found['config.data.path = data'] == (
    'FAIL',
    'processes find different files there',
  )
  state, message = found['workdir = work']
  assert state == 'FAIL' and message.startswith('process 1: [Errno 2]')
  assert not list(pathlib.Path(tmp_path).rglob('.mmu_doctor*'))
