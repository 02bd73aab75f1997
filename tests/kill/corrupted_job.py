"""A small finished workdir on data of its own, to be damaged in many ways."""

import contextlib
import io
import json
import pathlib
import random
import shutil
from unittest import mock
import warnings

import benchmark_folders
import jax

from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax.distributed import preemption
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import runs
from mmu_jax.stages import training

ATTACKED = 'attacks/noise/ga_diff'
_CITIES = ('Oslo', 'Lima', 'Riga', 'Turin', 'Accra', 'Quito')


def write_data(folder: pathlib.Path, seed: int = 0) -> None:
  """Writes questions about ten people, with a picture of each."""
  folder.mkdir(parents=True)
  rng, lines = random.Random(seed), []
  for i in range(10):
    name, city = benchmark_folders.name(i), rng.choice(_CITIES)
    about = dict(person=name, split='forget' if i < 2 else 'retain')
    if i >= 8:
      about['split'] = 'real'
    picture = benchmark_folders.file(10 * seed + i, 'PNG', 16)
    (folder / f'{i}.png').write_bytes(picture)
    asked = dict(question='Who is this?', answer=name, image=f'{i}.png')
    lines += [asked | about]
    lines += [asked | about | dict(question='Which home?', answer=city)]
    lines += [dict(question=f'Where lives {name}?', answer=city, **about)]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (folder / 'people.jsonl').write_text(text)


def config_of(data: pathlib.Path, seed: int = 0, rate: float = 1e-3):
  """A job of every stage with a plain and two masked runs."""
  config = recipes.load('own:fast')
  config.seed, config.mesh = seed, ''
  config.data.path = str(data / 'people.jsonl')
  width = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1)
  config.model.vision_config.update(width, num_attention_heads=2)
  config.model.text_config.update(
    width, num_attention_heads=2, num_key_value_heads=2
  )
  config.base.update(rounds=20, rate=1e-2)
  config.vanilla.update(rounds=20, rate=1e-2)
  config.saliency.batches = 2
  config.unlearn.update(rounds=4, probe_every=2, probe_rows=4, save_every=2)
  config.evaluation.update(max_new_tokens=3, batch_size=4)
  run = recipes.run
  with config.unlocked():
    config.runs = dict(
      ga_diff=run('ga_diff', rate),
      masked=run('mmunlearner', rate, 'saliency'),
      random=run('mmunlearner', rate, 'random'),
    )
  return config


def finish(config, folder: pathlib.Path) -> None:
  """Makes every part of a workdir, with a model made from another.

  Its questions are asked in a second way, too.
  """
  stages.pipeline(config, folder)
  job = job_lib.open_job(config, folder)
  with jax.set_mesh(job.mesh):
    runs.claim_model(
      job, ATTACKED, made_by='noise', source='ga_diff', settings={'scale': 2}
    )
    params = runs.final_params(job, 'ga_diff')
    params = jax.tree.map(lambda x: 2 * x, params)
    runs.save_model(job, ATTACKED, params, {'rounds': 4})
  shots = config.copy_and_resolve_references()
  shots.evaluation.shots = 1
  stages.evaluate(shots, folder)
  stages.evaluate(config, folder)
  stages.report(config, folder)


def other_settings(config, folder: pathlib.Path, rate: float) -> None:
  """Makes the unlearned models of a finished workdir at another rate."""
  for name in ('unlearned', 'attacks', 'predictions'):
    shutil.rmtree(folder / name)
  config = config.copy_and_resolve_references()
  for run in config.runs.values():
    run.rate = rate
  stages.pipeline(config, folder)


def interrupt(config, folder: pathlib.Path) -> None:
  """Stops a job within a training and within the answers of two models."""
  shutil.rmtree(folder / 'unlearned' / 'masked')
  shutil.rmtree(folder / 'predictions' / 'masked')
  with mock.patch.object(preemption, 'requested', lambda n: n == 2):
    with contextlib.suppress(preemption.Preempted):
      training.make_model(config, folder, 'masked')
  for run in ('vanilla', 'ga_diff'):
    shutil.rmtree(folder / 'predictions' / run)
    with mock.patch.object(preemption, 'requested', lambda n: n == 1):
      with contextlib.suppress(preemption.Preempted):
        stages.evaluate(config, folder, [run])


def forget_data() -> None:
  """Lets the next stage read its data anew."""
  job_lib._load.cache_clear()
  job_lib._content.cache_clear()


def quietly(function, *args):
  """Calls a function without its output; returns its warnings as text."""
  with (
    warnings.catch_warnings(record=True) as caught,
    contextlib.redirect_stdout(io.StringIO()),
    contextlib.redirect_stderr(io.StringIO()),
  ):
    warnings.simplefilter('always')
    function(*args)
  return [str(w.message) for w in caught]
