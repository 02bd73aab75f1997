"""Paths that are missing and a disk that is too small are found."""

import pytest
from small_worlds import MODEL

from mmu_jax import doctor
from mmu_jax.doctor import files

SMALL = [4096]


def _by_what(report):
  return {finding.what: finding for finding in report.findings}


@pytest.mark.parametrize('name', ['own', 'clear', 'mllmu_bench', 'tfds'])
def test_a_path_that_a_dataset_needs_is_asked_for(name):
  config = {
    'data': {'name': name, 'path': '', 'processor': ''},
    'model': dict(MODEL),
  }
  report = doctor.examine(config, sizes=SMALL)
  for what in ('config.data.path', 'config.model.path'):
    finding = _by_what(report)[what]
    assert finding.state == 'FAIL' and f'--{what}=' in finding.fix
  config['data']['processor'] = 'small'  # needs no checkpoint
  assert [f.what for f in files.missing_paths(config)] == ['config.data.path']
  config['data'] = {'name': name, 'path': 'x', 'processor': ''}
  config['model']['path'] = 'y'
  assert files.missing_paths(config) == []


def test_the_people_need_no_path():
  assert not files.missing_paths({'data': {'name': 'people'}, 'model': MODEL})
  data = {'name': 'tfds', 'path': 'a/mmu_people/1.0.0', 'processor': ''}
  assert not files.missing_paths({'data': data, 'model': MODEL})


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
  assert files.look_at_disk(str(tmp_path), config).state == state
