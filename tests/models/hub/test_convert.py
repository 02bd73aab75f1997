"""mmu convert and mmu inspect: Hugging Face to Orbax and back."""

import json
import shutil

import hub_folder
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from mmu_jax import __main__ as command_line
from mmu_jax import checkpoint
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import inspection


@pytest.fixture(params=hub_folder.FAMILIES)
def folder(request, tmp_path):
  arrays = hub_folder.tensors(request.param, 3, 'bfloat16')
  return hub_folder.write(tmp_path / 'hf', request.param, arrays)


def test_there_and_back_gives_the_same_bytes(folder, tmp_path, capsys):
  orbax, back = tmp_path / 'orbax', tmp_path / 'back'
  main = command_line.main
  assert main(['convert', f'--from={folder}', f'--to={orbax}']) == 0
  assert main(['convert', f'--from={orbax}', f'--to={back}']) == 0
  assert f'with the tokenizer of {folder}' in ' '.join(
    capsys.readouterr().out.split()
  )
  names = sorted(p.name for p in folder.iterdir())
  assert names == sorted(p.name for p in back.iterdir())
  for name in names:
    assert (back / name).read_bytes() == (folder / name).read_bytes(), name


def test_trained_parameters_come_out_under_the_names_of_the_hub(
  folder, tmp_path
):
  model = models.load(folder)
  rng = np.random.default_rng(0)
  moved = jax.tree.map(
    lambda x: rng.normal(size=x.shape).astype(x.dtype), model.params
  )
  checkpoint.save(tmp_path / 'params', moved, {'rounds': 3})
  with pytest.raises(ValueError, match='--like=DIR'):
    convert.convert(tmp_path / 'params', tmp_path / 'out')
  convert.convert(
    tmp_path / 'params', tmp_path / 'out', like=folder, dtype='float32'
  )
  again = models.load(tmp_path / 'out')
  for name, want in tree_lib.flatten(moved).items():
    np.testing.assert_array_equal(
      tree_lib.flatten(again.params)[name], want, name
    )
  before = load_file(folder / 'model.safetensors')
  after = load_file(tmp_path / 'out' / 'model.safetensors')
  assert list(before) == list(after)
  assert all(np.any(np.float32(before[n]) != after[n]) for n in before)


@pytest.mark.parametrize('way', ['there', 'back'])
def test_no_device_holds_the_whole_model(folder, tmp_path, monkeypatch, way):
  seen = []

  def look(tree):
    # Of the matrices: all axes of a small model need not divide by 8.
    leaves = [x for x in jax.tree.leaves(tree) if x.ndim > 1]
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in leaves:
      for shard in leaf.addressable_shards:
        held[shard.device] += shard.data.nbytes
    seen.append(max(held.values()) / sum(x.nbytes for x in leaves))

  save, write = checkpoint.save, convert.saving.save
  if way == 'there':
    monkeypatch.setattr(
      checkpoint, 'save', lambda f, x, note: (look(x), save(f, x, note))
    )
  else:
    monkeypatch.setattr(
      convert.saving,
      'save',
      lambda model, x, *args, **options: (
        look(x),
        write(model, x, *args, **options),
      ),
    )
  convert.convert(folder, tmp_path / 'orbax')
  convert.convert(tmp_path / 'orbax', tmp_path / 'back')
  assert len(jax.devices()) == 8 and len(seen) == 1
  assert seen[0] < 0.15  # 1/8 where an axis divides; there are small ones


def test_inspect_counts_every_parameter_once(folder, tmp_path, capsys):
  contents = inspection.inspect(folder)
  tensors = load_file(folder / 'model.safetensors')
  count = sum(x.size for x in tensors.values())
  shapes = contents.leaves.values()
  assert sum(int(np.prod(x.shape)) for x in shapes) == count
  assert {x.dtype.name for x in shapes} == {'bfloat16'}
  convert.convert(folder, tmp_path / 'orbax')
  capsys.readouterr()
  for path in (folder, tmp_path / 'orbax'):
    assert command_line.main(['inspect', str(path)]) == 0
    shown = capsys.readouterr().out
    assert f'{count:,}' in shown
    for component in ('vision', 'projector', 'language'):
      assert component in shown
    found = inspection.inspect(path).leaves
    assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
      k: (v.shape, v.dtype) for k, v in contents.leaves.items()
    }


def test_the_note_of_parameters_names_their_family(folder, tmp_path):
  """Leaves alone would fit all families with the same parts."""
  convert.convert(folder, tmp_path / 'orbax')
  family = inspection.inspect(folder).family
  assert inspection.inspect(tmp_path / 'orbax').family == family
  tree = {'visual': {'merger': {'w': np.ones(3)}}, 'model': {'w': np.ones(2)}}
  checkpoint.save(tmp_path / 'old', tree, {})
  said = inspection.inspect(tmp_path / 'old').family
  assert said.startswith('qwen2_vl (by the names of its leaves; ')
  checkpoint.save(tmp_path / 'new', tree, {'family': 'qwen2_vl'})
  assert inspection.inspect(tmp_path / 'new').family == 'qwen2_vl'


def test_what_is_no_checkpoint_is_refused(folder, tmp_path, capsys):
  inspect = lambda path: command_line.main(['inspect', str(path)])
  (tmp_path / 'empty').mkdir()
  assert inspect(tmp_path / 'empty') == 1
  assert 'holds neither config.json' in capsys.readouterr().err
  (tmp_path / 'empty' / 'config.json').write_text('{"stage": {}}')
  assert inspect(tmp_path / 'empty') == 1
  assert 'parameters of a run are in its folder params/' in (
    capsys.readouterr().err
  )
  checkpoint.save(tmp_path / 'other', {'w': np.ones(3)}, {})
  assert inspect(tmp_path / 'other') == 1
  known = ', '.join(models.MODELS)
  assert f"of no known model ({known}); the first is 'w'" in (
    capsys.readouterr().err
  )
  full = ['convert', f'--from={folder}', f'--to={tmp_path / "other"}']
  assert command_line.main(full) == 1
  assert 'is written to a new folder' in capsys.readouterr().err
  shutil.rmtree(tmp_path / 'other')
  config = json.loads((folder / 'config.json').read_text())
  config['model_type'] = 'mllama'
  (folder / 'config.json').write_text(json.dumps(config))
  assert command_line.main(full) == 1
  assert "'mllama' is not supported; supported are llava, " in (
    capsys.readouterr().err
  )
  assert not (tmp_path / 'other').exists()


def test_unknown_options_of_file_commands_are_refused(folder, capsys):
  with pytest.raises(SystemExit):
    command_line.main(['inspect', str(folder), '--config.seed=1'])
  assert 'unexpected arguments: --config.seed=1' in capsys.readouterr().err
