"""Mesh and model are fields of the config, for a plan and for the doctor."""

from typing import NamedTuple

from commanding import CONFIG
import pages
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax.commands import COMMANDS


@pytest.mark.parametrize('option', ['--mesh=fsdp=2', '--model=llava-1.5-7b'])
@pytest.mark.parametrize('command', ['plan', 'doctor'])
def test_mesh_and_model_are_fields_of_the_config_alone(command, option, capsys):
  assert command_line.main([command, CONFIG, option]) == 1
  assert option.split('=')[0][2:] in capsys.readouterr().err


class _Plan(NamedTuple):
  """A plan that says nothing but whether it fits."""

  fit: str


def test_a_plan_is_of_the_mesh_and_the_model_of_the_config(monkeypatch):
  from mmu_jax import planning

  asked = []
  made = lambda config, **_: asked.append(config) or _Plan('')
  monkeypatch.setattr(planning, 'plan', made)
  monkeypatch.setattr(planning, 'plan_tables', lambda _: [])
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  assert (
    command_line.main(
      [
        'plan',
        '--config=mllmu_bench',
        '--config.mesh=fsdp=8',
        '--config.model.path=llava-1.5-7b',
      ]
    )
    == 0
  )
  assert (asked[0].mesh, asked[0].model.path) == ('fsdp=8', 'llava-1.5-7b')


@pytest.mark.parametrize(
  'fit, code', [('yes', 0), ('tight', 0), ('no', 1), ('', 0)]
)
def test_a_plan_that_does_not_fit_ends_with_1(fit, code, monkeypatch):
  from mmu_jax import planning

  monkeypatch.setattr(planning, 'plan', lambda *_, **__: _Plan(fit))
  monkeypatch.setattr(planning, 'plan_tables', lambda _: [])
  assert command_line.main(['plan', CONFIG]) == code


def test_the_example_of_a_plan_is_one_that_fits():
  """It stands in a page, whose commands are run and must end with 0."""
  calls = lambda text: [
    line.split() for line in text.replace('\\\n', ' ').splitlines()
  ]
  shown = [c for c in calls(COMMANDS['plan'].examples) if '--hbm=16GiB' in c]
  assert len(shown) == 1 and shown[0][:2] == ['mmu', 'plan']
  assert shown[0] in calls(pages.read('docs/many_devices.md'))
