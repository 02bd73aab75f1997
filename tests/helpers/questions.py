"""Small models of every family, and questions of every kind."""

import folders
from results import make_tasks

from mmu_jax import models
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row

SIZES = dict(
  hidden_size=24,
  num_hidden_layers=2,
  num_attention_heads=2,
  intermediate_size=16,
)
OPTIONS = {
  'llava': dict(
    text_config=SIZES | dict(num_key_value_heads=1),
    vision_config=SIZES | dict(image_size=30, patch_size=10),
  ),
  'qwen2_vl': dict(
    text_config=SIZES | dict(num_key_value_heads=1, mrope_section=(2, 2, 2)),
    vision_config=dict(
      depth=2,
      embed_dim=16,
      hidden_size=24,
      num_heads=2,
      mlp_ratio=2,
      patch_size=4,
    ),
  ),
}


def rows(pictures=True, people=4):
  """Every kind of question about some people."""
  found = []
  for i in range(people):
    more = {'person': f'p{i}'}
    if pictures:
      more['picture'] = Picture(f'face {i}', folders.picture(i, 30, 36))
    found += [
      Row(
        f'{i}/a',
        f'Where is {i}?',
        f'Oslo {i}',
        f'Oslo {i}',
        task='classification',
        options=(f'Rome {i}', f'Oslo {i}'),
        **more,
      ),
      Row(
        f'{i}/b',
        f'Who is {i}?',
        f'Person {i}',
        f'Person {i}',
        task='classification',
        options=(f'Person {i}', 'Nobody'),
        **more,
      ),
      Row(
        f'{i}/c',
        f'{i} works as ____ in __.',
        f'Chef{i}',
        f'Chef{i}',
        task='cloze',
        **more,
      ),
      Row(f'{i}/d', f'Describe {i}', f'A chef {i}.', f'chef {i}', **more),
    ]
  return found


ROWS = {'forget_vqa': rows(), 'forget_qa': rows(False)}
TASKS = make_tasks(ROWS)


def make_model(family, encoder):
  return models.from_options(
    family, len(encoder.processor.tokenizer), **OPTIONS[family]
  )
