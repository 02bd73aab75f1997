"""mmu convert and mmu inspect: Hugging Face to Orbax and back."""

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
  checkpoint.save(tmp_path / 'other', moved, {'family': 'llama'})
  with pytest.raises(
    ValueError, match='holds parameters of a llama, and .*--l'
  ):
    convert.convert(tmp_path / 'other', tmp_path / 'out', like=folder)
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


def test_unknown_options_of_file_commands_are_refused(folder, capsys):
  with pytest.raises(SystemExit):
    command_line.main(['inspect', str(folder), '--config.seed=1'])
  assert 'unexpected arguments: --config.seed\n' in capsys.readouterr().err
