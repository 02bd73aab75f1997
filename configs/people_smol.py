"""Fictional people and SmolLM2-135M, a language model that knows the world.

  mmu train --config=people --workdir=runs/people --run=base  # vision tower
  mmu convert --from=SmolLM2-135M-Instruct.Q4_1.gguf --to=smol-llava \
      --tower=runs/people/base/params      # docs/models.md says where it is
  mmu pipeline --config=people_smol --workdir=runs/smol  # half an hour or more

Eight people, two to be forgotten. Adapters of SmolLM2 are trained, and whole
the tower and the new projector. The real-world questions in text, capitals and
opposites, stand in no training row: SmolLM2 knows them before, and should
after. The rounds are what two busy cores bore, too few to learn every fact;
docs/models.md has the scores. More: --config.vanilla.rounds=80.
"""

from mmu_jax import recipes
from mmu_jax.recipes import run


def get_config(variant=''):
  """Returns the config; the variant is full or fast."""
  variant = recipes.variant(variant, ('full', 'fast'))
  data = dict(num_people=8, num_forget=2, train_views=4, holdout_views=2)
  data |= dict(num_validation_forget=1, num_validation_retain=1)
  data |= dict(num_captioned=0, num_faces=100, num_shapes=20, known_facts=True)
  runs = dict(ga_diff=run('ga_diff', 6e-4))  # the first rate that was tried
  runs |= dict(mmunlearner=run('mmunlearner', 6e-4, 'saliency'))
  config = recipes.people(data, runs)
  part, groups = recipes.part, config.groups.everybody
  config.model.path = 'smol-llava'
  inner = r'language_model/.*/(q_proj|v_proj|down_proj)/kernel'
  lora = dict(rank=16, alpha=32.0, targets=(inner,))
  with config.unlocked():
    config.vanilla = dict(
      rounds=44,
      rate=1.5e-3,
      schedule='cosine',
      warmup=6,
      optimizer=dict(name='adamw', weight_decay=0.0, b2=0.98),
      clip_norm=1.0,
      save_every=20,
      lora=dict(lora, whole=('vision', 'projector')),
      stream=(
        part(*(f'vqa/{group}' for group in groups), size=4, questions=4),
        part('general', size=1, questions=4),
        part(*(f'qa/{group}' for group in groups), size=1, questions=4),
      ),
    )
    config.unlearn.lora = lora
    pictured = lambda role: part(f'vqa:{role}', size=2, questions=4)
    text = part('qa:everybody', size=2, questions=4)
    config.unlearn.streams.forget = (pictured('forget'),)
    config.unlearn.streams.retain = (pictured('retain'), text)
  config.unlearn.update(rounds=10, retain_rate=6e-4, probe_every=10)
  config.unlearn.probe_rows, config.evaluation.batch_size = 16, 8
  config.saliency.batches = 8
  config.attacks.relearn.models = ()
  if variant == 'fast':
    config.vanilla.update(rounds=2, warmup=1)
    config.unlearn.rounds = config.saliency.batches = 1
  return config
