"""What is said before a job: every field, and whether it fits."""

import ast
from typing import NamedTuple

from commanding import CONFIG
import pages
import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import recipes
from mmu_jax import workdir
from mmu_jax.commands import COMMANDS
from mmu_jax.commands import fields


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


def _shown(capsys, *argv):
  """The lines of ``mmu config``: name -> value, and name -> meaning."""
  assert command_line.main(['config', *argv]) == 0
  values, meanings = {}, {}
  for line in capsys.readouterr().out.splitlines():
    if line.startswith('config.'):
      name, _, values[name] = line.partition(' = ')
      meanings[name] = ''
    else:
      assert line.startswith('    ') and len(line) <= 80
      meanings[name] += line.strip()
  return values, meanings


@pytest.mark.parametrize('spec', ['people:fast', 'mllmu_bench', 'own'])
def test_every_field_of_a_config_is_shown_with_its_meaning(spec, capsys):
  values, meanings = _shown(capsys, f'--config={spec}', '--config.seed=7')
  config = recipes.load(spec)
  config.seed = 7
  want = {f'config.{path}': repr(x) for path, x in fields.leaves(config)}
  assert values == want and values['config.seed'] == '7'
  assert all(text.endswith(')') and ' (' in text for text in meanings.values())
  assert meanings['config.unlearn.rounds'] == (
    'rounds of a run; None: by epochs (a whole number >= 1, or None)'
  )
  # Each of them can be typed.
  given = [f'--{k}={ast.literal_eval(v)}' for k, v in values.items()]
  assert fields.read(spec, given).to_dict() == config.to_dict()


def test_the_config_of_a_job_is_shown_as_it_was(capsys, tmp_path):
  config = recipes.load('people:fast')
  config.unlearn.max_retain_loss = float('inf')
  workdir.write_json(tmp_path / workdir.CONFIG, config.to_dict())
  for argv in ([f'--workdir={tmp_path}'], [], [CONFIG, '--workdir=x']):
    assert command_line.main(['config', *argv]) == 1  # no job; none; both
  said = capsys.readouterr().err
  assert 'world.json is missing' in said
  assert 'got none' in said and 'got both' in said
  workdir.write_json(tmp_path / workdir.WORLD, {})
  values, _ = _shown(capsys, f'--workdir={tmp_path}')
  want = {f'config.{path}': repr(x) for path, x in fields.leaves(config)}
  assert values == want and values['config.unlearn.max_retain_loss'] == 'inf'


def test_a_key_in_the_config_of_a_job_is_not_shown(capsys, tmp_path):
  plain = {'evaluation': {'judge': {'model': 'sk-hunter2hunter2hunter2'}}}
  workdir.write_json(tmp_path / workdir.CONFIG, plain)
  workdir.write_json(tmp_path / workdir.WORLD, {})
  values, _ = _shown(capsys, f'--workdir={tmp_path}')
  assert 'not shown' in values['config.evaluation.judge.model']
