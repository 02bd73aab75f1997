"""LoRA adapters in the files of PEFT: merged on load, and written.

PEFT keeps ``adapter_config.json`` beside ``adapter_model.safetensors``, with
``base_model.model.<module>.lora_A.weight`` ``[r, in]`` and ``lora_B.weight``
``[out, r]``. Ours are transposed, and layers are stacked.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from mmu_jax import lora as lora_lib
from mmu_jax import tree as tree_lib
from mmu_jax import workdir as workdir_lib
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models.hub import safetensors_files as files_lib
from mmu_jax.models.hub import weights
from mmu_jax.models.model import Model
from mmu_jax.typing import Params

# Reads a part of a tensor of a checkpoint: (hub name, slices) -> array.
Read = Callable[[str, tuple[slice, ...]], np.ndarray]
CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'
_PREFIX = 'base_model.model.'
_TENSOR = re.compile(
  rf'{re.escape(_PREFIX)}(.+)\.lora_(A|B)\.(?:default\.)?weight'
)
# Fields that ask for a computation that is not s B A beside a linear layer.
_REFUSED = {
  'use_dora': 'DoRA',
  'trainable_token_indices': 'trainable token indices',
  'modules_to_save': 'modules_to_save (layers that are trained whole)',
  'alpha_pattern': 'alpha_pattern (an alpha for each layer)',
  'lora_bias': 'lora_bias',
  'layer_replication': 'layer_replication',
  'target_parameters': 'target_parameters',
  'alora_invocation_tokens': 'activated LoRA',
  'use_qalora': 'QALoRA',
  'use_bdlora': 'BD-LoRA',
  'arrow_config': 'Arrow',
  'kasa_config': 'KaSA',
  'velora_config': 'VeLoRA',
  'monteclora_config': 'MonteCLoRA',
  'megatron_config': 'Megatron layers',
  'fan_in_fan_out': 'fan_in_fan_out',
}
# Ways to begin that change the base too, whose files are not changed.
_OTHER_BASE = ('pissa', 'olora', 'corda', 'loftq', 'lora_ga')


class Factors(NamedTuple):
  """Both factors of a layer, as files state them, and their scale."""

  a: files_lib.Tensor
  b: files_lib.Tensor
  scale: float


def read_adapter(
  folder: str | pathlib.Path, model: Model
) -> dict[str, Factors]:
  """Returns hub name -> factors of a folder of PEFT, from its headers.

  Args:
    folder: folder of the adapter.
    model: model that it belongs to.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if it is of another kind than LoRA, asks for a computation that
      is not supported, or fits another model; names folder and reason.
  """
  folder = pathlib.Path(folder).expanduser()
  for name in (CONFIG, WEIGHTS):
    if not (folder / name).exists():
      raise MissingError(
        f'a PEFT adapter has {CONFIG} and {WEIGHTS}; {folder} has no {name}. '
        'An adapter_model.bin must be saved as safetensors first.'
      )
  settings = workdir_lib.read_object(folder / CONFIG)
  _check_settings(settings, folder)
  places = weights.table(model).places
  found: dict[str, dict[str, files_lib.Tensor]] = {}
  wrong = []
  with files_lib.opened(folder / WEIGHTS) as handle:
    for name in handle.keys():
      piece = handle.get_slice(name)
      made = (piece.get_dtype(), tuple(piece.get_shape()))
      tensor = files_lib.Tensor(name, folder / WEIGHTS, *made)
      match = _TENSOR.fullmatch(name)
      hub = match and weights.hub_name(f'{match[1]}.weight', model.family)
      if not hub or not _fits(tensor, places.get(hub), match[2]):
        wrong.append(f'{name} {made[1]}')
      else:
        found.setdefault(hub, {})[match[2]] = tensor
  for hub, pair in found.items():
    if len(pair) < 2 or pair['A'].shape[0] != pair['B'].shape[1]:
      wrong.append(f'{hub}: one factor, or two ranks')
  if wrong or not found:
    raise UserError(
      f'{folder / WEIGHTS} must hold the factors A and B of linear layers of '
      f'a {model.family} of these sizes (no embedding, no tied output); '
      f'{len(wrong)} tensors are not: {"; ".join(wrong[:3]) or "it is empty"}. '
      'Is it the adapter of this model?'
    )
  alpha, root = settings['lora_alpha'], settings.get('use_rslora')
  scale = lambda rank: alpha / (math.sqrt(rank) if root else rank)
  return {
    hub: Factors(pair['A'], pair['B'], scale(pair['A'].shape[0]))
    for hub, pair in found.items()
  }


@contextlib.contextmanager
def merging(read: Read, factors: Mapping[str, Factors]) -> Iterator[Read]:
  """Yields a reader of tensors with an adapter merged, in float32.

  Args:
    read: reader of the tensors of the base.
    factors: adapter, from ``read_adapter``.
  """
  if not factors:
    yield read
    return
  with files_lib.opened(next(iter(factors.values())).a.file) as handle:

    def part(tensor, *index):
      found = handle.get_slice(tensor.name)[index]
      return found.astype(np.float32)

    def read_merged(hub, index):
      tensor = read(hub, index)
      if hub not in factors:
        return tensor
      a, b, scale = factors[hub]
      rows, columns = (*index, slice(None))[:2]
      change = part(b, rows, slice(None)) @ part(a, slice(None), columns)
      return tensor.astype(np.float32) + np.float32(scale) * change

    yield read_merged


def save_adapter(
  model: Model,
  adapters: Params,
  lora: lora_lib.Lora,
  path: str | pathlib.Path,
  *,
  base: str | pathlib.Path,
) -> int:
  """Writes adapters of a run as PEFT loads them; returns how many layers.

  Modules are named as in transformers since 5.23.

  Args:
    model: model that they belong to.
    adapters: tree of ``lora.new_adapters`` with a free change alone.
    lora: their settings.
    path: new folder.
    base: Hugging Face folder of the model that they change.

  Raises:
    ValueError: if they have a masked change, or leaves that are trained whole.
  """
  if lora_lib.MASKED in adapters:
    raise UserError(
      'a masked change is M * (s A B), which is not of low rank: no PEFT '
      'adapter can hold it. Convert the merged parameters of the run instead: '
      'mmu convert --from=RUN/params.'
    )
  if lora.whole:
    raise UserError(
      f'{len(lora.whole)} leaves were trained whole, such as '
      f'{lora.whole[0]!r}, and an adapter holds factors alone. Convert the '
      'merged parameters instead: mmu convert --from=RUN/params.'
    )
  parts, tensors = tree_lib.flatten(adapters), {}
  places = weights.table(model).places
  modules = []
  for leaf in lora.targets:
    a, b = (
      np.asarray(parts[f'{lora_lib.FREE}/{leaf}/{x}'], np.float32) for x in 'AB'
    )
    for hub in weights.by_leaf(places)[leaf]:
      at = ... if places[hub].layer is None else places[hub].layer
      modules.append(module_name(hub.removesuffix('.weight'), model.family))
      for word, factor in (('A', a[at]), ('B', b[at])):
        name = f'{_PREFIX}{modules[-1]}.lora_{word}.weight'
        tensors[name] = np.ascontiguousarray(factor.T)
  config = dict(
    peft_type='LORA',
    task_type=None,
    base_model_name_or_path=str(base),
    inference_mode=True,
    r=lora.rank,
    lora_alpha=lora.alpha,
    use_rslora=lora.rslora,
    target_modules=modules,
    lora_dropout=0.0,
    bias='none',
    init_lora_weights=True,
  )
  path = pathlib.Path(path)
  workdir_lib.make_folder(path)
  file = path / WEIGHTS
  safetensors.numpy.save_file(tensors, file, metadata={'format': 'pt'})
  workdir_lib.write_json(path / CONFIG, config)
  return len(modules)


def module_name(hub: str, family: str) -> str:
  """Returns the name that a module of the hub has in transformers 5.

  Example:
    >>> module_name('language_model.model.layers.0.mlp.up_proj', 'llava')
    'model.language_model.layers.0.mlp.up_proj'
    >>> module_name('visual.blocks.0.attn.qkv', 'qwen2_vl')
    'model.visual.blocks.0.attn.qkv'
  """
  short = re.sub(r'^language_model\.(?=lm_head)', '', hub)
  short = re.sub(r'^(language_model\.)?model\.', 'model.language_model.', short)
  first = re.sub(r'^vision_tower\.vision_model\.', 'vision_tower.', short)
  tried = (f'model.{first}', first, f'model.{short}', short, hub)
  known = lambda name: weights.hub_name(f'{name}.weight', family)
  return next(name for name in tried if known(name) == f'{hub}.weight')


def _check_settings(settings: Mapping[str, Any], folder: pathlib.Path) -> None:
  """Raises unless an adapter is plain LoRA."""
  kind = settings.get('peft_type')
  asked = [said for field, said in _REFUSED.items() if settings.get(field)]
  if str(kind).upper() != 'LORA':
    asked = [f'peft_type {kind!r}']
  if settings.get('bias', 'none') != 'none':
    asked.append(f'bias {settings["bias"]!r}')
  begun = settings.get('init_lora_weights')
  if isinstance(begun, str) and begun.lower().startswith(_OTHER_BASE):
    asked.append(f'init_lora_weights {begun!r}, which changed the base too')
  if asked:
    raise UserError(
      f'{folder / CONFIG} asks for {", ".join(asked)}: plain LoRA alone is '
      'supported. Merge it with peft (merge_and_unload, save_pretrained) and '
      'give that folder.'
    )
  alpha = settings.get('lora_alpha')
  if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
    raise UserError(
      f'{folder / CONFIG}: lora_alpha is a number; got {alpha!r}.'
    )


def _fits(tensor, place, which) -> bool:
  """Whether a factor belongs to a layer: A ``[r, in]``, B ``[out, r]``."""
  if place is None or not place.transposed or len(place.shape) != 2:
    return False
  at = 1 if which == 'A' else 0
  known = tensor.dtype in files_lib.DTYPES and len(tensor.shape) == 2
  return known and tensor.shape[at] == place.shape[at]
