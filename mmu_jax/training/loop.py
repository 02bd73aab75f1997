"""The host loop: rounds of turns, with a log, checkpoints and resume."""

from collections.abc import Callable, Mapping, Sequence
import math
import pathlib
import shutil
import time
from typing import Any, NamedTuple
import warnings
import zlib

import jax
import optax

from mmu_jax import checkpoint
from mmu_jax import distributed
from mmu_jax import workdir
from mmu_jax.distributed import preemption
from mmu_jax.distributed import progress
from mmu_jax.errors import Collapse
from mmu_jax.errors import DamageWarning
from mmu_jax.errors import UserError
from mmu_jax.lora import Lora
from mmu_jax.methods import Turn
from mmu_jax.sharding import Rules
from mmu_jax.training import adapting
from mmu_jax.training import step as step_lib
from mmu_jax.typing import Batch
from mmu_jax.typing import Forward
from mmu_jax.typing import Mask
from mmu_jax.typing import Params
from mmu_jax.workdir import seals

Probe = Callable[[Params], dict[str, float]]
FINAL = 'params'  # the folder of the final parameters: the run is finished
RUNNING = 'checkpoints'  # the folder of train states, until then
ADAPTERS = 'adapters'  # the folder of final adapters, beside the parameters


class Plan(NamedTuple):
  """Everything that the result of a run depends on.

  Attributes:
    turns: turns of a method; each is taken in every ``turn.every``-th round.
    streams: split -> ``stream(step) -> Batch``, for the splits of the turns,
      of their projections and beside them.
    rates: split -> learning rate as a function of the round.
    rounds: number of rounds, >= 1.
    forward: the model.
    tx: optimizer, made by ``optimizer.build``.
    mask: mask of the masked turns.
    ref_params: parameters of the reference, for the turns that need one; None
      with ``lora`` for the parameters that the run starts from.
    clip_norms: split -> largest norm of its gradients, inf for no clip; for
      every turn's split, or empty if ``tx`` has one for all.
    limits: split -> largest number of its turns. The published loop stops
      forgetting when every forget batch was seen once.
    max_losses: split -> loss of its turns, or of its own term beside others,
      above which the run stops.
    rules: partition rules of the parameters, for the mesh that is set.
    micro_batches: number of parts of a batch, see ``take_turn``.
    lora: adapters that are trained in the place of the parameters, if any.
    base: frozen parameters of adapters, set by ``fit``.
  """

  turns: tuple[Turn, ...]
  streams: Mapping[str, Callable[[int], Batch]]
  rates: Mapping[str, optax.Schedule]
  rounds: int
  forward: Forward
  tx: optax.GradientTransformationExtraArgs
  mask: Mask = None
  ref_params: Params = None
  clip_norms: Mapping[str, float] = {}
  limits: Mapping[str, int] = {}
  max_losses: Mapping[str, float] = {}
  rules: Rules = ()
  micro_batches: int = 1
  lora: Lora | None = None
  base: Params = None


def fit(
  plan: Plan,
  like: Params,
  start: Callable[[], Params],
  folder: str | pathlib.Path,
  *,
  title: str = 'train',
  note: Mapping[str, Any] = {},
  save_every: int = 100,
  keep_last: int = 2,
  keep_every: int = 0,
  log_every: int = 10,
  probe: Probe | None = None,
  probe_every: int = 10,
) -> Params:
  """Runs a plan to its end, from its newest checkpoint if it has one.

  Args:
    plan: the plan of the run.
    like: the parameters, or their shapes, dtypes and places.
    start: ``start() -> params``, called if the run starts from the beginning;
      it takes their buffers. With ``plan.lora`` in any case, for the base.
    folder: folder of the run; gets ``metrics.jsonl``, ``checkpoints/`` while
      the run goes on, and at its end ``params/`` instead; with ``plan.lora``
      the merged parameters, and ``adapters/`` beside them.
    title: title of the progress bar.
    note: entries for the notes of the final parameters and of the states on
      the way, besides the rounds. A state whose ``origin`` is another is not
      gone on with.
    save_every: rounds between checkpoints.
    keep_last: number of newest checkpoints to keep.
    keep_every: rounds between checkpoints to keep for good; 0 for none.
    log_every: rounds between rows of the log.
    probe: ``probe(params) -> {name: value}``, a quick look at the model for
      the plots, before the first round and after each ``probe_every``.
    probe_every: rounds between probes.

  Returns:
    The final parameters, see ``step.evaluated``.

  Raises:
    ValueError: before compiling, if the plan is incomplete or the newest
      state has another origin.
    FloatingPointError: if a loss, gradient or update is not finite; names
      round, turn and rows.
    Collapse: if a loss is above ``plan.max_losses``.
    Preempted: if the process was asked to stop, and the state is saved.
    OSError: if a file cannot be written; earlier checkpoints are whole.
  """
  _check(plan)
  folder, whole = pathlib.Path(folder), start
  if plan.lora is not None:
    plan, like, start = adapting.adapted(plan, start)
  state, first, logged = _begin(
    plan, like, start, folder / RUNNING, title, note
  )
  log = Log(folder, first, logged)
  # Known before the first step: a rate is computed on a device, where it would
  # wait for the steps that are under way.
  rates = {
    split: [float(rate(i)) for i in range(plan.rounds)]
    for split, rate in plan.rates.items()
  }
  strict = all(turn.masked for turn in plan.turns) and plan.lora is None
  trained = lambda s: step_lib.evaluated(s, plan.mask if strict else None)
  kept_of = lambda s: adapting.model_of(plan, trained(s))
  if probe is not None and not first:
    log.write({'round': 0, 'probe': probe(kept_of(state))})
  bar = progress.track(
    range(first, plan.rounds), title, initial=first, total=plan.rounds
  )
  with checkpoint.Series(
    folder / RUNNING, keep_last=keep_last, keep_every=keep_every
  ) as series:
    before, saved = (first, []), first
    for round_ in bar:
      state, measured = _take_round(plan, state, round_, rates)
      # The round before is looked at while this one runs on the device.
      _numbers(plan, *before)
      before = (round_, measured)
      done = round_ + 1
      due = lambda every: done % every == 0 or done == plan.rounds
      if due(log_every):
        rows = _numbers(plan, round_, measured)
        for row in rows:
          log.write({'round': done, **row})
        bar.set_postfix({row['turn']: f'{row["loss"]:.3f}' for row in rows})
      if probe is not None and due(probe_every):
        log.write({'round': done, 'probe': probe(kept_of(state))})
      stop = preemption.requested(done)
      kept = keep_every and done % keep_every == 0
      if due(save_every) or kept or stop:
        _numbers(plan, round_, measured)
        reached = {'round': done, 'rounds': plan.rounds, 'logged': log.logged}
        series.save(done, state, {**note, **reached})
        saved = done
      if stop:
        series.wait()
        raise preemption.Preempted(f'{title}: saved after round {saved}')
  found = trained(state)
  if plan.lora is not None:
    own = adapting.note_of(plan.lora)
    checkpoint.save(folder / ADAPTERS, found, {**note, **own})
  params = adapting.final_model(plan, found, whole)
  content = checkpoint.digest(params)
  log.close(title, content)
  made = {**note, 'rounds': plan.rounds, 'content': content}
  checkpoint.save(folder / FINAL, params, made)
  distributed.first(clear, folder / RUNNING, keep_every)
  return params


def _begin(plan, like, start, folder, title, note):
  """The state to go on with, its round, and ``logged`` by then."""
  if checkpoint.latest_step(folder) is None:
    return step_lib.init(start(), plan.tx, plan.rules), 0, (0, 0)
  like = step_lib.abstract_state(like, plan.tx, plan.rules)
  restored = checkpoint.restore(folder, like)
  check_origin(folder, restored.note, note)
  progress.say(f'{title}: goes on after round {restored.step}')
  return restored.tree, restored.step, restored.note['logged']


def check_origin(
  folder: pathlib.Path, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> None:
  """Raises ValueError unless two notes have one origin.

  Args:
    folder: folder of the state that is to be gone on with.
    found: its note.
    wanted: note of the job that would go on.
  """
  pair = found.get('origin'), wanted.get('origin')
  if pair[0] != pair[1]:
    wrong = workdir.differences(*pair, 'origin')
    raise UserError(
      f'{folder} holds a state that was made from something else: '
      f'{"; ".join(wrong)}. Delete that folder to begin again.'
    )


def clear(folder: pathlib.Path, keep_every: int = 0) -> None:
  """Deletes the states of a finished run: each is three times the parameters.

  Args:
    folder: ``checkpoints/`` of the run; may be gone already.
    keep_every: rounds between states that stay; 0 for none.
  """
  if not folder.is_dir():
    return
  for step in folder.iterdir():
    if step.name.isdigit() and keep_every and int(step.name) % keep_every == 0:
      continue
    shutil.rmtree(step) if step.is_dir() else step.unlink()
  if not any(folder.iterdir()):
    folder.rmdir()


def _check(plan: Plan) -> None:
  """Raises, before anything is compiled, if a plan cannot be run.

  Raises:
    ValueError: names the turn, the part that it lacks, and where to get it.
  """
  if plan.rounds < 1:
    raise UserError(f'a run needs at least one round, got {plan.rounds}.')
  splits = {turn.split for turn in plan.turns}
  for split, limit in plan.limits.items():
    if split not in splits or limit < 1:
      raise UserError(
        f'a limit is a number >= 1 for the split of a turn, got {limit} for '
        f'{split!r}; the turns are on {sorted(splits)}.'
      )
  for turn in plan.turns:
    name = f'the turn on {turn.split!r}'
    step_lib.check_turn(turn, plan.micro_batches)
    if turn.every < 1:
      raise UserError(
        f'{name} is taken every {turn.every} rounds; it must be >= 1.'
      )
    for split in {turn.split, turn.project, turn.beside} - {None}:
      if split not in plan.streams:
        raise UserError(
          f'{name} draws from {split!r}, but the streams are '
          f'{sorted(plan.streams)}. Add that stream to the config.'
        )
    if turn.split not in plan.rates:
      raise UserError(
        f'{name} has no learning rate; rates are given for '
        f'{sorted(plan.rates)}.'
      )
    if plan.clip_norms and turn.split not in plan.clip_norms:
      raise UserError(
        f'{name} has no clip norm; they are given for '
        f'{sorted(plan.clip_norms)}. Give every split one, or none at all.'
      )
    if turn.masked and plan.mask is None:
      raise UserError(
        f'{name} is masked, and no mask is given. Compute one first (`mmu '
        'saliency`), or choose a method without a mask.'
      )
    if turn.needs_reference and plan.ref_params is None and not plan.lora:
      raise UserError(
        f'{name} needs reference parameters (KL and NPO compare with '
        'them), and none are given. Pass ref_params, usually the vanilla '
        'model.'
      )


class Log:
  """A metrics.jsonl that a resumed run continues where its checkpoint is.

  It holds nothing that a repeated run would write differently; the times of
  its rows are in ``timing.jsonl``. One process writes.
  """

  def __init__(
    self, folder: pathlib.Path, start: int, logged: Sequence[int] = (0, 0)
  ):
    """Opens the file and drops rows of rounds that will be done again.

    Args:
      folder: folder of the run, made if it is missing.
      start: the round that the checkpoint has reached.
      logged: number and checksum of the rows until then, ``logged`` of the log
        that the checkpoint was saved with.
    """
    self._path, self._times = folder / 'metrics.jsonl', folder / 'timing.jsonl'
    self.logged, self._lost = tuple(logged), ''
    found = distributed.first(_keep_rows, self._path, start)
    if tuple(found) != self.logged:
      self._lost = f'{found[0]} rows instead of {logged[0]}, or others'
    if self._lost and distributed.is_first():
      warnings.warn(
        f'{self._path} had {self._lost}, when the run went on after round '
        f'{start}; its plot lacks rows.',
        DamageWarning,
        stacklevel=2,
      )

  def write(self, row: Mapping[str, Any]) -> None:
    """Appends a row, and its time in seconds since 1970."""
    distributed.first(workdir.append_jsonl, self._path, [row])
    self.logged = _count([row], self.logged)
    now = {'round': row['round'], 'time': round(time.time(), 1)}
    distributed.first(workdir.append_jsonl, self._times, [now])

  def close(self, name: str, model: str) -> None:
    """Marks the rows as all of a run of this name, and of its parameters."""
    note = {'model': model, 'lost': self._lost}
    distributed.first(seals.seal, self._path, name, note)


def _keep_rows(path: pathlib.Path, start: int) -> tuple[int, int]:
  """Keeps the rows of the rounds that are done; returns how many, and a sum."""
  rows = workdir.read_log(path) if start and path.exists() else []
  kept = [row for row in rows if row['round'] <= start]
  workdir.write_log(path, kept)
  return _count(kept, (0, 0))


def _count(
  rows: Sequence[Mapping[str, Any]], before: tuple[int, int]
) -> tuple[int, int]:
  """The number of rows and their checksum, those before included."""
  number, found = before
  for row in rows:
    found = zlib.crc32(workdir.to_json(row).encode(), found)
  return number + len(rows), found


def _take_round(plan, state, round_, rates):
  """Takes the turns of a round; returns the state and the measurements."""
  measured = []
  for turn in plan.turns:
    index, between = divmod(round_, turn.every)
    if between or index >= plan.limits.get(turn.split, math.inf):
      continue
    rate = rates[turn.split][round_]
    batch = plan.streams[turn.split](index)
    if turn.beside:
      batch = {**batch, 'beside': plan.streams[turn.beside](index)}
    state, values = step_lib.take_turn(
      state,
      batch,
      rate,
      plan.mask if turn.masked or plan.lora else None,
      plan.ref_params if turn.needs_reference else None,
      plan.streams[turn.project](index) if turn.project else None,
      plan.clip_norms.get(turn.split),
      plan.base,
      plan.lora.scale if plan.lora else 1.0,
      forward=plan.forward,
      turn=turn,
      tx=plan.tx,
      rules=plan.rules,
      micro_batches=plan.micro_batches,
    )
    measured.append((turn, index, rate, values))
  return state, measured


def _numbers(plan, round_, measured) -> list[dict[str, Any]]:
  """Returns the measured rows as numbers; raises where one is not finite."""
  rows = []
  for turn, index, rate, values in measured:
    values = {k: float(v) for k, v in jax.device_get(values).items()}
    # A finite loss can still give a step that is not, and its checkpoint.
    bad = [k for k, v in values.items() if not math.isfinite(v)]
    if bad:
      name = 'loss' if 'loss' in bad else bad[0]
      keys = [
        key
        for split in (turn.split, turn.beside)
        if split
        for key in getattr(plan.streams[split], 'keys', lambda _: ['?'])(index)
      ]
      raise FloatingPointError(
        'every loss, gradient and update must be finite; the '
        f'{name} of the turn on {turn.split!r} in round {round_ + 1} is '
        f'{values[name]}, at learning rate {rate:g} '
        f'on rows {", ".join(keys[:8])} ({len(keys)} in all). Earlier '
        'checkpoints are whole. Look at these rows, or lower the learning '
        'rate: with another rate, delete the folder of this run first.'
      )
    for split, name in (turn.split, 'loss'), (turn.beside, 'beside_loss'):
      limit = plan.max_losses.get(split, math.inf) if turn.in_nats else math.inf
      if values.get(name, -math.inf) > limit:
        raise Collapse(
          f'the {split} loss reached {values[name]:.4g} in round '
          f'{round_ + 1} (limit {limit:g}): the model has lost what it should '
          'keep. Earlier checkpoints are whole. Lower the '
          'learning rate of the forget turns, in a run of another name; or '
          'let it go on with a higher config.unlearn.max_retain_loss.'
        )
    rows.append({'turn': turn.split, 'lr': rate, **values})
  return rows
