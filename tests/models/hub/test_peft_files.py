"""Adapters of PEFT: merged on load, written, and refused by name."""

import json

import hub_folder
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file
import toy

from mmu_jax import checkpoint
from mmu_jax import errors
from mmu_jax import lora as lora_lib
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import inspection
from mmu_jax.models.hub import loading
from mmu_jax.models.hub import peft_files
from mmu_jax.models.hub import weights

pytestmark = pytest.mark.usefixtures('quick_compile')
RANK, ALPHA = 3, 5.0


def _model(folder):
  return loading.read_headers(folder)[0]


def _linear(model):
  ends = models.MODELS[model.family].convolutions(model.config)
  shapes = model.abstract_params
  found = lora_lib.linear_leaves(shapes, ends)
  return [name for name in found if 'lm_head' not in name]


@pytest.fixture(params=hub_folder.FAMILIES)
def base(request, tmp_path):
  """A checkpoint without the numbers that no sum keeps."""
  family = request.param
  rng = np.random.default_rng(3)
  arrays = {
    name: rng.normal(size=shape).astype(np.float32)
    for name, shape in hub_folder.shapes(family).items()
  }
  return hub_folder.write(tmp_path / 'base', family, arrays)


def _write(folder, model, seed=1, writer='5', **settings):
  """An adapter of every linear layer, in the names of a writer."""
  rng, tensors = np.random.default_rng(seed), {}
  places = weights.table(model).places
  by_leaf = weights.by_leaf(places)
  for hub in [name for leaf in _linear(model) for name in by_leaf[leaf]]:
    rows, columns = places[hub].shape
    module = hub.removesuffix('.weight')
    if writer == '5':
      module = peft_files.module_name(module, model.family)
    for word, shape in (('A', (RANK, columns)), ('B', (rows, RANK))):
      name = f'base_model.model.{module}.lora_{word}.weight'
      tensors[name] = rng.normal(size=shape).astype(np.float32)
  folder.mkdir()
  save_file(tensors, folder / peft_files.WEIGHTS)
  made = dict(peft_type='LORA', r=RANK, lora_alpha=ALPHA) | settings
  (folder / peft_files.CONFIG).write_text(json.dumps(made))
  return tensors


@pytest.mark.parametrize('writer', ['5', 'hub'])
@pytest.mark.parametrize('mesh', ['', 'fsdp=2,tensor=2'])
def test_an_adapter_is_merged_on_load(base, tmp_path, writer, mesh):
  """W + s B A in every linear layer, by NumPy in float64."""
  model = _model(base)
  tensors = _write(tmp_path / 'a', model, writer=writer, use_rslora=True)
  mesh = sharding.make_mesh(mesh) if mesh else None
  got = loading.load(base, mesh=mesh, adapter=tmp_path / 'a')
  was = tree_lib.flatten(loading.load(base).params)
  known, scale = weights.table(model).places, ALPHA / RANK**0.5
  want = {name: np.array(x, np.float64) for name, x in was.items()}
  pairs = [name for name in tensors if name.endswith('lora_A.weight')]
  for name in pairs:
    module = name.removeprefix('base_model.model.').removesuffix(
      '.lora_A.weight'
    )
    place = known[weights.hub_name(f'{module}.weight', model.family)]
    a = tensors[name].astype(np.float64)
    b = tensors[name.replace('lora_A', 'lora_B')].astype(np.float64)
    leaf = want[place.leaf]
    if place.layer is None:
      leaf += scale * (b @ a).T
    else:
      leaf[place.layer] += scale * (b @ a).T
  assert len(pairs) > 10 and got.adapter == tmp_path / 'a'
  for name, x in tree_lib.flatten(got.params).items():
    np.testing.assert_allclose(x, want[name], rtol=1e-5, atol=1e-5)
  moved = [k for k, x in want.items() if np.abs(x - was[k]).max() > 0.1]
  assert moved == _linear(model)


def test_convert_merges_an_adapter_into_a_folder(base, tmp_path):
  model = _model(base)
  _write(tmp_path / 'a', model)
  want = loading.load(base, adapter=tmp_path / 'a').params
  said = convert.convert(base, tmp_path / 'new', adapter=tmp_path / 'a')
  assert 'parameters' in said
  got = loading.load(tmp_path / 'new').params
  assert toy.vector(got).tobytes() == toy.vector(want).tobytes()


def _run(folder, model, kinds=('free',), start=None, **options):
  """The folder of a finished run: its adapters, and merged parameters."""
  targets = tuple(_linear(model))
  lora = lora_lib.Lora(targets, **dict(rank=RANK, alpha=ALPHA) | options)
  new = lora_lib.new_adapters(
    jax.random.key(0), model.abstract_params, lora, kinds
  )
  new = toy.tree_like(new, 4)
  note = {'lora': lora._asdict() | {'targets': list(targets)}}
  checkpoint.save(folder / 'adapters', new, note)
  mask = toy.random_mask(model.abstract_params, 5)
  whole = lora_lib.merge(start, new, mask, scale=lora.scale)
  checkpoint.save(folder / 'params', whole, {'family': model.family})
  return whole


@pytest.mark.parametrize('rslora', [False, True])
def test_adapters_of_a_run_are_written_and_read_again(base, tmp_path, rslora):
  start = loading.load(base)
  whole = _run(tmp_path / 'run', start, start=start.params, rslora=rslora)
  source, target = tmp_path / 'run' / 'adapters', tmp_path / 'peft'
  convert.convert(source, target, like=base)
  got = loading.load(base, adapter=target).params
  np.testing.assert_allclose(toy.vector(got), toy.vector(whole), atol=2e-5)
  said = json.loads((target / peft_files.CONFIG).read_text())
  assert said['base_model_name_or_path'] == str(base.resolve())
  assert (said['r'], said['lora_alpha'], said['use_rslora']) == (3, 5, rslora)
  names = {
    f'base_model.model.{module}.lora_{x}.weight'
    for module in said['target_modules']
    for x in 'AB'
  }
  assert names == {*load_file(target / peft_files.WEIGHTS)}


def test_adapters_over_another_model_than_their_own_are_not_written(
  base, tmp_path
):
  start = loading.load(base)
  other = toy.perturb(start.params, 7, 0.01)
  _run(tmp_path / 'run', start, start=other)
  with pytest.raises(errors.UserError, match='started from another one'):
    convert.convert(tmp_path / 'run/adapters', tmp_path / 'x', like=base)
  assert not (tmp_path / 'x').exists()
  with pytest.raises(errors.UserError, match='--like=DIR.*vanilla/params'):
    convert.convert(tmp_path / 'run/adapters', tmp_path / 'x')
  with pytest.raises(errors.UserError, match='without their base.*params'):
    convert.load_orbax(tmp_path / 'run/adapters', like=base)
  with pytest.raises(errors.UserError, match='without their base.*params'):
    inspection.inspect(tmp_path / 'run/adapters')


def test_a_masked_change_is_no_peft_adapter(tmp_path):
  base = hub_folder.write(
    tmp_path / 'base', 'llava', hub_folder.tensors('llava', 1)
  )
  start = loading.load(base)
  _run(tmp_path / 'run', start, ('masked', 'free'), start=start.params)
  with pytest.raises(errors.UserError, match='not of low rank.*RUN/params'):
    convert.convert(tmp_path / 'run/adapters', tmp_path / 'x', like=base)


def test_leaves_that_are_trained_whole_are_no_peft_adapter(tmp_path):
  base = hub_folder.write(
    tmp_path / 'base', 'llava', hub_folder.tensors('llava', 1)
  )
  start = loading.load(base)
  whole = ('multi_modal_projector/linear_1/bias',)
  _run(tmp_path / 'run', start, start=start.params, whole=whole)
  with pytest.raises(
    errors.UserError, match='1 leaves were trained whole.*RUN'
  ):
    convert.convert(tmp_path / 'run/adapters', tmp_path / 'x', like=base)


@pytest.mark.parametrize(
  'settings, reason',
  [
    (dict(use_dora=True), 'DoRA'),
    (dict(trainable_token_indices=[1]), 'trainable token indices'),
    (dict(modules_to_save=['lm_head']), 'modules_to_save'),
    (dict(alpha_pattern={'q_proj': 2}), 'alpha_pattern'),
    (dict(peft_type='IA3'), "peft_type 'IA3'"),
    (dict(bias='lora_only'), "bias 'lora_only'"),
    (dict(init_lora_weights='pissa_niter_4'), 'pissa.*changed the base'),
    (dict(lora_alpha=None), 'lora_alpha is a number; got None'),
  ],
)
def test_other_adapters_are_refused_by_name(tmp_path, settings, reason):
  base = hub_folder.write(
    tmp_path / 'base', 'llava', hub_folder.tensors('llava', 1)
  )
  model = _model(base)
  _write(tmp_path / 'a', model, **settings)
  with pytest.raises(errors.UserError, match=reason):
    peft_files.read_adapter(tmp_path / 'a', model)


def test_tensors_of_another_model_are_named(tmp_path):
  base = hub_folder.write(
    tmp_path / 'base', 'llava', hub_folder.tensors('llava', 1)
  )
  model = _model(base)
  tensors = _write(tmp_path / 'a', model)
  first = next(iter(tensors))
  for name, x in (
    (first, np.ones((RANK, 99), np.float32)),
    (first.replace('lora_A', 'lora_embedding_A'), tensors[first]),
    (first.replace('lora_A', 'lora_magnitude_vector'), tensors[first]),
  ):
    save_file({**tensors, name: x}, tmp_path / 'a' / peft_files.WEIGHTS)
    with pytest.raises(errors.UserError) as raised:
      peft_files.read_adapter(tmp_path / 'a', model)
    assert name in str(raised.value) and 'llava' in str(raised.value)
  (tmp_path / 'a' / peft_files.WEIGHTS).unlink()
  with pytest.raises(FileNotFoundError, match='adapter_model.bin'):
    peft_files.read_adapter(tmp_path / 'a', model)


def test_an_adapter_in_the_place_of_a_checkpoint_names_its_command(tmp_path):
  base = hub_folder.write(
    tmp_path / 'base', 'llava', hub_folder.tensors('llava', 1)
  )
  _write(tmp_path / 'a', _model(base))
  way = rf'is an adapter.*mmu convert --from=BASE --adapter={tmp_path}/a --to='
  for read in (
    loading.load,
    lambda path: convert.convert(path, tmp_path / 'x'),
    lambda path: convert.convert(path, tmp_path / 'x', adapter=path),
  ):
    with pytest.raises(errors.UserError, match=way):
      read(tmp_path / 'a')


def test_bfloat16_files_are_merged_in_float32(tmp_path):
  """One rounding, of the sum."""
  rng = np.random.default_rng(3)
  arrays = {
    name: rng.normal(size=shape).astype(hub_folder.DTYPES['bfloat16'])
    for name, shape in hub_folder.shapes('llava').items()
  }
  base = hub_folder.write(tmp_path / 'base', 'llava', arrays)
  _write(tmp_path / 'a', _model(base))
  exact = loading.load(base, adapter=tmp_path / 'a').params
  got = loading.load(base, dtype=None, adapter=tmp_path / 'a').params
  want = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
  assert toy.vector(got).tobytes() == toy.vector(want).tobytes()
