"""A folder knows what it was made from, and a result what made it."""

import json
import math

import process_group
import pytest

from mmu_jax import sharding
from mmu_jax import workdir

SETTINGS = {'seed': 3, 'data': {'name': 'people', 'views': (1, 2)}}


def test_a_claimed_folder_can_be_claimed_again_with_the_same_settings(tmp_path):
  folder = tmp_path / 'a' / 'b'
  workdir.claim(folder, SETTINGS)
  written = (folder / 'config.json').stat().st_mtime_ns
  workdir.claim(folder, SETTINGS)  # tuples are lists in JSON, and still equal
  assert (folder / 'config.json').stat().st_mtime_ns == written
  found = json.loads((folder / 'config.json').read_text())
  assert found == {'seed': 3, 'data': {'name': 'people', 'views': [1, 2]}}


def test_a_folder_that_holds_nothing_yet_can_be_claimed_anew(tmp_path):
  workdir.claim(tmp_path, SETTINGS)
  workdir.claim(tmp_path, {'seed': 4})
  assert json.loads((tmp_path / 'config.json').read_text()) == {'seed': 4}


def test_other_settings_are_refused_and_named(tmp_path):
  workdir.claim(tmp_path, SETTINGS)
  (tmp_path / 'metrics.jsonl').write_text('')
  other = {'seed': 4, 'data': {'name': 'people', 'views': (1, 2)}}
  with pytest.raises(ValueError) as error:
    workdir.claim(tmp_path, other)
  message = str(error.value)
  assert str(tmp_path) in message
  assert 'seed: 3 there, 4 asked for' in message
  assert '--workdir' in message  # the next step
  assert json.loads((tmp_path / 'config.json').read_text())['seed'] == 3


def test_claims_of_other_names_do_not_meet(tmp_path):
  workdir.claim(tmp_path, {'seed': 1}, 'world.json')
  workdir.claim(tmp_path, {'seed': 2})
  workdir.claim(tmp_path / 'vanilla', {'rate': 0.1})
  with pytest.raises(ValueError, match='seed: 1 there, 2 asked for'):
    workdir.claim(tmp_path, {'seed': 2}, 'world.json')


@pytest.mark.parametrize(
  'old, new, want',
  [
    ({'a': 1}, {'a': 1}, []),
    ({'a': 1}, {}, ['a: 1 there, None asked for']),
    ({}, {'a': 'x'}, ["a: None there, 'x' asked for"]),
    (
      {'a': {'b': {'c': [1]}}, 'd': 0},
      {'a': {'b': {'c': [2]}}, 'd': 0},
      ['a.b.c: [1] there, [2] asked for'],
    ),
    ({'a': {'b': 1}}, {'a': 2}, ["a: {'b': 1} there, 2 asked for"]),
  ],
)
def test_differences_name_the_field_and_both_values(old, new, want):
  assert workdir.differences(old, new) == want


def test_an_infinite_setting_is_none_that_is_missing(tmp_path):
  workdir.claim(tmp_path, {'clip_norm': math.inf})
  (tmp_path / 'metrics.jsonl').write_text('')
  with pytest.raises(ValueError, match="clip_norm: 'inf' there, None asked"):
    workdir.claim(tmp_path, {'clip_norm': None})


def test_the_manifest_names_seed_versions_devices_and_revision():
  mesh = sharding.make_mesh('data=2,fsdp=4')
  made = json.loads(json.dumps(workdir.manifest(11, mesh)))
  assert made['seed'] == 11
  assert {'mmu_jax', 'jax', 'orbax-checkpoint'} <= set(made['packages'])
  assert made['revision'] and made['python']
  assert len(made['devices']) == 8
  assert made['device_kinds'] == {'cpu': 8}
  assert (made['processes'], made['mesh']) == (
    1,
    {'data': 2, 'fsdp': 4, 'tensor': 1},
  )


CLAIM = """
  import pathlib, sys
  from mmu_jax import distributed
  distributed.initialize()
  from mmu_jax import workdir
  import jax
  folder = pathlib.Path(sys.argv[1])
  workdir.claim(folder, {'seed': 1})
  written = (folder / 'config.json').stat().st_mtime_ns
  distributed.first((folder / 'metrics.jsonl').touch)
  workdir.claim(folder, {'seed': 1})
  assert (folder / 'config.json').stat().st_mtime_ns == written
  try:
    workdir.claim(folder, {'seed': 2})
  except ValueError as error:
    print('refused:', error)
"""


def test_a_claim_of_several_processes_is_one_and_its_error_is_told_to_all(
  tmp_path,
):
  outputs = process_group.results(CLAIM, arguments=[str(tmp_path / 'job')])
  for output in outputs:
    assert 'refused: ' in output and 'seed: 1 there, 2 asked for' in output


def test_a_folder_with_results_and_no_settings_is_not_taken_over(tmp_path):
  workdir.claim(tmp_path, SETTINGS, 'world.json')
  workdir.claim(tmp_path / 'vanilla', {'rate': 1})
  (tmp_path / 'world.json').unlink()
  with pytest.raises(ValueError, match='world.json is missing.* vanilla'):
    workdir.claim(tmp_path, SETTINGS, 'world.json')
  assert not (tmp_path / 'world.json').exists()


def test_logs_and_notes_of_people_do_not_bind_a_workdir(tmp_path):
  (tmp_path / 'logs').mkdir()
  (tmp_path / 'logs' / 'job.txt').write_text('started')
  (tmp_path / 'notes.md').write_text('seed 3 is for Monday')
  assert workdir.is_empty(str(tmp_path))
  assert workdir.claim(tmp_path, SETTINGS, 'world.json')
  assert workdir.claim(tmp_path, {'seed': 4}, 'world.json')
  workdir.claim(tmp_path / 'base', {'rate': 1})
  assert not workdir.claim(tmp_path, {'seed': 4}, 'world.json')
  assert not workdir.is_empty(str(tmp_path))
