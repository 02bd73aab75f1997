"""One job is in a workdir, and one that was killed keeps nobody out."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import process_group
import pytest

from mmu_jax import checkpoint
from mmu_jax import errors
from mmu_jax import workdir
from mmu_jax.checkpoint import steps as step_folders
from mmu_jax.distributed import locks

ELSEWHERE = {
  'host': 'node7',
  'machine': 'node7 boot ns',
  'pid': 1,
  'started': '5',
  'since': '2026-01-01 00:00:00',
  'token': 'theirs',
  'beat': 3,
}
HOLD = """
import sys, time
from mmu_jax.distributed import locks
with locks.alone_in(sys.argv[1]):
  print('in', flush=True)
  time.sleep(600)
"""


@pytest.fixture(name='quick')
def _quick(monkeypatch):
  """Seconds become hundredths."""
  monkeypatch.setattr(locks, 'BEAT', 0.1)
  monkeypatch.setattr(locks, 'SILENCE', 0.6)


def _write(folder, **fields):
  folder.mkdir(exist_ok=True)
  (folder / locks.NAME).write_text(json.dumps(ELSEWHERE | fields))


def test_a_lock_says_who_holds_it_and_is_gone_at_the_end(tmp_path):
  with locks.alone_in(tmp_path / 'job'):
    found = json.loads((tmp_path / 'job' / locks.NAME).read_text())
    assert found['pid'] == os.getpid() and found['host'] and found['since']
    (tmp_path / 'job' / 'world.json').touch()
  assert [p.name for p in (tmp_path / 'job').iterdir()] == ['world.json']


def test_a_folder_that_stays_empty_is_removed(tmp_path):
  with pytest.raises(KeyError), locks.alone_in(tmp_path / 'job'):
    raise KeyError
  assert not (tmp_path / 'job').exists()
  with locks.alone_in(tmp_path):
    pass
  assert tmp_path.exists()  # it was there before


def test_stages_of_one_process_are_in_it_together(tmp_path):
  with locks.alone_in(tmp_path):
    with locks.alone_in(tmp_path / '.' / ''):
      pass
    assert (tmp_path / locks.NAME).exists()
  with locks.alone_in(tmp_path), locks.alone_in(tmp_path / 'other'):
    pass


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path):
  """Which process it is is said; a kill leaves a lock that is taken at once."""
  first = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)],
    stdout=subprocess.PIPE,
    cwd=pathlib.Path(locks.__file__).parents[2],
  )
  try:
    assert first.stdout.readline() == b'in\n'
    with pytest.raises(errors.UserError, match=f'process {first.pid} on'):
      with locks.alone_in(tmp_path):
        pass
    assert json.loads((tmp_path / locks.NAME).read_text())['pid'] == first.pid
  finally:
    first.kill()
  time.sleep(0.05)  # not waited for: a process that nobody waits for is gone
  started = time.monotonic()
  with locks.alone_in(tmp_path):
    assert time.monotonic() - started < locks.BEAT
    found = json.loads((tmp_path / locks.NAME).read_text())
    assert found['pid'] == os.getpid()
  first.wait()


def test_a_silent_lock_of_another_machine_is_taken(tmp_path, quick, capsys):
  _write(tmp_path)
  with locks.alone_in(tmp_path):
    assert json.loads((tmp_path / locks.NAME).read_text())['token'] != 'theirs'
  said = capsys.readouterr().out
  assert 'another machine (process 1 on node7' in said
  assert 'removed the lock of a job that has ended' in said


def test_a_living_lock_of_another_machine_is_respected(tmp_path, quick):
  _write(tmp_path)
  timer = threading.Timer(0.2, _write, (tmp_path,), {'beat': 4})
  timer.start()
  with pytest.raises(errors.UserError, match='process 1 on node7'):
    with locks.alone_in(tmp_path):
      pass
  timer.join()
  assert json.loads((tmp_path / locks.NAME).read_text())['token'] == 'theirs'


def test_a_lock_that_ends_while_one_looks_lets_one_in(tmp_path, quick):
  _write(tmp_path)
  timer = threading.Timer(0.2, (tmp_path / locks.NAME).unlink)
  timer.start()
  with locks.alone_in(tmp_path):
    pass
  timer.join()


@pytest.mark.parametrize(
  'text',
  ['', '{', '[]', '[' * 100_000, '{"pid": 3}', json.dumps(ELSEWHERE)[:-9]]
  + [json.dumps(ELSEWHERE | bad) for bad in ({'token': '../x'}, {'pid': '1/'})],
)
def test_garbage_in_a_lock_is_said_and_keeps_nobody_out_for_ever(
  tmp_path, quick, capsys, text
):
  (tmp_path / locks.NAME).write_text(text)
  with locks.alone_in(tmp_path):
    said = capsys.readouterr().out
  assert f'{tmp_path / locks.NAME} is empty or cut; looking for' in said
  assert not list(tmp_path.iterdir())


def test_a_process_of_the_same_number_is_another(tmp_path):
  """After a restart of the process or of a container."""
  mine = dict(machine=locks._machine(), pid=os.getpid(), started='1')
  _write(tmp_path, **mine)
  with locks.alone_in(tmp_path):
    pass


def test_a_job_at_work_gives_signs_of_life(tmp_path, quick):
  with locks.alone_in(tmp_path):
    time.sleep(0.5)
    assert json.loads((tmp_path / locks.NAME).read_text())['beat'] >= 2


@pytest.mark.parametrize('code', [errno.ESTALE, errno.EIO, errno.ENOENT])
def test_an_error_of_the_disk_does_not_end_the_signs_of_life(
  tmp_path, quick, monkeypatch, code
):
  failed, right = [], pathlib.Path.open

  def fails_twice(self, *args, **kwargs):
    if 'r+' in args and len(failed) < 2:
      failed.append(self)
      raise OSError(code, os.strerror(code))
    return right(self, *args, **kwargs)

  with locks.alone_in(tmp_path):
    monkeypatch.setattr(pathlib.Path, 'open', fails_twice)
    time.sleep(0.8)
    assert len(failed) == 2
    monkeypatch.undo()
    assert json.loads((tmp_path / locks.NAME).read_text())['beat'] >= 2


def _json(folder):
  workdir.write_json(folder / 'new' / 'note.json', {})


def _row(folder):
  workdir.append_jsonl(folder / 'metrics.jsonl', [{'round': 1}])


def _step(folder):
  with checkpoint.Series(folder / 'params') as series:
    series.save(0, {'w': np.ones(3)}, {})


@pytest.mark.parametrize('write', [_json, _row, _step])
def test_a_job_that_lost_its_lock_writes_nothing(tmp_path, write):
  with locks.alone_in(tmp_path):
    _write(tmp_path)
    with pytest.raises(
      errors.LostError, match='taken by another job .process 1 on node7'
    ):
      write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [locks.NAME]
    (tmp_path / locks.NAME).unlink()
    with pytest.raises(errors.LostError, match='was removed'):
      write(tmp_path)
  assert not list(tmp_path.iterdir())
  write(tmp_path)  # without a lock, as a library


def test_a_job_that_lost_its_lock_deletes_no_old_step(tmp_path):
  with locks.alone_in(tmp_path):
    with pytest.raises(errors.LostError):
      with checkpoint.Series(tmp_path / 'params', keep_last=1) as series:
        series.save(0, {'w': np.ones(3)}, {})
        series.wait()
        shutil.copytree(tmp_path / 'params' / '0', tmp_path / 'params' / '1')
        _write(tmp_path)
  assert step_folders.steps(tmp_path / 'params') == [0, 1]


def test_a_step_under_way_when_the_lock_is_lost_says_so(tmp_path):
  with locks.alone_in(tmp_path):
    with pytest.raises(errors.LostError, match='process 1 on node7'):
      with checkpoint.Series(tmp_path / 'params') as series:
        series.save(0, {'w': np.ones(3)}, {})
        _write(tmp_path)


STOPPED = """
import pathlib, sys, time
from mmu_jax import workdir
from mmu_jax.distributed import locks
with locks.alone_in(sys.argv[1]):
  while True:
    workdir.append_jsonl(pathlib.Path(sys.argv[1], 'rows.jsonl'), [{'n': 1}])
    print('in', flush=True)
    time.sleep(0.01)
"""


def test_a_job_that_was_suspended_and_lost_its_lock_stops(
  tmp_path, quick, monkeypatch
):
  first = subprocess.Popen(
    [sys.executable, '-c', STOPPED, str(tmp_path)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=pathlib.Path(locks.__file__).parents[2],
  )
  try:
    assert first.stdout.readline() == b'in\n'
    first.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(locks, '_machine', lambda: 'another machine')
    with locks.alone_in(tmp_path):
      before = (tmp_path / 'rows.jsonl').read_bytes()
      first.send_signal(signal.SIGCONT)
      said = first.communicate(timeout=60)[1].decode()
      assert f'taken by another job (process {os.getpid()} on' in said
      assert (tmp_path / 'rows.jsonl').read_bytes() == before
  finally:
    first.kill()
    first.wait()


def test_the_first_of_several_processes_waits_before_it_lets_go(tmp_path):
  """The second writes for a second more, and then the lock is still there."""
  program = """
    import pathlib, sys, time
    from mmu_jax import distributed
    from mmu_jax.distributed import locks
    distributed.initialize()
    folder = pathlib.Path(sys.argv[1])
    with locks.alone_in(folder):
      if not distributed.is_first():
        time.sleep(1)
        print((folder / locks.NAME).exists())
    distributed.barrier('end')
    print(list(folder.iterdir()))
  """
  first, second = process_group.results(program, arguments=[str(tmp_path)])
  assert first.splitlines()[-1] == '[]'
  assert second.splitlines() == ['True', '[]']


def test_an_empty_name_is_refused_before_anything_is_written(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(errors.UserError, match="got ''"):
    with locks.alone_in(''):
      pytest.fail(f'{list(tmp_path.iterdir())} was written')


DEAD = {'pid': 2**22 + 1}  # on this machine
# Files that killed jobs left, by kind.
LEFT = {
  'a lock': {'': DEAD},
  'a guard of an earlier version': {'': DEAD, '.guard': None},
  'a claim': {'': DEAD, '.theirs': DEAD | {'token': 'claim'}},
  'claims': {
    '': DEAD,
    '.theirs': DEAD | {'token': 'claim'},
    '.claim': DEAD | {'token': 'another'},
    '.guard': None,  # of another lock, or of an earlier version
  },
  'a claim from elsewhere': {'': DEAD, '.theirs': {'token': 'claim'}},
  'an empty claim': {'': DEAD, '.theirs': None},
  'an empty lock': {'': None},
}


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', LEFT)
def test_of_many_that_find_a_dead_lock_one_gets_in(
  tmp_path, quick, monkeypatch, kind, seed
):
  """Eight threads stand for jobs on a slow disk; never are two in at once."""
  rng = np.random.default_rng(seed)
  waits = iter(rng.choice([0, 0, 0.01, 0.03], 100_000))
  read, unlink = locks._read, pathlib.Path.unlink

  def slow(call, *args, **kwargs):
    time.sleep(next(waits))
    return call(*args, **kwargs)

  for ending, fields in LEFT[kind].items():
    path = tmp_path / f'{locks.NAME}{ending}'
    here = {'machine': locks._machine()} if fields and 'pid' in fields else {}
    path.write_text(
      '' if fields is None else json.dumps(ELSEWHERE | here | fields)
    )
  monkeypatch.setattr(locks, '_read', lambda path: slow(read, path))
  monkeypatch.setattr(
    pathlib.Path, 'unlink', lambda self, **k: slow(unlink, self, **k)
  )
  path, inside, most, taken = str(tmp_path), [], [], []
  guard = threading.Lock()

  def job():
    try:
      token, _ = locks._take(path)
    except errors.UserError:
      return
    with guard:
      inside.append(token)
      taken.append(token)
      most.append(len(inside))
    time.sleep(0.02)
    with guard:
      inside.remove(token)
    locks._release(path, token, False)

  threads = [threading.Thread(target=job) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert taken and max(most) == 1
  assert not list(tmp_path.iterdir())


def test_a_lock_is_removed_where_it_is_still_the_same_alone(tmp_path):
  _write(tmp_path, token='fresh')
  path = tmp_path / locks.NAME
  assert not locks._remove(path, {'token': 'theirs'})
  assert [p.name for p in tmp_path.iterdir()] == [locks.NAME]
  assert locks._remove(path, {'token': 'fresh'})
  assert not list(tmp_path.iterdir())


def test_what_a_living_job_claims_is_left_to_it(tmp_path):
  """It is about to remove the claim of a job that was killed."""
  dead = {'machine': locks._machine()} | DEAD
  _write(tmp_path, **dead)
  path = tmp_path / locks.NAME
  first, second = (
    path.with_name(f'{locks.NAME}.{token}') for token in ('theirs', 'claim')
  )
  first.write_text(json.dumps(ELSEWHERE | dead | {'token': 'claim'}))
  second.write_text(json.dumps(locks._myself()))
  assert not locks._remove(path, {'token': 'theirs'})
  assert sorted(tmp_path.iterdir()) == [path, second, first]
  second.unlink()
  assert not locks._remove(path, {'token': 'theirs'})  # but the claim
  assert sorted(tmp_path.iterdir()) == [path]
  assert locks._remove(path, {'token': 'theirs'})


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
  (tmp_path / 'file').touch()
  with pytest.raises(errors.DiskError, match='file.*writable'):
    with locks.alone_in(tmp_path / 'file'):
      pass
