"""Mesh and model are fields of the config, for a plan and for the doctor."""

from commanding import CONFIG
import pytest

from mmu_jax import __main__ as command_line


@pytest.mark.parametrize('option', ['--mesh=fsdp=2', '--model=llava-1.5-7b'])
@pytest.mark.parametrize('command', ['plan', 'doctor'])
def test_mesh_and_model_are_fields_of_the_config_alone(command, option, capsys):
  assert command_line.main([command, CONFIG, option]) == 1
  assert option.split('=')[0][2:] in capsys.readouterr().err


def test_a_plan_is_of_the_mesh_and_the_model_of_the_config(monkeypatch):
  from mmu_jax import planning

  asked = []
  monkeypatch.setattr(planning, 'plan', lambda c, **_: asked.append(c))
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
