"""Checkpoint folders in the Hugging Face format, tiny and random."""

import json

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from mmu_jax import models
from mmu_jax.models import weights

CONFIGS = {
    'llava': {
        'model_type': 'llava',
        'image_token_index': 40,
        'vision_feature_layer': -2,
        'text_config': {
            'model_type': 'llama', 'vocab_size': 50, 'hidden_size': 16,
            'intermediate_size': 24, 'num_hidden_layers': 2,
            'num_attention_heads': 2, 'num_key_value_heads': 1,
        },
        'vision_config': {
            'model_type': 'clip_vision_model', 'hidden_size': 16,
            'intermediate_size': 24, 'num_hidden_layers': 2,
            'num_attention_heads': 2, 'image_size': 24, 'patch_size': 12,
        },
    },
    'qwen2_vl': {
        'model_type': 'qwen2_vl',
        'image_token_id': 41,
        'vocab_size': 50, 'hidden_size': 24, 'intermediate_size': 32,
        'num_hidden_layers': 2, 'num_attention_heads': 2,
        'num_key_value_heads': 1, 'rms_norm_eps': 1e-6,
        'tie_word_embeddings': False,
        'rope_scaling': {'type': 'mrope', 'mrope_section': [2, 2, 2]},
        'vision_config': {
            'depth': 2, 'embed_dim': 16, 'hidden_size': 24, 'num_heads': 2,
            'mlp_ratio': 2, 'patch_size': 4,
        },
    },
}  # fmt: skip
DTYPES = {
    'float32': np.float32,
    'float16': np.float16,
    'bfloat16': ml_dtypes.bfloat16,
}


def write(path, family: str, *, seed: int, dtype: str = 'float32'):
  """Writes a folder with random tensors under the names of the hub."""
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps(CONFIGS[family]))
  (path / 'generation_config.json').write_text('{"eos_token_id": 2}')
  rng = np.random.default_rng(seed)
  model = models.build(models.hub_config.read(path))
  save_file(
      {
          name: rng.normal(size=place.shape).astype(DTYPES[dtype])
          for name, place in weights.table(model).places.items()
      },
      path / 'model.safetensors',
      metadata={'format': 'pt'},
  )
