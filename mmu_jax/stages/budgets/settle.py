"""Settings that come from the data: rounds, forget turns, and parts with rows.

A number that is None in a config is settled here, in epochs: an epoch is the
steps in which a stream draws every picture and every text row once. Settling a
config again changes nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections

from mmu_jax import methods
from mmu_jax.data.batches import batching
from mmu_jax.errors import UserError
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets.drawing import Groups
from mmu_jax.stages.budgets.drawing import Train

Config = ml_collections.ConfigDict
_TEXT = ('qa:', 'qa/')  # splits that data may lack: rows without a picture


class Budget(NamedTuple):
  """Rounds of a run, its forget turns, and batches of the forget set."""

  rounds: int
  forget_turns: int
  forget_batches: int


def settle(
  config: Config, train: Train | None, groups: Groups
) -> tuple[Config, list[str]]:
  """Returns a config whose numbers are all set, by the rows of the data.

  Rounds are ``epochs`` passes: of vanilla over its stream, of a run over the
  longest stream that its turns draw from. ``forget_every=None`` spreads as many
  passes over the forget set evenly over the run. Parts in text that have no
  rows are left out, with all that rests on them alone.

  Args:
    config: the whole config, checked.
    train: rows to train on by split; None if no data are read.
    groups: groups by role for saliency and runs; base and vanilla go by
      ``config.groups``.

  Returns:
    The settled config, a new one, and notes on the parts left out.

  Raises:
    ValueError: if the data lack pictures to forget or to keep, or a run takes
      fewer forget turns than the forget set has batches.
  """
  made, notes = config.to_dict(), []
  _settle_training(made, _Data(train, made['groups'], notes))
  if train is not None:
    forget = made['unlearn']['streams']['forget']
    train = drawing.with_stand_ins(train, groups, forget)
  data = _Data(train, groups, notes)
  _settle_saliency(made['saliency'], data)
  _settle_runs(made, data)
  for name in made['runs'] if train is not None else ():
    _check_budget(made, name, budget(made, name, train, groups))
  return Config(made), notes


def turns_of(run: Mapping[str, Any]) -> tuple[methods.Turn, ...]:
  """Returns the turns of a run; options that are None have their default."""
  options = {k: v for k, v in run['options'].items() if v is not None}
  return methods.make(run['method'], **options)


def budget(
  config: Mapping[str, Any], name: str, train: Train, groups: Groups
) -> Budget:
  """Returns how much of the forget set a run of a settled config sees."""
  run, unlearn = config['runs'][name], config['unlearn']
  rounds = run['rounds'] or unlearn['rounds']
  most = unlearn['limits'].get('forget', rounds)
  every = [t.every for t in turns_of(run) if t.split == 'forget']
  turns = sum(min(-(-rounds // n), most) for n in every)
  batches = _Data(train, groups, []).epoch(unlearn['streams']['forget'])
  return Budget(rounds, turns, batches)


def in_words(
  config: Mapping[str, Any], name: str, train: Train, groups: Groups
) -> str:
  """Returns a line on how long a model is trained; see ``budget``."""
  if name in config['runs']:
    rounds, turns, batches = budget(config, name, train, groups)
    return (
      f'{name}: {rounds} rounds, {turns} forget turns; the forget set has '
      f'{batches} {"batch" if batches == 1 else "batches"}'
    )
  rounds = config['base' if name == 'base' else 'vanilla']['rounds']
  stays = '' if rounds else ': it stays as it starts'
  return f'{name}: {rounds} rounds{stays}'


class _Data(NamedTuple):
  """Rows by split, groups by role, and notes on parts without rows.

  Without rows (None), an epoch has one step and no part is left out.
  """

  train: Train | None
  groups: Groups
  notes: list[str]

  def epoch(self, parts: Iterable[Mapping[str, Any]]) -> int:
    """Steps of an epoch of a stream."""
    if self.train is None:
      return 1
    drawn = drawing.draw(self.train, self.groups, parts)
    return batching.steps_per_epoch(drawn)

  def with_rows(self, parts: Sequence[Any], place: str) -> tuple[Any, ...]:
    """The parts whose splits have rows; raises for pictures without any."""
    if self.train is None:
      return tuple(parts)
    kept = []
    for i, part in enumerate(parts):
      splits = ', '.join(part['splits'])
      if drawing.draw(self.train, self.groups, [part])[0].rows:
        kept.append(part)
      elif all(split.startswith(_TEXT) for split in part['splits']):
        self.notes.append(
          f'the data have no rows in text ({splits}): config.{place} does '
          'without them'
        )
      else:
        raise UserError(
          f'config.{place}[{i}] draws from {splits}, and the data have no such '
          'row: there must be pictures to forget and pictures to keep. Look at '
          'the splits of the data (`mmu data check`), or change that part.'
        )
    return tuple(kept)


def _settle_training(made: dict[str, Any], data: _Data) -> None:
  """Settles base and vanilla."""
  if made['model'].get('path'):  # the checkpoint is the base
    made['base']['rounds'] = made['base']['rounds'] or 0
  for name in ('base', 'vanilla'):
    spec = made[name]
    if spec['rounds'] == 0 or (name == 'base' and made['model'].get('path')):
      continue
    stream = data.with_rows(spec['stream'], f'{name}.stream')
    if not stream and name == 'base':
      spec['rounds'] = 0
      data.notes.append('base has nothing to learn and stays random')
      continue
    spec['stream'] = _some(stream, f'{name}.stream')
    spec['rounds'] = spec['rounds'] or _epochs(spec) * data.epoch(stream)


def _settle_saliency(saliency: dict[str, Any], data: _Data) -> None:
  """Leaves out preserve sets without rows."""
  parts = data.with_rows(saliency['forget'], 'saliency.forget')
  saliency['forget'] = _some(parts, 'saliency.forget')
  kept = {
    name: data.with_rows(parts, f'saliency.preserve.{name}')
    for name, parts in saliency['preserve'].items()
  }
  saliency['preserve'] = {name: parts for name, parts in kept.items() if parts}
  for component, names in saliency['protects'].items():
    names = tuple(n for n in names if kept.get(n, True))  # unknown: an error
    place = f'saliency.protects.{component}'
    saliency['protects'][component] = _some(names, place)


def _settle_runs(made: dict[str, Any], data: _Data) -> None:
  """Settles the streams, rounds and forget turns of the runs."""
  unlearn, runs = made['unlearn'], made['runs'].values()
  streams = {
    name: data.with_rows(parts, f'unlearn.streams.{name}')
    for name, parts in unlearn['streams'].items()
  }
  names = (name for run in runs for name in drawing.streams_of(run).values())
  for name in {'forget', *names}:
    _some(streams[name], f'unlearn.streams.{name}')
  unlearn['streams'] = {name: parts for name, parts in streams.items() if parts}
  epoch = {name: data.epoch(p) for name, p in unlearn['streams'].items()}
  passes, unset = _epochs(unlearn), unlearn['rounds'] is None
  # Of no run alone: one more run must not change the claims of the others.
  unlearn['rounds'] = unlearn['rounds'] or passes * max(epoch.values())
  for run in runs:
    drawn = drawing.streams_of(run)
    if unset and run['rounds'] is None:
      splits = {s for t in turns_of(run) for s in (t.split, t.beside)}
      longest = max((epoch[drawn[s]] for s in splits & {*drawn}), default=1)
      run['rounds'] = passes * longest
    if run['options'].get('forget_every', 1) is None:
      rounds = run['rounds'] or unlearn['rounds']
      between = rounds // (passes * epoch['forget'])
      run['options']['forget_every'] = max(1, between)


def _check_budget(config: dict[str, Any], name: str, found: Budget) -> None:
  """Raises ValueError if a run leaves a part of the forget set alone."""
  rounds, turns, batches = found
  unlearn, way = config['unlearn'], f'config.runs.{name}'
  partial = unlearn.get('allow_partial_forget', False)
  if partial or not turns or turns >= batches:
    return
  if unlearn['limits'].get('forget', batches) < batches:
    way = f'config.unlearn.limits.forget={batches}'
  elif rounds >= batches:
    way += f'.options.forget_every={rounds // batches}'
  else:
    way += f'.rounds={batches} or more'
  raise UserError(
    f'run {name!r} takes {turns} forget turns in {rounds} rounds, and the '
    f'forget set has {batches} batches: {batches - turns} of them would not be '
    f'forgotten. Set {way}; to forget a part of the forget set, set '
    'config.unlearn.allow_partial_forget=True.'
  )


def _epochs(spec: Mapping[str, Any]) -> int:
  """Passes over a stream, where the rounds are not given."""
  return spec.get('epochs', 1)


def _some(found: tuple[Any, ...], place: str) -> tuple[Any, ...]:
  """The parts or names of a field; raises if none is left."""
  if not found:
    raise UserError(
      f'the data have no rows for config.{place}: all of it is text that they '
      'lack. Add a part with pictures, or rows in text.'
    )
  return found
