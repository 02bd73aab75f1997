"""The stage that trains: base, vanilla, retrained, and unlearned models."""

from collections.abc import Callable, Sequence
import functools
import pathlib
from typing import Any

import jax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import methods
from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.batches import prefetch
from mmu_jax.data.row import GENERATION
from mmu_jax.distributed import progress
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import decoding
from mmu_jax.stages import gate
from mmu_jax.stages import masking
from mmu_jax.stages import origins
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import plans
from mmu_jax.stages.budgets import settle as budgets
from mmu_jax.stages.budgets.run_rules import makes
from mmu_jax.stages.budgets.run_rules import NO_RETRAINED
from mmu_jax.stages.budgets.run_rules import run_settings
from mmu_jax.stages.budgets.run_rules import TRAINED
from mmu_jax.stages.budgets.streams import draw_from
from mmu_jax.stages.budgets.streams import make_stream
from mmu_jax.stages.budgets.streams import Placed
from mmu_jax.stages.job import alone
from mmu_jax.stages.job import Config
from mmu_jax.stages.job import Folder
from mmu_jax.stages.job import Job
from mmu_jax.stages.job import open_job
from mmu_jax.stages.job import recipe
from mmu_jax.stages.relabelling import relabel
from mmu_jax.stages.runs import final_params
from mmu_jax.stages.runs import is_finished
from mmu_jax.stages.runs import model_folder
from mmu_jax.stages.runs import require
from mmu_jax.training import loop
from mmu_jax.training import step as step_lib
from mmu_jax.typing import Mask
from mmu_jax.typing import Params


def train(config: Config, workdir: Folder, run: str = 'vanilla') -> Params:
  """Trains one model, goes on where it was stopped, or finds it finished.

  Args:
    config: the whole config.
    workdir: folder of the job; must hold the model that the run starts from.
    run: 'base', 'vanilla', 'retrained', or a key of ``config.runs``.

  Returns:
    The final parameters.

  Raises:
    ValueError: if the run is unknown, or was made with other settings, or is to
      forget what vanilla does not know (see ``gate``).
    FileNotFoundError: if the model that it starts from is missing.
  """
  job = make_model(config, workdir, run)
  return final_params(job, run)


@alone
def make_model(config: Config, workdir: Folder, run: str) -> Job:
  """Trains one model unless it is finished, see ``train``; returns the job."""
  if run not in TRAINED:
    run_settings(config, run)  # before anything is read
  if not makes(config, run):
    raise UserError(f'the job has no retrained model: {NO_RETRAINED}.')
  job = open_job(config, workdir, begin=True)
  with jax.set_mesh(job.mesh):
    if run in TRAINED:
      _train_model(job, run)
    else:
      progress.say(
        budgets.in_words(job.config, run, job.data.train, job.groups)
      )
      gate.guard(job, [run])
      run_method(job, run, run_settings(job.config, run))
  return job


def run_method(job: Job, name: str, run: Config, *, probe: bool = True) -> None:
  """Runs a method from vanilla, with the settings of a run.

  Args:
    job: the job, whose mesh is set.
    name: name of its folder.
    run: method, mask, rate and retain stream.
    probe: whether to look at the model on the way, for the plots.
  """
  config = job.config.unlearn
  if _found_finished(job, name, run_claim(job, run)):
    return
  require(job, 'vanilla')
  sources = [model_folder(job, 'vanilla')]
  if run.get('teacher'):
    made = relabel.relabel(job, run)
    sources.append(made.folder)
    job = relabel.with_rows(job, made)
    run = _with_margin(run, made.margin)
  streams = {
    split: make_stream(job, draw_from(job, config.streams[drawn]), split)
    for split, drawn in drawing.streams_of(run).items()
  }
  if any(turn.beside == drawing.RELABELLED for turn in budgets.turns_of(run)):
    streams |= _pairs(job, run, made)
  mask = masking.mask(job, run.mask) if run.mask else None
  lora = plans.adapters_of(config, run, job.model, job.config.seed)
  plan = plans.unlearning_plan(
    config,
    run,
    forward=job.model.forward,
    streams=streams,
    mask=mask,
    ref_params=_reference(job, run),
    lora=lora,
  )
  probing = {}
  if probe:
    probing['probe'] = make_probe(job, config.probe_rows)
    probing['probe_every'] = config.probe_every
  start = functools.partial(_start, job, run, mask)
  if plan.ref_params is not None or run.method in methods.STARTS:
    sources.append(model_folder(job, run.reference))
  if run.mask:
    sources.append(masking.mask_folder(job, run.mask))
  fit_model(job, name, plan, start, config.save_every, sources, **probing)


def _start(job: Job, run: Config, mask: Mask) -> Params:
  """The parameters that a run starts from: vanilla's, unless it says more."""
  params = final_params(job, 'vanilla')
  if run.method not in methods.STARTS:
    return params
  start = jax.jit(methods.STARTS[run.method], donate_argnums=0)
  return start(params, final_params(job, run.reference), mask)


def _pairs(
  job: Job, run: Config, made: relabel.Relabelled
) -> dict[str, Placed]:
  """Streams of the true answers and of others, in the same places."""
  found = {'forget': [], drawing.RELABELLED: []}
  drawn_from = drawing.streams_of(run)['forget']
  for part in draw_from(job, job.config.unlearn.streams[drawn_from]):
    keys = {row.key for row in part.rows}
    pairs = [p for p in zip(made.true, made.rows) if p[0].key in keys]
    if not pairs:
      raise UserError(
        f'the stream {drawn_from!r} has a part without questions that a '
        'teacher has answered: pairs are of questions about pictures. Leave '
        f'the part out of config.unlearn.streams.{drawn_from}.'
      )
    for drawn, rows in zip(found.values(), zip(*pairs)):
      drawn.append(part._replace(rows=rows))
  # Streams of one name draw in one order.
  return {k: make_stream(job, drawn, 'forget') for k, drawn in found.items()}


def _with_margin(run: Config, margin: float) -> Config:
  """A run with the margin that was measured, where it goes by that rule."""
  run = run.to_dict()
  if run['options'].get('margin', margin) is None:
    run['options']['margin'] = margin
  return Config(run)


def settings_of(job: Job, name: str) -> dict[str, Any] | None:
  """Returns the settings that a model of the config has in its folder.

  Args:
    job: job whose config it is.
    name: name of a model.

  Returns:
    JSON; None for a model that the config does not know.
  """
  if name in TRAINED and makes(job.config, name):
    return _train_claim(job, name)
  return (
    run_claim(job, job.config.runs[name]) if name in job.config.runs else None
  )


def run_claim(job: Job, run: Config) -> dict[str, Any]:
  """Returns the settings that an unlearned model depends on."""
  config = job.config
  unlearn = recipe(config.unlearn)
  # A run is the same whatever others draw from their streams.
  own = {'forget', *drawing.streams_of(run).values()}
  unlearn['streams'] = {
    k: parts for k, parts in unlearn['streams'].items() if k in own
  }
  lora = plans.lora_settings(config.unlearn, run)
  without = lambda part: {k: v for k, v in part.items() if k != 'lora'}
  return {
    'run': without(run.to_dict()),
    'unlearn': without(unlearn),
    **({'lora': lora} if lora else {}),
    'vanilla': recipe(config.vanilla),
    'base': recipe(config.base),
    'groups': job.groups.to_dict(),
    'saliency': recipe(config.saliency) if run.mask else None,
    **masking.claim_of(config, run.mask),
    'retrained': (
      config.retrained.to_dict() if run.reference == 'retrained' else None
    ),
  }


def _reference(job: Job, run: Config) -> Params | None:
  """The parameters that a run compares with, where its method does."""
  turns = budgets.turns_of(run)
  if not any(turn.needs_reference for turn in turns):
    return None
  lora = plans.lora_settings(job.config.unlearn, run)
  if lora and run.reference == 'vanilla' and run.method not in methods.STARTS:
    return None  # the frozen base is vanilla
  params = final_params(job, run.reference)
  offloaded = 'reference' in job.config.offload
  return step_lib.to_host(params) if offloaded else params


def fit_model(
  job: Job,
  name: str,
  plan: loop.Plan,
  start: Callable[[], Params],
  save_every: int,
  made_from: Sequence[pathlib.Path] = (),
  **probing: Any,
) -> None:
  """Trains a model into its folder of the workdir, or goes on with it.

  Args:
    job: the job, whose mesh is set.
    name: name of the model, its path in the workdir.
    plan: turns, streams and rates, see ``budgets.plans``.
    start: function that returns the parameters to start from.
    save_every: rounds between checkpoints.
    made_from: folders of the models and masks that it is made from.
    **probing: ``probe`` and ``probe_every`` of ``loop.fit``.
  """
  kept, folder = job.config.checkpoints, model_folder(job, name)
  origin = origins.origin(job, folder, made_from)
  with prefetch.prefetched(plan.streams) as streams:
    loop.fit(
      plan._replace(
        streams=streams,
        rules=job.model.partition_rules,
        micro_batches=job.config.micro_batches,
      ),
      job.placed(job.model.abstract_params),
      start,
      folder,
      title=name,
      note=origin,
      save_every=save_every,
      keep_last=kept.keep_last,
      keep_every=kept.keep_every,
      **probing,
    )


def make_probe(job: Job, num_rows: int) -> Callable[[Params], dict[str, float]]:
  """Makes a quick look at a model: exact match without decoding.

  Greedy decoding gives an answer exactly where each of its tokens is the
  likeliest, so one forward pass per batch is enough.

  Args:
    job: the job, whose mesh is set.
    num_rows: largest number of questions of a task, spread evenly.

  Returns:
    Function from parameters to the exact match of each headline task: of the
    reported ones, or of those that settings are chosen by.
  """
  batches, size = {}, job.config.evaluation.batch_size
  for task in job.data.tasks.values():
    rows = [row for row in task.rows if row.task == GENERATION]
    if not task.headline or task.reported == job.validation or not rows:
      continue
    spread = rows[:: -(-len(rows) // num_rows)]
    made = batching.row_batches(
      spread, job.scorer, size=size, share=sharding.share
    )
    batches[task.name] = [sharding.place_shared(b, size) for b in made]

  def look(params, task):
    try:
      return decoding.exact_share(
        params, batches[task], forward=job.model.forward
      )
    except decoding.NotFinite as error:
      raise FloatingPointError(
        f'a look at the model on the way found logits of the task {task!r} '
        'that are not finite. A model that diverged is to be trained again at '
        'a lower rate; else set config.model.dtype to float32.'
      ) from error

  return lambda params: {task: round(look(params, task), 4) for task in batches}


def _train_model(job: Job, name: str) -> None:
  """Trains base, vanilla, or vanilla's recipe without the forget images."""
  config = job.config
  if name == 'base' and job.model.source is not None:
    progress.say(f'base: the checkpoint {job.model.source}')
    return
  spec = config.base if name == 'base' else config.vanilla
  without = _left_out(job, name)
  if _found_finished(job, name, _train_claim(job, name)):
    return
  if name != 'base':
    require(job, 'base')
  start = lambda: _random(job) if name == 'base' else final_params(job, 'base')
  sources = [] if name == 'base' else [model_folder(job, 'base')]
  progress.say(budgets.in_words(config, name, job.data.train, job.groups))
  if not spec.rounds:
    params, folder = start(), model_folder(job, name)
    note = {'rounds': 0, **origins.origin(job, folder, sources)}
    note |= {'content': checkpoint.digest(params)}
    checkpoint.save(folder / loop.FINAL, params, note)
    return
  plan = plans.training_plan(
    spec,
    forward=job.model.forward,
    stream=make_stream(job, draw_from(job, spec.stream, without), 'train'),
    lora=plans.adapters_of(spec, spec, job.model, config.seed),
  )
  fit_model(job, name, plan, start, spec.save_every, sources)


def _left_out(job: Job, name: str) -> tuple[str, ...]:
  """The splits that a model is trained without."""
  return tuple(job.config.retrained.without) if name == 'retrained' else ()


def _train_claim(job: Job, name: str) -> dict[str, Any]:
  """The settings that base, vanilla and retrained depend on."""
  config = job.config
  spec = config.base if name == 'base' else config.vanilla
  settings = {'stage': recipe(spec), 'without': list(_left_out(job, name))}
  if name != 'base':
    settings['base'] = recipe(config.base)
  return settings


def _random(job: Job) -> Params:
  """Random parameters, the same on every mesh."""
  places = sharding.shardings(
    job.model.abstract_params, job.model.partition_rules, job.mesh
  )
  init = jax.jit(job.model.init, out_shardings=places)
  return init(jax.random.key(job.config.seed))


def _found_finished(job: Job, name: str, settings: dict[str, Any]) -> bool:
  """Claims the folder of a run; returns whether it holds the final model."""
  folder = model_folder(job, name)
  workdir_lib.claim(folder, settings)
  if not is_finished(folder):
    return False
  origins.check(job, folder)
  progress.say(f'{name}: found in {folder}')
  # A run that was killed at its very end may have left its train states.
  keep_every = job.config.checkpoints.keep_every
  distributed.first(loop.clear, folder / loop.RUNNING, keep_every)
  return True
