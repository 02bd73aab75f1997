"""A dataset that was prepared as a TFDS builder, from its folder.

  mmu pipeline --config=tfds --workdir=runs/tfds \
      --config.data.path=tfds/mmu_clear/forget05/2.0.0 \
      --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=tfds:fast --workdir=runs/fast \
      --config.data.path=tfds/mmu_clear/forget05/2.0.0     # 2 minutes

The path is the folder of one version: it has a `dataset_info.json`. Ratio and
text were chosen when it was prepared. Rounds come from the numbers of rows,
one pass over them. CLEAR's own config also teaches the vanilla model the facts
in text. Hours and scores depend on the dataset; `mmu plan` says what a step
computes.
"""

from mmu_jax import recipes


def get_config(variant=''):
  """Returns the config; the variant is full or fast."""
  variant = recipes.variant(variant, ('full', 'fast'))
  data = dict(name='tfds', path='', processor='')
  config = recipes.benchmark(data, questions=16)
  if variant == 'fast':
    recipes.make_fast(config)
  return config
