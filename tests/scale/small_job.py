"""A config of a whole job that takes a minute: every stage, two runs.

Widths are multiples of 8, so that every mesh of eight devices splits them.
"""

from mmu_jax import recipes
from mmu_jax.recipes import run

RUNS = dict(
  npo=run('npo', 1e-4),
  mmunlearner_strict=run('mmunlearner_strict', 1e-4, 'saliency'),
)
LONG_RUNS = dict(
  kl_min=run('kl_min', 1e-4),
  mmunlearner_random=run('mmunlearner_strict', 1e-4, 'random'),
)


def get_config(variant=''):
  """The fast variant, smaller still; 'long' has rounds to be killed in.

  And its saliency is kept as log-ratios, its reference in the host's memory.
  """
  config = recipes.load('people:fast')
  width = dict(
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
  )
  config.model.vision_config.update(width)
  config.model.text_config.update(width, num_key_value_heads=2)
  config.data.update(
    num_people=8,
    num_forget=2,
    num_validation_forget=1,
    num_validation_retain=1,
    train_views=2,
    num_captioned=8,
    num_faces=8,
    num_shapes=8,
  )
  config.base.update(rounds=4, save_every=3)
  config.vanilla.update(rounds=6, save_every=4)
  config.saliency.batches = 3
  config.checkpoints.importance_every = 1
  config.unlearn.update(rounds=3, probe_every=2, probe_rows=4, save_every=2)
  config.evaluation.update(max_new_tokens=4, batch_size=16)
  with config.unlocked():
    config.runs = dict(RUNS)
  if variant == 'long':
    config.base.update(rounds=24, save_every=5)
    config.vanilla.update(rounds=24, save_every=5)
    config.saliency.batches = 24
    config.checkpoints.importance_every = 5
    config.saliency.keep = 'log_ratio'
    config.offload = ('reference',)
    config.unlearn.update(rounds=16, save_every=5)
    with config.unlocked():
      config.runs = dict(LONG_RUNS)
  return config
