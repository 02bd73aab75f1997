"""The config of a small job on drawn robots that learns and forgets."""

from mmu_jax import recipes


def get_config(variant=''):
  """The fast variant of own data, long enough to know the robots.

  Base is random: vanilla learns pictures and text at once.
  """
  config = recipes.load('own:fast')
  config.seed, config.mesh = 2, ''
  for tower in ('vision_config', 'text_config'):
    config.model[tower].update(hidden_size=64, intermediate_size=128)
  pictured = lambda role: recipes.part(f'vqa:{role}', size=4, questions=3)
  text = recipes.part('qa:everybody', size=2, questions=4)
  config.base.rounds = 0
  config.vanilla.update(rounds=100, stream=(pictured('everybody'), text))
  config.saliency.preserve.text = (text,)
  config.unlearn.update(rounds=12, retain_rate=1e-3, probe_every=12)
  config.unlearn.require_memorised = True
  config.unlearn.streams.retain_and_text = (pictured('retain'), text)
  config.evaluation.update(protocol='plain', max_new_tokens=8, batch_size=32)
  run = recipes.run('mmunlearner', 1e-3, 'saliency', 'retain_and_text')
  with config.unlocked():
    config.runs = dict(mmunlearner=run)
  return config
