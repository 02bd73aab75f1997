"""More methods, budgets and masks beside those of `people`, in its workdir.

  mmu pipeline --config=people --workdir=runs/people
  mmu pipeline --config=frontier:methods --workdir=runs/people    # 15 minutes
  mmu pipeline --config=frontier:budget --workdir=runs/people     # 12 minutes
  mmu pipeline --config=frontier:masks --workdir=runs/people      # 20 minutes
  mmu pipeline --config=frontier:ablations --workdir=runs/people  # 12 minutes
  mmu pipeline --config=frontier:lora --workdir=runs/people       # 5 minutes
  mmu pipeline --config=frontier:reported --workdir=runs/seed0    # 30 minutes

`methods`: the methods of other papers, at 60 rounds. `budget`: the methods of
`people` on as many rows, rounds and the schedule of `counterfactual`. `masks`:
densities of its mask, each with its controls. `ablations`: `counterfactual_60`
without one of its parts. `lora`: adapters in the place of whole weights, see
docs/lora.md. `reported`: the runs of `people` and of `budget`, and relearning,
as in docs/results.md. The models that all of them start from are found, and
the table shows every finished model. `:all` is all but `reported`, and `:fast`
these on a model that is too small to learn anything.
"""

from mmu_jax import recipes
from mmu_jax.recipes import frontier


def get_config(variant=''):
  """Returns the config; its variants, all or fast."""
  names = (*frontier.VARIANTS, 'all', 'fast')
  variant = recipes.variant(variant, names)
  config = recipes.load('people:fast' if variant == 'fast' else 'people')
  chosen = [name for name in frontier.VARIANTS if name != 'reported']
  if variant in frontier.VARIANTS:
    chosen = [variant]
  with config.unlocked():
    made = [frontier.VARIANTS[name](config) for name in chosen]
    config.runs = {k: run for runs in made for k, run in runs.items()}
    for run in config.runs.values() if variant == 'fast' else ():
      run.update(rounds=4, warmup=min(run.get('warmup', 0), 2))
  return config
