"""What a folder holds, from its headers and its note."""

import io
import json
import pathlib
import shutil

import hub_folder
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from mmu_jax import __main__ as command_line
from mmu_jax import checkpoint
from mmu_jax import models
from mmu_jax import tree
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import inspection


@pytest.fixture(params=hub_folder.FAMILIES)
def folder(request, tmp_path):
  arrays = hub_folder.tensors(request.param, 3, 'bfloat16')
  return hub_folder.write(tmp_path / 'hf', request.param, arrays)


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
  assert said.startswith('qwen2_vl or qwen2_5_vl (by the names of its leaves')
  checkpoint.save(tmp_path / 'new', tree, {'family': 'qwen2_5_vl'})
  assert inspection.inspect(tmp_path / 'new').family == 'qwen2_5_vl'


def test_what_is_no_checkpoint_is_refused(folder, tmp_path, capsys):
  inspect = lambda path: command_line.main(['inspect', str(path)])
  assert inspect(tmp_path / 'none') == 1
  assert f'there is no folder {tmp_path / "none"}' in capsys.readouterr().err
  (tmp_path / 'empty').mkdir()
  assert inspect(tmp_path / 'empty') == 1
  assert 'empty holds neither' in capsys.readouterr().err
  work = tmp_path / 'work'
  (work / 'unlearned/ga/params').mkdir(parents=True)
  (work / 'config.json').write_text('{}')
  (work / 'world.json').write_text('{}')
  assert inspect(work) == 1
  said = capsys.readouterr().err
  assert 'is a workdir' in said and str(work / 'unlearned/ga/params') in said
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


def test_a_terminal_of_80_columns_shows_whole_words():
  """Every sign of the names, shapes and sizes of LLaVA-1.5 7B."""
  model = models.build(models.LlavaConfig())
  contents = inspection.Contents(
    pathlib.Path('m'),
    'Orbax',
    'llava',
    tree.flatten(model.abstract_params),
    model.components,
  )
  console = Console(width=80, record=True, file=io.StringIO())
  for part in inspection.content_tables(contents):
    console.print(part)
  text = console.export_text()
  assert max(map(len, text.split('\n'))) <= 80 and '…' not in text
  assert '(32, 4096, 11008)' in text and '7,063,427,072' in text
  lines = [' '.join(line.split()) for line in text.split('\n')]
  path = 'vision_tower/vision_model/encoder/layers/ (24, 1024, 1024) float32'
  for last in ('q_proj/kernel', 'out_proj/kernel'):
    assert lines[lines.index(f'self_attn/{last}') - 1] == path
