"""A field on the command line is a field of the config, or an error."""

import sys

from commanding import CONFIG
import paths
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import recipes
from mmu_jax.commands import fields


@pytest.mark.parametrize('path', ['nowhere.py', 'README.md'])
def test_a_config_that_is_no_config_is_a_clear_error(fails, path):
  assert path in fails('report', config=f'--config={paths.ROOT / path}')


def test_an_unknown_name_of_a_config_lists_the_known_ones(fails):
  message = fails('report', config='--config=persons:fast')
  assert "no config 'persons'" in message
  assert ', '.join(recipes.known()) in message


def test_fields_without_a_config_are_an_error(capsys):
  with pytest.raises(SystemExit) as exit_:
    command_line.main(['doctor', '--config.mesh=fsdp=2'])
  assert exit_.value.code == 1
  assert 'fields need --config' in capsys.readouterr().err


def test_an_unknown_variant_is_a_clear_error(fails):
  config = CONFIG.replace(':fast', ':huge')
  message = "one of full, all, fast, paper_exact; got 'huge'"
  assert message in fails('report', config=config)


def test_fields_are_read_from_the_arguments_not_from_the_process(monkeypatch):
  monkeypatch.setattr(sys, 'argv', ['pytest', '--config.seed=5'])
  config = fields.read(
    'people:fast',
    ['--config.runs.npo.rate=3e-4', '--config.model.dtype=bfloat16'],
  )
  assert config.seed == 0
  assert config.runs.npo.rate == 3e-4
  assert config.model.dtype == 'bfloat16'
