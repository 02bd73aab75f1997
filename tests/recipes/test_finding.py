"""A config is found by its name in any folder, or by the path of a file."""

import os
import pathlib
import subprocess
import sys

import paths
import pytest

from mmu_jax import recipes
from mmu_jax.recipes import finding

NAMES = recipes.known()


def test_the_known_configs_are_the_files_in_configs():
  assert {'clear', 'mllmu_bench', 'own', 'people', 'tfds'} <= set(NAMES)
  assert sorted(p.stem for p in paths.CONFIGS.glob('*.py')) == list(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_a_name_and_its_file_give_one_config_in_any_folder(
  name, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  by_path = recipes.load(f'{paths.CONFIGS / name}.py:fast')
  assert recipes.load(f'{name}:fast').to_dict() == by_path.to_dict()


@pytest.mark.parametrize('name', NAMES)
def test_a_config_of_the_package_is_short_and_opens_with_its_command(name):
  text = (paths.CONFIGS / f'{name}.py').read_text()
  assert 20 <= len(text.splitlines()) <= 60
  about = text.split('"""')[1]
  assert f'mmu pipeline --config={name}' in about
  assert 'minute' in about or 'hour' in about


SOURCE = """
import ml_collections


def get_config():
  return ml_collections.ConfigDict(dict(seed={}))
"""


def test_a_folder_of_that_name_does_not_hide_a_config(tmp_path, monkeypatch):
  (tmp_path / 'people').mkdir()
  (tmp_path / 'people.py').write_text(SOURCE.format(1))
  monkeypatch.chdir(tmp_path)
  assert recipes.load('people').seed == 0
  assert recipes.load('people.py').seed == 1


def test_configs_inside_the_package_come_before_those_beside_it(
  tmp_path, monkeypatch
):
  """As in a wheel, which has them inside."""
  package = tmp_path / 'mmu_jax'
  for folder, seed in ((package / 'configs', 1), (tmp_path / 'configs', 2)):
    folder.mkdir(parents=True)
    (folder / 'mine.py').write_text(SOURCE.format(seed))
  monkeypatch.setattr(finding, '_PACKAGE', package)
  assert (recipes.known(), recipes.load('mine').seed) == (('mine',), 1)


def test_each_load_is_a_new_config():
  first = recipes.load('people:fast')
  first.runs.npo.rate = 7.0
  assert recipes.load('people:fast').runs.npo.rate != 7.0


@pytest.mark.parametrize('name', ['faces', 'no/such.py', 'such.py:fast'])
def test_an_unknown_config_is_an_error_that_names_the_known_ones(name):
  with pytest.raises(FileNotFoundError, match=', '.join(NAMES)) as error:
    recipes.load(name)
  assert repr(name.split(':')[0]) in str(error.value)


@pytest.mark.parametrize(
  'text, message',
  [('x = 1', 'no function get_config'), ('a b', 'line 1 is no Python')],
)
def test_a_file_that_is_no_config_is_a_clear_error(text, message, tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(ValueError, match=message):
    recipes.load(str(path))


def test_recipes_load_without_jax():
  code = (
    'import sys; from mmu_jax import recipes; recipes.load("clear:fast")\n'
    'print([x for x in ("flax", "transformers") if x in sys.modules])'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=pathlib.Path(os.sep),
    env=os.environ | {'PYTHONPATH': str(paths.ROOT)},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == '[]'
