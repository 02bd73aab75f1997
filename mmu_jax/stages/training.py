"""The stage that trains: base, vanilla, retrained, and unlearned models."""

from collections.abc import Callable, Mapping
import shutil
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import masks as masks_lib
from mmu_jax import methods
from mmu_jax import workdir as workdir_lib
from mmu_jax.data import batching
from mmu_jax.data import prefetch
from mmu_jax.data.row import GENERATION
from mmu_jax.evaluation import decoding
from mmu_jax.stages import masking
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import final_params
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import make_stream
from mmu_jax.stages.job import MODELS
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import run_folder
from mmu_jax.stages.job import run_settings
from mmu_jax.training import loop
from mmu_jax.training import optimizer
from mmu_jax.typing import Batch, Forward, Mask, Params

# What the probe during unlearning looks at, without the job's prefix.
PROBED = (
    'forget_vqa_holdout', 'forget_qa', 'retain_vqa', 'retain_qa', 'real_vqa',
)  # fmt: skip


def train(config: Config, workdir: Folder, run: str = 'vanilla') -> Params:
  """Trains one model, goes on where it was stopped, or finds it finished.

  Args:
    config: the whole config.
    workdir: of the job; must hold the model that the run starts from.
    run: 'base', 'vanilla', 'retrained', or a key of ``config.runs``.

  Returns:
    The final parameters.

  Raises:
    ValueError: if the run is unknown, or was made with other settings.
    FileNotFoundError: if the model that it starts from is missing.
  """
  if run in MODELS:
    return _train_model(open_job(config, workdir), run)
  settings = run_settings(config, run)
  return unlearn(open_job(config, workdir), run, settings)


def unlearn(job: Job, name: str, run: Config, *, probe: bool = True) -> Params:
  """Runs a method from vanilla, with the settings of a run.

  Args:
    job: the job.
    name: of its folder.
    run: method, mask, rate and retain stream.
    probe: whether to look at the model on the way, for the plots.
  """
  config = job.config.unlearn
  settings = {
      'run': run.to_dict(),
      'unlearn': config.to_dict(),
      'vanilla': job.config.vanilla.to_dict(),
      'base': job.config.base.to_dict(),
      'groups': job.groups.to_dict(),
      'saliency': job.config.saliency.to_dict() if run.mask else None,
      'retrained': (
          job.config.retrained.to_dict()
          if run.reference == 'retrained'
          else None
      ),
  }
  found = _find(job, name, settings)
  if found is not None:
    return found
  vanilla = final_params(job, 'vanilla')
  plan = unlearning_plan(
      config,
      run,
      forward=job.model.forward,
      streams={
          'forget': make_stream(job, config.streams.forget, 'forget'),
          'retain': make_stream(job, config.streams[run.retain], 'retain'),
      },
      mask=masking.mask(job, run.mask) if run.mask else None,
      ref_params=(
          vanilla
          if run.reference == 'vanilla'
          else final_params(job, run.reference)
      ),
  )
  with prefetch.prefetched(plan.streams) as streams:
    return loop.fit(
        plan._replace(streams=streams),
        vanilla,
        run_folder(job, name),
        title=name,
        probe=make_probe(job, config.probe_rows) if probe else None,
        probe_every=config.probe_every,
        save_every=config.save_every,
    )


def unlearning_plan(
    config: Config,
    run: Config,
    *,
    forward: Forward,
    streams: Mapping[str, Callable[[int], Batch]],
    mask: Mask = None,
    ref_params: Params = None,
) -> loop.Plan:
  """Returns what a run of a method does, whatever its data and model.

  Args:
    config: ``config.unlearn``.
    run: an entry of ``config.runs``.
    forward: the model.
    streams: of the splits 'forget' and 'retain'.
    mask: bool or packed, for a method with masked turns; the leaves that
      ``config.exempt`` matches change freely.
    ref_params: for a method that needs a reference.
  """
  rounds = run.rounds or config.rounds
  rate = lambda peak: optimizer.schedule(run.schedule, peak, steps=rounds)
  one_clip = dict.fromkeys(streams, config.clip_norm)
  return loop.Plan(
      turns=methods.make(run.method, **run.options),
      streams=streams,
      rates={'forget': rate(run.rate), 'retain': rate(config.retain_rate)},
      rounds=rounds,
      forward=forward,
      tx=optimizer.build(**config.optimizer.to_dict()),
      mask=None if mask is None else masks_lib.exempt(mask, config.exempt),
      ref_params=ref_params,
      clip_norms=run.clip_norms.to_dict() or one_clip,
      limits=config.limits.to_dict(),
  )


def training_plan(
    spec: Config, *, forward: Forward, stream: Callable[[int], Batch]
) -> loop.Plan:
  """Returns how ``config.base`` or ``config.vanilla`` trains on a stream."""
  return loop.Plan(
      turns=methods.finetune(),
      streams={'train': stream},
      rates={
          'train': optimizer.schedule(
              spec.schedule, spec.rate, steps=spec.rounds, warmup=spec.warmup
          )
      },
      rounds=spec.rounds,
      forward=forward,
      tx=optimizer.build(**spec.optimizer.to_dict()),
      clip_norms={'train': spec.clip_norm},
  )


def make_probe(job: Job, num_rows: int) -> Callable[[Params], dict[str, float]]:
  """Makes a quick look at a model: exact match without decoding.

  Greedy decoding gives an answer exactly where each of its tokens is the
  likeliest, so one forward pass per batch is enough.

  Args:
    job: the job; its prefix chooses reported or validation tasks.
    num_rows: at most so many questions a task, spread evenly.
  """
  batches = {}
  probed = PROBED
  if job.prefix + 'forget_vqa_holdout' not in job.data.tasks:
    probed = ('forget_vqa', *probed[1:])
  for task in probed:
    rows = [
        row
        for row in job.data.tasks.get(job.prefix + task, ())
        if row.task == GENERATION
    ]
    if not rows:  # not every dataset has every task
      continue
    spread = rows[:: -(-len(rows) // num_rows)]
    batches[task] = batching.row_batches(
        spread, job.scorer, size=job.config.evaluation.batch_size
    )

  def probe(params):
    return {
        task: round(
            decoding.exact_share(params, b, forward=job.model.forward), 4
        )
        for task, b in batches.items()
    }

  return probe


def _train_model(job: Job, name: str) -> Params:
  """Trains base, vanilla, or vanilla's recipe without the forget images."""
  config = job.config
  if name == 'base' and job.model.source is not None:
    print(f'base: the checkpoint {job.model.source}', flush=True)
    return final_params(job, 'base')
  spec = config.base if name == 'base' else config.vanilla
  without = tuple(config.retrained.without) if name == 'retrained' else ()
  parts = spec.stream
  settings = {'stage': spec.to_dict(), 'without': without}
  if name != 'base':
    settings['base'] = config.base.to_dict()
  found = _find(job, name, settings)
  if found is not None:
    return found
  plan = training_plan(
      spec,
      forward=job.model.forward,
      stream=make_stream(job, parts, 'train', without),
  )
  if name == 'base':
    start = job.model.init(jax.random.key(config.seed))
  else:
    start = final_params(job, 'base')
  with prefetch.prefetched(plan.streams) as streams:
    return loop.fit(
        plan._replace(streams=streams),
        start,
        run_folder(job, name),
        title=name,
        save_every=spec.save_every,
    )


def _find(job: Job, name: str, settings: dict[str, Any]) -> Params | None:
  """Claims the folder of a run; returns its parameters if it is finished."""
  folder = run_folder(job, name)
  workdir_lib.claim(folder, settings)
  if checkpoint.latest_step(folder / loop.FINAL) is None:
    return None
  print(f'{name}: found in {folder}', flush=True)
  # A run that was killed at its very end may have left its train states.
  shutil.rmtree(folder / loop.RUNNING, ignore_errors=True)
  return final_params(job, name)
