"""What is wrong with machines or files is found, said, and fails the check."""

import json
import pathlib
import re

import process_group
import pytest
from small_worlds import MODEL

from mmu_jax import doctor
from mmu_jax.doctor import examination
from mmu_jax.errors import UserError

SMALL = [4096]


def _by_what(report):
  return {finding.what: finding for finding in report.findings}


def test_a_sound_job_passes_and_nothing_is_left_behind(tmp_path):
  config = {'mesh': 'data=2,fsdp=-1', 'model': MODEL, 'data': {}}
  workdir = tmp_path / 'not' / 'yet'
  report = doctor.examine(config, str(workdir), sizes=SMALL)
  assert [f.state for f in report.findings] == ['OK'] * 6
  assert not report.failed
  assert 'data=2, fsdp=4, tensor=1' in _by_what(report)['mesh'].message
  assert list(tmp_path.iterdir()) == []


def test_a_workdir_with_results_stays_as_it_is(tmp_path):
  (tmp_path / 'results.jsonl').write_text('{}')
  assert not doctor.examine(workdir=str(tmp_path), sizes=SMALL).failed
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
  report = doctor.examine(config, sizes=SMALL)
  finding = _by_what(report)[what]
  assert report.failed and finding.state == 'FAIL' and finding.fix
  assert re.search(told, finding.message)


def test_a_workdir_that_cannot_be_made_is_a_finding(tmp_path):
  (tmp_path / 'file').write_text('')
  report = doctor.examine(workdir=str(tmp_path / 'file' / 'run'), sizes=SMALL)
  finding = _by_what(report)[f'workdir = {tmp_path / "file" / "run"}']
  assert finding.state == 'FAIL' and 'Not a directory' in finding.message


def test_a_model_that_cannot_be_read_is_a_finding(tmp_path):
  config = {'model': {'path': str(tmp_path)}}  # an empty folder
  report = doctor.examine(config, str(tmp_path), sizes=SMALL)
  assert _by_what(report)['size of the job'].state == 'FAIL'


def test_every_line_says_its_state_in_words(tmp_path):
  import io

  import rich.console

  config = {'data': {'path': '/no/[such]'}, 'mesh': 'fsdp=1,fsdp=2'}
  report = doctor.examine(config, str(tmp_path), sizes=SMALL)
  out = io.StringIO()
  console = rich.console.Console(file=out, width=200)
  for part in doctor.printed(report):
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
  files._PATIENCE = 0.5
  os.chdir(os.path.join(sys.argv[1], 'machine' + os.environ['NUMBER']))
  config = {'data': {'path': 'data'}, 'model': {'path': 'same'}}
  report = doctor.examine(config, 'work', sizes=[4096])
  print(json.dumps([list(f) for f in report.findings]))
  print(doctor.examine(None, 'both', sizes=[4096]).findings[4].message)
  report = doctor.examine(None, sys.argv[1], sizes=[4096])
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


def test_a_bug_in_the_examination_keeps_its_traceback(monkeypatch):
  def look(workdir, config):
    raise ValueError('a bug')

  monkeypatch.setattr(examination.files, 'look_at_disk', look)
  with pytest.raises(ValueError, match='^a bug$'):
    examination._room('work', {})
  error = UserError('no model')
  monkeypatch.setattr(
    examination.files, 'look_at_disk', lambda *_: (_ for _ in ()).throw(error)
  )
  assert examination._room('work', {}).message == 'no model'
