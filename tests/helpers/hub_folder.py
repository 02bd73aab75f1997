"""Tiny checkpoints in the Hugging Face format, as their writers make them.

The names and shapes are written out here from the lists on the hub, and not
taken from our tables, which are tested with them. Every size differs from the
others that it could be mistaken for; no tensor holds a zero.
"""

import json
import pathlib

import ml_dtypes
import numpy as np
import paths
from safetensors import numpy as safetensors_numpy

from mmu_jax.models.hub import weights

VOCAB, WIDTH, INNER, KEYS = 48, 16, 24, 8  # of the decoder; one key head
TEXT_LAYERS, VISION_LAYERS = 3, 2
DTYPES = {
  'float32': np.dtype(np.float32),
  'float16': np.dtype(np.float16),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}
TEXT = dict(
  hidden_size=WIDTH,
  intermediate_size=INNER,
  num_hidden_layers=TEXT_LAYERS,
  num_attention_heads=2,
  num_key_value_heads=1,
  vocab_size=VOCAB,
)
MROPE = {'type': 'mrope', 'mrope_section': [1, 1, 2]}
CONFIGS = {
  'llava': dict(
    model_type='llava',
    torch_dtype='float16',
    text_config=dict(TEXT, model_type='llama', torch_dtype='float16'),
    vision_config=dict(
      model_type='clip_vision_model',
      hidden_size=32,
      intermediate_size=40,
      num_hidden_layers=VISION_LAYERS,
      num_attention_heads=2,
      image_size=24,
      patch_size=12,
    ),
  ),
  'qwen2_vl': dict(
    TEXT,
    model_type='qwen2_vl',
    torch_dtype='bfloat16',
    rope_scaling=MROPE,
    vision_config=dict(
      depth=VISION_LAYERS,
      embed_dim=32,
      hidden_size=WIDTH,
      mlp_ratio=2,
      num_heads=2,
      patch_size=4,
    ),
  ),
}
FAMILIES = tuple(CONFIGS)


def config(family: str, **changes) -> dict:
  """A ``config.json``; a change that is a dict changes those fields of it."""
  made = dict(CONFIGS[family])
  for field, value in changes.items():
    inner = isinstance(value, dict) and field in made
    made[field] = dict(made[field], **value) if inner else value
  return made


def shapes(family: str, *, tied: bool = False) -> dict[str, tuple[int, ...]]:
  """Hub name -> shape of every tensor."""
  if family == 'llava':
    return _llava()
  head = {} if tied else {'lm_head.weight': (VOCAB, WIDTH)}
  return {**head, **_decoder('model', bias=True), **_qwen2_vision()}


def renamed(name: str, family: str, writer: str) -> str:
  """The name that a writer has for a tensor: 'hub', '4.52' or '5'."""
  if writer == 'hub':
    return name
  if family == 'qwen2_vl':
    if name.startswith('model.'):
      return 'model.language_model.' + name.removeprefix('model.')
    return name if name.startswith('lm_head') else 'model.' + name
  if name.startswith('language_model.lm_head'):
    return name.removeprefix('language_model.')
  if name.startswith('language_model.model.'):
    return 'model.language_model.' + name.split('.', 2)[2]
  name = 'model.' + name
  return name.replace('.vision_model', '') if writer == '5' else name


def tensors(
  family: str, seed: int, dtype: str = 'float32', *, tied: bool = False
) -> dict[str, np.ndarray]:
  """Random tensors by hub name, with the values that a careless copy loses."""
  rng = np.random.default_rng(seed)
  return {
    name: plant(rng.normal(size=shape), DTYPES[dtype], rng)
    for name, shape in shapes(family, tied=tied).items()
  }


def plant(x, dtype: np.dtype, rng) -> np.ndarray:
  """Casts, and puts -0.0, subnormal and greatest numbers at random places."""
  x, info = x.astype(dtype), ml_dtypes.finfo(dtype)
  tiny, most = float(info.smallest_subnormal), float(info.max)
  fragile = np.array([-0.0, tiny, -3 * tiny, most, -most]).astype(dtype)
  x.flat[rng.choice(x.size, len(fragile), replace=False)] = fragile
  return x


def write(
  folder: pathlib.Path,
  family: str,
  arrays: dict[str, np.ndarray],
  *,
  writer: str = 'hub',
  shards: int = 1,
  **changes,
) -> pathlib.Path:
  """Writes a checkpoint folder; ``changes`` are those of ``config``."""
  folder.mkdir(parents=True)
  said = json.dumps(config(family, **changes), indent=1)
  (folder / 'config.json').write_text(said)
  arrays = {renamed(k, family, writer): v for k, v in arrays.items()}
  weight_map = _write_shards(folder, arrays, shards)
  if shards > 1:
    size = sum(x.nbytes for x in arrays.values())
    index = {'metadata': {'total_size': size}, 'weight_map': weight_map}
    (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  return folder


def read(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a folder, by their names in the files."""
  found = {}
  for file in sorted(folder.glob('*.safetensors')):
    found |= safetensors_numpy.load_file(file)
  return found


def content(folder: pathlib.Path) -> dict[str, bytes]:
  """File name -> bytes."""
  return {file.name: file.read_bytes() for file in folder.iterdir()}


def to_file(entry: np.ndarray, place: weights.Place) -> np.ndarray:
  """From the layout of a parameter to that of the file, contiguous."""
  entry = entry.T if place.transposed else entry
  return np.ascontiguousarray(entry).reshape(place.shape)


def reference() -> pathlib.Path:
  """Configs and weight names of the published models, if they are here."""
  return paths.REFERENCE / 'hub'


def _write_shards(folder, arrays, shards) -> dict[str, str]:
  """Writes the tensors in turn to one file or several; tensor -> file."""
  files = [
    f'model-{i + 1:05}-of-{shards:05}.safetensors' for i in range(shards)
  ]
  if shards == 1:
    files = ['model.safetensors']
  weight_map = {name: files[i % shards] for i, name in enumerate(arrays)}
  for file in files:
    part = {k: v for k, v in arrays.items() if weight_map[k] == file}
    safetensors_numpy.save_file(part, folder / file, {'format': 'pt'})
  return weight_map


def _numbered(prefix, count, shapes) -> dict[str, tuple[int, ...]]:
  """The tensors of a stack of layers."""
  return {
    f'{prefix}.{i}.{name}': shape
    for i in range(count)
    for name, shape in shapes.items()
  }


def _norm(name, width) -> dict[str, tuple[int, ...]]:
  return {f'{name}.weight': (width,), f'{name}.bias': (width,)}


def _linear(name, out, into) -> dict[str, tuple[int, ...]]:
  return {f'{name}.weight': (out, into), f'{name}.bias': (out,)}


def _decoder(prefix, *, bias=False) -> dict[str, tuple[int, ...]]:
  """Llama, or Qwen2 with its biases."""
  layer = {
    'input_layernorm.weight': (WIDTH,),
    'post_attention_layernorm.weight': (WIDTH,),
    'mlp.gate_proj.weight': (INNER, WIDTH),
    'mlp.up_proj.weight': (INNER, WIDTH),
    'mlp.down_proj.weight': (WIDTH, INNER),
    'self_attn.o_proj.weight': (WIDTH, WIDTH),
  }
  for name, out in (('q', WIDTH), ('k', KEYS), ('v', KEYS)):
    made = _linear(f'self_attn.{name}_proj', out, WIDTH)
    layer |= made if bias else dict(list(made.items())[:1])
  return {
    f'{prefix}.embed_tokens.weight': (VOCAB, WIDTH),
    **_numbered(f'{prefix}.layers', TEXT_LAYERS, layer),
    f'{prefix}.norm.weight': (WIDTH,),
  }


def _llava() -> dict[str, tuple[int, ...]]:
  """LLaVA-1.5: five positions (a class token and four patches)."""
  layer = {
    **_norm('layer_norm1', 32),
    **_norm('layer_norm2', 32),
    **_linear('mlp.fc1', 40, 32),
    **_linear('mlp.fc2', 32, 40),
  }
  for name in ('q_proj', 'k_proj', 'v_proj', 'out_proj'):
    layer |= _linear(f'self_attn.{name}', 32, 32)
  tower = 'vision_tower.vision_model'
  return {
    'language_model.lm_head.weight': (VOCAB, WIDTH),
    **_decoder('language_model.model'),
    **_linear('multi_modal_projector.linear_1', WIDTH, 32),
    **_linear('multi_modal_projector.linear_2', WIDTH, WIDTH),
    f'{tower}.embeddings.class_embedding': (32,),
    f'{tower}.embeddings.patch_embedding.weight': (32, 3, 12, 12),
    f'{tower}.embeddings.position_embedding.weight': (5, 32),
    **_numbered(f'{tower}.encoder.layers', VISION_LAYERS, layer),
    **_norm(f'{tower}.post_layernorm', 32),
    **_norm(f'{tower}.pre_layrnorm', 32),
  }


def _qwen2_vision() -> dict[str, tuple[int, ...]]:
  """Qwen2-VL's tower: two frames of 4 x 4 pixels a patch."""
  block = {
    **_norm('norm1', 32),
    **_norm('norm2', 32),
    **_linear('attn.qkv', 96, 32),
    **_linear('attn.proj', 32, 32),
    **_linear('mlp.fc1', 64, 32),
    **_linear('mlp.fc2', 32, 64),
  }
  return {
    'visual.patch_embed.proj.weight': (32, 3, 2, 4, 4),
    **_numbered('visual.blocks', VISION_LAYERS, block),
    **_norm('visual.merger.ln_q', 32),
    **_linear('visual.merger.mlp.0', 128, 128),
    **_linear('visual.merger.mlp.2', WIDTH, 128),
  }
