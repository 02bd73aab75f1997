"""The choice of learning rates, on others than those to forget."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mmu_jax import distributed
from mmu_jax.data.dataset import FORGET
from mmu_jax.data.dataset import KEEP
from mmu_jax.data.dataset import RETAIN
from mmu_jax.distributed import progress
from mmu_jax.errors import Collapse
from mmu_jax.errors import UserError
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.training import make_probe
from mmu_jax.stages.training import run_method
from mmu_jax.typing import Params
from mmu_jax.workdir import seals

_LITTLE = 0.1  # of its own questions, that vanilla answers word for word


@alone
def tune(config: Config, workdir: Folder) -> list[dict[str, Any]]:
  """Tries the learning rates of ``config.tune`` for every run.

  The rule is the same for all methods. Others are forgotten instead of the
  forget set, with the budget of ``config.unlearn``, and the forget rate with
  the highest S is best:

      S = ((1 - forgotten) + U) / 2

  where ``forgotten`` is the exact match of the headline tasks to forget and U
  the mean of the headline tasks to keep. Where the config has
  ``validation_groups``, as people has, they are forgotten, and asked about new
  pictures; no reported task has them. Elsewhere a part of the retain set stands
  in, see ``stand_ins.stand_in``: ``forgotten`` is measured on its training
  pictures, and U on rows of the retain set that the report scores, too. A try
  neither trains on the true forget set nor scores it; vanilla knows it.

  A rate at which a run collapses has no S. Models that are finished are found,
  so that a stopped call goes on.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold ``vanilla``; gets ``tuning/``.

  Returns:
    The rows of ``tuning/tuning.jsonl``, one for each run and rate; S and U are
    None and ``failed`` says why where a run collapsed.

  Raises:
    FileNotFoundError: if vanilla is missing.
    ValueError: if the config has no rates to try, or the data too few entities
      to keep.
  """
  if 'tune' not in config:
    raise UserError(
      'tuning tries the rates of `config.tune`, and the config has none. Add '
      'tune=dict(rates=(...), rows=256), as recipes.benchmark does.'
    )
  if 'validation_groups' not in config:
    _check_roles(config)
  job = open_job(config, workdir, validation=True, begin=False)
  with jax.set_mesh(job.mesh):
    rows = _try_all(job)
  path = job.unlearned / 'tuning.jsonl'
  distributed.first(seals.write_rows, path, rows, path.name)
  return rows


def best_rates(
  rows: Sequence[Mapping[str, Any]], rates: Sequence[float]
) -> list[str]:
  """Returns a line on the best rate of every run, with the option to set it.

  Args:
    rows: result of ``tune``.
    rates: rates that were tried.

  Example:
    >>> row = {'run': 'ga', 'rate': 1e-4, 'S': 0.75}
    >>> best_rates([row, row | {'rate': 2e-4, 'S': None}], [5e-5, 1e-4, 2e-4])
    ['best for ga: --config.runs.ga.rate=0.0001 (S 0.750)']
  """
  lines = []
  for run in dict.fromkeys(row['run'] for row in rows):
    held = [r for r in rows if r['run'] == run and r['S'] is not None]
    if not held:
      lines.append(f'best for {run}: none, it collapsed at every rate')
      continue
    best = max(held, key=lambda row: row['S'])
    if len(held) > 1 and len({row['S'] for row in held}) == 1:
      lines.append(f'best for {run}: none, S is {best["S"]:.3f} at every rate')
      continue
    end = {min(rates): 'lowest', max(rates): 'highest'}.get(best['rate'])
    lines.append(
      f'best for {run}: --config.runs.{run}.rate={best["rate"]:g} '
      f'(S {best["S"]:.3f}{f"; the {end} of the rates" if end else ""})'
    )
  return lines


def _try_all(job: Job) -> list[dict[str, Any]]:
  """Runs every method at every rate and scores it."""
  config = job.config
  probe = make_probe(job, config.tune.rows)
  known = _mean(job, probe(final_params(job, 'vanilla')), FORGET)
  if known < _LITTLE:
    progress.say(
      f'tune: vanilla answers {known:.0%} of the questions about those to '
      'forget word for word, so S hardly tells what a run forgets'
    )
  rows = []
  for run, spec in config.runs.items():
    for rate in config.tune.rates:
      row = {'seed': config.seed, 'run': run, 'rate': rate}
      settings = Config({**spec.to_dict(), 'rate': rate})
      rows.append(row | _try(job, f'{run}-{rate:g}', settings, probe))
  return rows


def _try(
  job: Job, name: str, run: Config, probe: Callable[[Params], dict[str, float]]
) -> dict[str, Any]:
  """The scores of a run at one rate, or why it has none."""
  try:
    run_method(job, name, run, probe=False)
    scores = probe(final_params(job, name))
  except (Collapse, FloatingPointError) as error:
    progress.say(f'{name}: {error}')
    return {'S': None, 'U': None, 'failed': str(error)}
  utility = _mean(job, scores, KEEP)
  score = (1 - _mean(job, scores, FORGET) + utility) / 2
  return {'S': round(score, 4), 'U': round(utility, 4), **scores}


def _mean(job: Job, scores: Mapping[str, float], role: str) -> float:
  """The mean score of the tasks of a role."""
  return float(
    np.mean([scores[k] for k in scores if job.data.tasks[k].role == role])
  )


def _check_roles(config: Config) -> None:
  """Raises if a run draws from the true forget or retain set by name."""
  groups = {g for role in (FORGET, RETAIN) for g in config.groups[role]}
  sets, streams = config.saliency.preserve, config.unlearn.streams
  drawn = [config.saliency.forget, *sets.values(), *streams.values()]
  splits = [
    split for parts in drawn for part in parts for split in part['splits']
  ]
  named = [split for split in splits if split.partition('/')[2] in groups]
  if named:
    raise UserError(
      'tuning forgets others than the forget set, and saliency or unlearn.'
      f'streams draws from {named[0]!r} by name. Name a role there, as '
      'vqa:forget or vqa:retain, or set config.validation_groups.'
    )
