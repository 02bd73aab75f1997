"""A job of a few people with a model of a few weights, to be attacked."""

import jax
from small_worlds import MODEL
from small_worlds import SMALL

from mmu_jax import recipes
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import runs


def small_job(folder, monkeypatch=None, **changes):
  """A job whose models all have the same random weights.

  Args:
    folder: workdir.
    monkeypatch: fixture of pytest, to give the models; None for a job without.
    **changes: fields of the config, as attacks.
  """
  config = recipes.load('people:fast')
  config.data.update(SMALL)
  with config.unlocked():
    seen = MODEL['vision_config'] | dict(image_size=48, patch_size=12)
    config.model = dict(MODEL, dtype='float32', attention='xla', remat='none')
    config.model.vision_config = seen
    for field, value in changes.items():
      config[field] = value
  job = job_lib.open_job(config, folder)
  if monkeypatch:
    make = jax.jit(job.model.init)
    give = lambda job, name: make(jax.random.key(0))
    monkeypatch.setattr(runs, 'final_params', give)
  return job
