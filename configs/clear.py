"""CLEAR: 1, 5 or 10 % of 200 authors are to be forgotten.

  mmu data check CLEAR
  mmu pipeline --config=clear --workdir=runs/clear \
      --config.data.path=CLEAR --config.model.path=qwen2-vl-7b
  mmu pipeline --config=clear:ratio=10 ...
  mmu pipeline --config=clear:paper_exact ...
  mmu pipeline --config=clear:fast --workdir=runs/fast \
      --config.data.path=CLEAR                             # 2 minutes

CLEAR is the folder of therem/CLEAR of the hub. Sizes and rates are the
published ones (learning rate 1e-5, batches of 4 pictures, one epoch); the
vanilla model also learns the questions of TOFU in text, as many a batch as
captions. Hours and scores of 7 B models are not measured yet; `mmu plan` says
what a step computes. `:fast` trains a model of 1.3 M parameters, which learns
nothing in that time.
"""

from mmu_jax import recipes

CAPTIONS = 3768
FORGET = {1: 35, 5: 188, 10: 379}  # captions of the forget set
TEXTS = 4000  # questions of TOFU


def get_config(variant=''):
  """Returns the config; the variant is as 'paper_exact,ratio=10'."""
  name, ratio = recipes.variant_and_ratio(variant, FORGET)
  exact = name == 'paper_exact'
  data = dict(
    name='clear',
    path='',
    ratio=ratio,
    published=exact,
    retain_rows=0 if exact else 400,
    processor='',
  )
  forget, retain = FORGET[ratio], CAPTIONS - FORGET[ratio]
  config = recipes.benchmark(data, forget=forget, retain=retain, questions=1)
  config.vanilla.stream = (
    recipes.part('vqa:everybody', size=4),
    # In the published recipe, every question in text is there twice.
    recipes.part('qa:everybody', size=8 if exact else 4),
  )
  if name == 'fast':
    recipes.make_fast(config)
  if exact:
    recipes.make_published(
      config, 'clear', forget=forget, retain=retain, text=TEXTS / retain
    )
  return config
