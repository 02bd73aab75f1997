"""Adapters against torch: logits, gradients of A and B, and files of PEFT."""

import jax
import numpy as np
import parity_compare as compare
import parity_reference as reference  # skips where torch is not installed
import parity_rows as rows
import pytest
import toy

from mmu_jax import lora as lora_lib
from mmu_jax import losses
from mmu_jax import models
from mmu_jax import tree as tree_lib
from mmu_jax.models.hub import peft_files
from mmu_jax.models.hub import weights

pytestmark = pytest.mark.usefixtures('quick_compile')
torch = reference.torch
RANK, ALPHA, SEED = 3, 5.0, 1
KINDS = ('masked', 'free')


class _Changed(torch.nn.Module):
  """A weight [out, in] and its changes, where a mask is True."""

  def __init__(self, factors, masks):
    super().__init__()
    make = lambda x: torch.nn.Parameter(torch.tensor(np.array(x)))
    self.factors = torch.nn.ParameterList(make(x) for x in factors)
    self.masks = masks

  def forward(self, w):
    for i, mask in enumerate(self.masks):
      a, b = self.factors[2 * i : 2 * i + 2]
      change = ALPHA / RANK * (b @ a)
      w = w + (change if mask is None else torch.where(mask, change, 0.0))
    return w


def _adapters(model, kinds):
  """Random adapters of all linear layers, and a random mask."""
  ends = models.MODELS[model.family].convolutions(model.config)
  shapes = model.abstract_params
  names = lora_lib.choose_targets(
    ['all-linear'], shapes, model.components, ends
  )
  lora = lora_lib.Lora(names, RANK, ALPHA)
  new = lora_lib.new_adapters(jax.random.key(0), shapes, lora, kinds)
  new = jax.tree.map(lambda x: 0.2 * x, toy.tree_like(new, 2))
  return lora, new, toy.random_mask(shapes, 3)


def _by_module(model, lora, tree, kind):
  """Module in torch -> A ``[r, in]`` and B ``[out, r]``, and its hub name."""
  parts, places = tree_lib.flatten(tree), weights.table(model).places
  found = {}
  for leaf in lora.targets:
    for hub in weights.by_leaf(places)[leaf]:
      at = ... if places[hub].layer is None else places[hub].layer
      a, b = (np.asarray(parts[f'{kind}/{leaf}/{x}'])[at].T for x in 'AB')
      name = hub.removesuffix('.weight')
      found[peft_files.module_name(name, model.family)] = hub, a, b
  return found


def _linear(model):
  """Names of the linear layers of torch but the output layer."""
  return {
    name
    for name, module in model.named_modules()
    if isinstance(module, torch.nn.Linear) and 'lm_head' not in name
  }


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_logits_and_gradients_of_factors_are_those_of_torch(family):
  """A masked change and a free one at a time."""
  kinds = KINDS
  config = reference.config_of(family, SEED)
  source, ours = reference.load(reference.build(config, SEED))
  lora, new, mask = _adapters(ours, kinds)
  flags = compare.by_tensor(ours, mask)
  by_kind = {kind: _by_module(ours, lora, new, kind) for kind in kinds}
  assert set(by_kind[kinds[0]]) == _linear(source)
  for name, (hub, *_) in by_kind[kinds[0]].items():
    on = torch.tensor(np.array(flags[hub]))
    masks = [on if kind == 'masked' else None for kind in kinds]
    factors = [x for kind in kinds for x in by_kind[kind][name][1:]]
    torch.nn.utils.parametrize.register_parametrization(
      source.get_submodule(name), 'weight', _Changed(factors, masks)
    )
  made = rows.draw(config, 50)
  batch = rows.batch(source, made)

  def loss(adapters):
    whole = lora_lib.merge(ours.params, adapters, mask, scale=lora.scale)
    logits = ours.forward(whole, batch)
    return losses.nll(logits, batch['targets'], batch['weights']), logits

  grads, logits = jax.jit(jax.grad(loss, has_aux=True))(new)
  found = reference.forward(source, rows.inputs(config, made))
  found.loss.backward()
  real = batch['documents'] > 0
  error = np.asarray(logits)[real] - found.logits.detach().numpy()[real]
  assert np.abs(error).max() <= compare.LOGITS
  compared = 0
  for i, kind in enumerate(kinds):
    for name, (_, *got) in _by_module(ours, lora, grads, kind).items():
      made = source.get_submodule(name).parametrizations.weight[0].factors
      for x, want in zip(got, made[2 * i : 2 * i + 2]):
        if want.grad is None:  # torch did not run this layer
          np.testing.assert_array_equal(x, 0)
          continue
        want = want.grad.numpy()
        error = np.linalg.norm(x - want) / np.linalg.norm(want)
        assert error <= compare.GRADIENTS, (name, error)
        compared += 1
  assert compared > 20


def _logits(model, made):
  found = model(**rows.inputs(model.config, made))
  return found.logits.detach().numpy()


@pytest.mark.parametrize('family', reference.FAMILIES)
def test_peft_and_we_read_each_others_adapters(family, tmp_path):
  peft = pytest.importorskip('peft', reason='peft is not installed')
  config = reference.config_of(family, SEED)
  source = reference.build(config, SEED)
  source.save_pretrained(tmp_path / 'base')
  made = rows.draw(config, 60)
  options = dict(r=RANK, lora_alpha=ALPHA, init_lora_weights='gaussian')
  wrapped = peft.get_peft_model(
    reference.build(config, SEED),
    peft.LoraConfig(target_modules='all-linear', use_rslora=True, **options),
  )
  with torch.no_grad():
    for name, x in wrapped.named_parameters():
      if 'lora_' in name:
        x.copy_(
          0.2 * torch.randn(x.shape, generator=torch.manual_seed(len(name)))
        )
  wrapped.save_pretrained(tmp_path / 'theirs')
  ours = models.load(tmp_path / 'base', adapter=tmp_path / 'theirs')
  batch = rows.batch(source, made)
  real = batch['documents'] > 0
  got = np.asarray(compare.forward(ours)(ours.params, batch))[real]
  want = _logits(wrapped.eval(), made)[real]
  assert np.abs(want - _logits(source, made)[real]).max() > 0.1
  assert np.abs(got - want).max() <= compare.LOGITS

  plain = models.load(tmp_path / 'base')
  lora, new, _ = _adapters(plain, ('free',))
  folder = tmp_path / 'ours'
  count = peft_files.save_adapter(
    plain, new, lora, folder, base=tmp_path / 'base'
  )
  assert count == len(_linear(source))
  loaded = peft.PeftModel.from_pretrained(reference.build(config, SEED), folder)
  assert sum('lora_A' in name for name, _ in loaded.named_parameters()) == count
  whole = lora_lib.merge(plain.params, new, scale=lora.scale)
  got = np.asarray(compare.forward(plain)(whole, batch))[real]
  want = _logits(loaded.eval(), made)[real]
  assert np.abs(got - want).max() <= compare.LOGITS
