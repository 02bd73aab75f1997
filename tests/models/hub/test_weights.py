"""The weight tables: every tensor of every writer has its one place."""

import collections
import json
import re
import shutil

import families
from families import tensors
import hub_folder
import numpy as np
import paths
import pytest
from safetensors import numpy as safetensors_numpy
import toy

from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import config as hub_config
from mmu_jax.models.hub import weights

# Families that tie their output layer: what a tied checkpoint leaves out.
TIED = {
  name: case.shapes(False).keys() - case.shapes(True).keys()
  for name, case in families.CASES.items()
  if case.shapes(False) != case.shapes(True)
}
WRITERS = ('hub', '4.52', '5')
PUBLISHED = {  # folder -> tensors, parameters
  'llava_1_5_7b': (686, 7_063_427_072),
  'qwen2_vl_7b': (730, 8_291_375_616),
  'qwen2_vl_2b_derived': (729, 2_208_985_600),
  'qwen2_5_vl_3b': (824, 3_754_622_976),
  'qwen2_5_vl_7b': (729, 8_292_166_656),
  'llava_next_vicuna_7b': (687, 7_063_431_168),
  'llava_next_mistral_7b': (687, 7_566_747_648),
  'qwen3_vl_2b': (625, 2_127_532_032),
  'qwen3_vl_4b': (713, 4_437_815_808),
  'qwen3_vl_8b': (750, 8_767_123_696),
  'gemma3_4b': (883, 4_300_079_472),
  'gemma3_12b': (1065, 12_187_325_040),
}
# Of which no file of the hub is here.
LISTED = ('qwen2_5_vl', 'qwen3_vl', 'llava_next', 'gemma3')


def _listed(name):
  """The same of a model of which sizes, names and shapes are known."""
  file = paths.HUB / f'{name}.json'
  if not file.exists():
    pytest.skip(f'needs the list of tensors of the hub, {file}')
  raw = json.loads((paths.HUB / f'{name}.config.json').read_text())
  family = max((f for f in models.MODELS if name.startswith(f)), key=len)
  made = models.MODELS[family].read_config({'model_type': family} | raw, {})
  return models.build(made), json.loads(file.read_text())['table']


def _published(name):
  """Model and list of tensors of a published model."""
  if name.startswith(LISTED):
    return _listed(name)
  folder = hub_folder.reference() / name
  if not folder.exists():
    pytest.skip(f'needs the configs and weight names of the hub in {folder}')
  listed = json.loads((folder / 'param_names_shapes.json').read_text())
  return models.build(hub_config.read_config(folder)), listed['params']


def _covered(table, leaf):
  """How often each layer of a leaf is some tensor's."""
  return collections.Counter(
    place.layer for place in table.places.values() if place.leaf == leaf
  )


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_tensors_cover_each_parameter_once(name):
  """Abstractly: nothing of the 7B model is allocated."""
  model, listed = _published(name)
  table = weights.table(model)
  assert table.places.keys() == listed.keys()
  for hub, tensor in listed.items():
    assert table.places[hub].shape == tuple(tensor['shape']), hub
  leaves = tree_lib.flatten(model.abstract_params)
  for leaf, array in leaves.items():
    covered = _covered(table, leaf)
    layers = range(array.shape[0]) if None not in covered else [None]
    assert covered == collections.Counter(layers), leaf
    places = [p for p in table.places.values() if p.leaf == leaf]
    assert sum(int(np.prod(p.shape)) for p in places) == array.size
  count = sum(int(np.prod(tensor['shape'])) for tensor in listed.values())
  assert (len(listed), count) == PUBLISHED[name]
  assert tree_lib.count(model.abstract_params) == count


@pytest.mark.parametrize('name', PUBLISHED)
@pytest.mark.parametrize('writer', WRITERS)
def test_every_writers_name_is_one_of_the_hub(name, writer):
  model, listed = _published(name)
  table = weights.table(model)
  named = {hub_folder.renamed(hub, model.family, writer): hub for hub in listed}
  if writer == '5':  # as transformers 5 really writes them
    assert named == {tensor['v5_name']: hub for hub, tensor in listed.items()}
  assert len(named) == len(listed)
  assert all(weights.hub_name(k, model.family) == v for k, v in named.items())
  found = weights.check_tensors(named, model.family, table, 'here')
  assert found == {hub: name for name, hub in named.items()}


def test_the_published_2b_ties_its_embedding_with_or_without_a_copy():
  model, listed = _published('qwen2_vl_2b_derived')
  table = weights.table(model)
  assert 'lm_head' not in model.abstract_params
  assert table.copies.keys() == {'lm_head.weight'}
  copy = table.copies['lm_head.weight']
  assert copy == table.places['model.embed_tokens.weight']
  assert copy.shape == (151936, 1536)
  for names in (listed, [*listed, 'lm_head.weight']):
    found = weights.check_tensors(names, model.family, table, 'here')
    assert len(found) == len(names)


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('writer', WRITERS)
def test_parameters_do_not_depend_on_the_writer(family, writer, tmp_path):
  arrays = hub_folder.tensors(family, 1, 'float16')
  folders = {
    name: hub_folder.write(tmp_path / name, family, arrays, writer=name)
    for name in {'hub', writer}
  }
  loaded = {k: models.load(folder) for k, folder in folders.items()}
  want = tree_lib.flatten(loaded['hub'].params)
  got = tree_lib.flatten(loaded[writer].params)
  assert got.keys() == want.keys()
  for name, x in want.items():
    assert np.array_equal(toy.bits(got[name]), toy.bits(x)), name
  # Saved under the names of the source, whoever made the parameters.
  models.save(
    loaded['hub'],
    loaded['hub'].params,
    tmp_path / 'saved',
    like=folders[writer],
  )
  saved = hub_folder.read(tmp_path / 'saved')
  assert saved.keys() == {
    hub_folder.renamed(name, family, writer) for name in arrays
  }
  assert hub_folder.content(tmp_path / 'saved') == hub_folder.content(
    folders[writer]
  )


@pytest.mark.parametrize('copied', [False, True])
@pytest.mark.parametrize('said', ['in the root', 'in text_config'])
@pytest.mark.parametrize('family', TIED)
def test_a_tied_embedding_is_read_once_and_written_as_it_was(
  family, copied, said, tmp_path
):
  arrays = hub_folder.tensors(family, 2, 'bfloat16', tied=True)
  name = f'{families.CASES[family].decoder}.embed_tokens.weight'
  (head,) = TIED[family]
  if copied:
    arrays[head] = arrays[name]
  tie = {'tie_word_embeddings': True}
  if said == 'in text_config':  # as transformers 4.52 and later do
    raw = hub_folder.config(family)
    text = {'rope_scaling': raw.get('rope_scaling')} | tensors.TEXT
    text = raw.get('text_config', text) | tie
    tie = {'tie_word_embeddings': False, 'text_config': text}
  folder = hub_folder.write(tmp_path / 'hub', family, arrays, **tie)
  model = models.load(folder)
  assert model.config.tie_word_embeddings
  leaf = name.replace('.', '/').replace('weight', 'embedding')
  leaves = tree_lib.flatten(model.params)
  assert not [found for found in leaves if 'lm_head' in found]
  models.save(model, model.params, tmp_path / 'same')
  assert hub_folder.content(tmp_path / 'same') == hub_folder.content(folder)
  params = tree_lib.map_with_name(
    lambda found, x: x.at[7, 3].set(0.375) if found == leaf else x, model.params
  )
  models.save(model, params, tmp_path / 'changed')
  saved = hub_folder.read(tmp_path / 'changed')
  both = {name, *([head] * copied)}
  assert {k for k, x in saved.items() if (x != arrays[k]).any()} == both
  assert {float(saved[tensor][7, 3]) for tensor in both} == {0.375}


def test_ends_of_a_tied_embedding_that_differ_are_an_error(tmp_path):
  """transformers would not tie them: it is another model."""
  arrays = hub_folder.tensors('qwen2_vl', 3, 'float16', tied=True)
  arrays['lm_head.weight'] = arrays['model.embed_tokens.weight'].copy()
  arrays['lm_head.weight'][-1, -1] = 0.5
  folder = hub_folder.write(
    tmp_path / 'hub', 'qwen2_vl', arrays, tie_word_embeddings=True
  )
  message = 'lm_head.weight is a copy of model.embed_tokens.weight; they diff'
  with pytest.raises(ValueError, match=message):
    models.load(folder)


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
@pytest.mark.parametrize('writer', WRITERS)
@pytest.mark.parametrize('config_says', [50, 40])
def test_the_vocabulary_is_that_of_the_weights(
  family, writer, config_says, tmp_path
):
  """Shrunk to the tokenizer (32,064 to 32,002), or padded."""
  arrays = hub_folder.tensors(family, 4, 'float16')
  says = {'vocab_size': config_says}
  says = families.CASES[family].decoder_fields(**says)
  folder = hub_folder.write(
    tmp_path / 'hub', family, arrays, writer=writer, **says
  )
  model = models.load(folder)
  assert model.config.text_config.vocab_size == tensors.VOCAB == 48
  widths = {
    name: x.shape
    for name, x in tree_lib.flatten(model.params).items()
    if 48 in x.shape
  }
  head = any('lm_head' in name for name in arrays)
  assert sorted(widths.values()) == [(16, 48)] * head + [(48, 16)]
  models.save(model, model.params, tmp_path / 'saved')
  assert hub_folder.content(tmp_path / 'saved') == hub_folder.content(folder)


@pytest.mark.parametrize('family', [f for f in families.CASES if f != 'gemma3'])
def test_an_embedding_and_an_output_layer_agree(family, tmp_path):
  arrays = hub_folder.tensors(family, 5)
  name = next(name for name in arrays if 'lm_head' in name)
  arrays[name] = arrays[name][:-1].copy()
  folder = hub_folder.write(tmp_path / 'hub', family, arrays)
  message = (
    f'but for the number of tokens, which embed_tokens has.*: {name} '
    r'in model.safetensors has shape \(47, 16\), not \(48, 16\)'
  )
  with pytest.raises(ValueError, match=message):
    models.load(folder)


def test_missing_and_unexpected_tensors_are_reported_together(tmp_path):
  arrays = hub_folder.tensors('llava', 6)
  lost = [name for name in arrays if '.layers.2.' in name]
  for name in lost:
    del arrays[name]
  more = {
    'language_model.model.layers.3.mlp.up_proj.weight': np.float32([[1.5]]),
    'image_newline': np.float32([2.5]),
  }
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays | more)
  with pytest.raises(ValueError) as raised:
    models.load(folder)
  message = str(raised.value)
  assert (
    f'the tensors in {folder} must be the ones that its config.json' in message
  )
  assert len(lost) == 9 and '9 (language_model.model.layers.2.' in message
  assert ', ...) missing, 2 (' in message
  assert all(name in message for name in more)
  assert 'Is the config made for these weights' in message


def test_wrong_shapes_are_reported_together(tmp_path):
  arrays = hub_folder.tensors('llava', 7)
  turned = 'language_model.model.layers.{}.mlp.up_proj.weight'
  for i in range(tensors.TEXT_LAYERS):
    arrays[turned.format(i)] = arrays[turned.format(i)].T.copy()
  patch = 'vision_tower.vision_model.embeddings.patch_embedding.weight'
  arrays[patch] = arrays[patch].reshape(32, -1)
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  with pytest.raises(ValueError) as raised:
    models.load(folder)
  message = str(raised.value)
  file = 'in model.safetensors has shape'
  for i in range(tensors.TEXT_LAYERS):
    assert f'{turned.format(i)} {file} (16, 24), not (24, 16)' in message
  assert f'{patch} {file} (32, 432), not (32, 3, 12, 12)' in message


def test_more_layers_than_the_config_says_are_unexpected(tmp_path):
  arrays = hub_folder.tensors('llava', 8)
  folder = hub_folder.write(
    tmp_path / 'hub', 'llava', arrays, text_config={'num_hidden_layers': 2}
  )
  with pytest.raises(ValueError, match='0 missing, 9 '):
    models.load(folder)


def test_one_parameter_under_two_names_is_an_error(tmp_path):
  arrays = hub_folder.tensors('llava', 9)
  folder = hub_folder.write(tmp_path / 'hub', 'llava', arrays)
  head = arrays['language_model.lm_head.weight']
  file = folder / 'model.safetensors'
  safetensors_numpy.save_file(
    hub_folder.read(folder) | {'lm_head.weight': head}, file
  )
  message = re.escape(f'one tensor; in {folder}, ') + '.*are the same one'
  with pytest.raises(ValueError, match=message):
    models.load(folder)


@pytest.mark.parametrize('family', hub_folder.FAMILIES)
def test_a_tensor_goes_to_its_leaf_and_back(family, tmp_path):
  folder = hub_folder.write(
    tmp_path / 'hub', family, hub_folder.tensors(family, 10)
  )
  model = models.build(hub_config.read_config(folder))
  shutil.rmtree(folder)
  leaves = tree_lib.flatten(model.abstract_params)
  rng = np.random.default_rng(10)
  transposed = 0
  for name, place in weights.table(model).places.items():
    tensor = rng.normal(size=place.shape).astype(np.float32)
    entry = weights.to_leaf(tensor, place)
    whole = leaves[place.leaf].shape
    assert entry.shape == (whole if place.layer is None else whole[1:]), name
    back = hub_folder.to_file(entry, place)
    assert back.flags.c_contiguous and np.array_equal(back, tensor), name
    transposed += place.transposed
  assert transposed == families.CASES[family].transposed


@pytest.mark.parametrize('name', [n for n in PUBLISHED if n.startswith(LISTED)])
def test_the_sizes_that_a_plan_knows_are_the_published_ones(name):
  model, _ = _listed(name)
  known = models.MODELS[model.family].published
  for ours, hubs in (('2_5', '2.5'), ('va_next', 'va_1.6'), ('ma3', 'ma-3')):
    name = name.replace(ours, hubs)
  assert known[name.replace('_', '-')] == model.config
