"""Programs and settings for tests of plans."""

import dataclasses

from mmu_jax import methods
from mmu_jax import models
from mmu_jax import recipes
from mmu_jax import sharding
from mmu_jax.models import clip_vit
from mmu_jax.models import llama
from mmu_jax.models.families import llava
from mmu_jax.planning import memory
from mmu_jax.training import optimizer

# The model of the config 'people'; its data gives 370 words and 104 tokens.
PEOPLE = llava.LlavaConfig(
  clip_vit.ClipVisionConfig(96, 384, 3, 2, 48, 12),
  llama.LlamaConfig(370, 128, 344, 4, 2, 2),
  vision_feature_layer=-1,
  remat='none',
)
LLAVA_7B = llava.LlavaConfig(dtype='bfloat16', remat='full')
HF_ADAMW = dict(name='hf_adamw')
GIB = 2**30


def model(config=PEOPLE, **ways):
  """A model, computed in some other way."""
  return models.build(dataclasses.replace(config, **ways))


def setting(spec='data=1', micro_batches=1, config=PEOPLE, **how):
  """A model on a mesh."""
  mesh = memory.abstract_mesh(**sharding.axis_sizes(spec))
  return memory.Setting(models.build(config), mesh, micro_batches, **how)


def turn(
  method, index=0, count=8, length=104, room=1, counted=0, options=None, **held
):
  """A turn of a method as a program."""
  rows = memory.Rows(count, length, room, counted)
  made = methods.make(method)[index]
  tx = optimizer.build(**(options or HF_ADAMW))
  return memory.Program(method, made.split, rows, made, tx, **held)


def importance(count=16, length=104, room=1):
  """A batch of an importance as a program."""
  return memory.Program(
    'importance', 'forget', memory.Rows(count, length, room)
  )


def config(path='llava-1.5-7b', mesh='fsdp=8', runs=('kl_min', 'mmunlearner')):
  """The config of a benchmark, for a published model and few runs."""
  made = recipes.load('mllmu_bench')
  made.model.path, made.mesh = path, mesh
  with made.unlocked():
    made.runs = {name: made.runs[name] for name in runs}
  return made
