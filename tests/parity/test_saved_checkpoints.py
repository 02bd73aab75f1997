"""transformers loads what we save, under whatever names it was written."""

import json

import families
import jax
import numpy as np
import parity_reference as reference  # skips where torch is not installed
import parity_rows as rows
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file
import toy

from mmu_jax import models

pytestmark = pytest.mark.usefixtures('quick_compile')
CASES = {
  kind: (case.name, seed)
  for case in families.CASES.values()
  for kind, seed in case.torch_seeds.items()
}
FILE = 'model.safetensors'


def _write(model, folder, names):
  """Saves a torch model under the names of some writer."""
  model.save_pretrained(folder)
  state = {k: x.numpy().copy() for k, x in model.state_dict().items()}
  if names == 'torch':  # ties are written twice
    save_file(state, folder / FILE, metadata={'format': 'pt'})
  elif names == 'hub':
    case = families.of(model.config)
    begins = case.torch_names
    if model.config.tie_word_embeddings:
      del state['lm_head.weight']
    found = {}
    for name, x in state.items():
      begin = next(b for b in begins if name.startswith(b))
      found[begins[begin] + name.removeprefix(begin)] = x
    save_file(found, folder / FILE, metadata={'format': 'pt'})
    file = folder / 'config.json'
    file.write_text(
      json.dumps(case.flatten_config(json.loads(file.read_text())))
    )


def _read(family, folder):
  """transformers loads a folder; nothing is missing, nothing left over."""
  model, info = reference.torch_class(family).from_pretrained(
    folder, output_loading_info=True
  )
  for problem in ('missing_keys', 'unexpected_keys', 'mismatched_keys'):
    assert not info[problem], problem
  return model.eval()


def _logits(model, made):
  given = rows.inputs(model.config, made)
  return reference.forward(model, given).logits.detach().numpy()


@pytest.mark.parametrize('names', ['saved', 'hub', 'torch'])
@pytest.mark.parametrize('case', CASES)
def test_transformers_gives_our_logits_with_the_weights_we_save(
  case, names, tmp_path, record_property
):
  family, seed = CASES[case]
  config = reference.config_of(family, seed)
  source = reference.build(config, 20 + seed)
  _write(source, tmp_path / 'source', names)
  model = models.load(tmp_path / 'source')
  changed = toy.perturb(model.params, 3, 0.1)
  models.save(model, changed, tmp_path / 'ours')
  again = _read(family, tmp_path / 'ours')
  made = rows.draw(config, 200)
  batch = rows.batch(again, made)
  real = batch['documents'] > 0
  got = np.asarray(jax.jit(model.forward)(changed, batch))[real]
  want = _logits(again, made)[real]
  record_property('logits', float(np.abs(got - want).max()))
  np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
  assert np.abs(want - _logits(source, made)[real]).max() > 0.1
  tied = again.lm_head.weight is again.model.language_model.embed_tokens.weight
  assert tied == config.tie_word_embeddings


@pytest.mark.parametrize('names', ['saved', 'hub', 'torch'])
@pytest.mark.parametrize('case', CASES)
def test_weights_that_did_not_change_come_back_bit_for_bit(
  case, names, tmp_path
):
  family, seed = CASES[case]
  source = reference.build(reference.config_of(family, seed), 30 + seed)
  _write(source, tmp_path / 'source', names)
  model = models.load(tmp_path / 'source')
  models.save(model, model.params, tmp_path / 'ours')
  before, after = (load_file(tmp_path / d / FILE) for d in ('source', 'ours'))
  assert sorted(before) == sorted(after)
  again = _read(family, tmp_path / 'ours').state_dict()
  for name, want in source.state_dict().items():
    assert reference.torch.equal(again[name], want), name
  for name, want in before.items():
    np.testing.assert_array_equal(after[name], want, name)
