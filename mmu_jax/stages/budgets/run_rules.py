"""Rules of a run: its method, mask, streams, teacher and reference."""

import ml_collections

from mmu_jax import gradients
from mmu_jax import methods
from mmu_jax.errors import UserError
from mmu_jax.models import Model
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import mask_specs
from mmu_jax.stages.budgets import settle as budgets

Config = ml_collections.ConfigDict
TRAINED = ('base', 'vanilla', 'retrained')  # before any run of the config
NO_RETRAINED = 'config.retrained=None, or config.vanilla.rounds=0'


def makes(config: Config, name: str) -> bool:
  """Whether a job makes a model: all but a retrained one without a recipe."""
  known = config.get('retrained') is not None and config.vanilla.rounds != 0
  return name != 'retrained' or known


def run_settings(config: Config, name: str) -> Config:
  """Returns the settings of a run, checked.

  Raises:
    ValueError: if the run, its method, mask or retain stream is unknown, or
      method and mask do not go together, or its reference is not made.
  """
  if name not in config.runs:
    raise UserError(
      f'unknown run {name!r}; the config has {", ".join(TRAINED)} and '
      f'{", ".join(config.runs)}.'
    )
  run = config.runs[name]
  turns = budgets.turns_of(run)
  for turn in turns:
    gradients.check_micro_batches(
      turn.measure,
      config.micro_batches,
      f'the loss of the turn on {turn.split!r} of run {name!r}',
    )
  known = mask_specs.known_masks(config)
  if run.mask and run.mask not in known:
    raise UserError(
      f'run {name!r} has the mask {run.mask!r}; a mask is one of '
      f"{', '.join(known)}, or ''. A new one is an entry of config.masks."
    )
  if any(turn.masked for turn in turns) != bool(run.mask):
    raise UserError(
      f'run {name!r} has method {run.method!r} and mask {run.mask!r}: a '
      "method with masked turns needs a mask, one without has mask ''."
    )
  for place, found in (
    ('unlearn.limits', config.unlearn.limits),
    (f'runs.{name}.clip_norms', run.clip_norms),
  ):
    unknown = sorted({*found} - {'forget', 'retain'})
    if unknown:
      raise UserError(
        f'the turns of a run are on the splits forget and retain; config.'
        f'{place} has {unknown[0]!r}. Rename it.'
      )
  if not makes(config, run.reference):
    raise UserError(
      f'run {name!r} compares with the retrained model, and the config makes '
      f'none ({NO_RETRAINED}). Set config.runs.{name}.reference=vanilla.'
    )
  streams, teacher = config.unlearn.streams, run.get('teacher', '')
  drawn = drawing.streams_of(run)
  for split, stream in drawn.items():
    if stream not in streams:
      raise UserError(
        f'run {name!r} has the {split} stream {stream!r}; '
        f'config.unlearn.streams has {", ".join(streams)}.'
      )
  relabelled = any(turn.beside == drawing.RELABELLED for turn in turns) or any(
    drawing.is_relabelled(part) for k in drawn.values() for part in streams[k]
  )
  if bool(teacher) != relabelled:
    raise UserError(
      f'run {name!r} has teacher {teacher!r}, the method {run.method!r} and '
      f'the streams {", ".join(map(repr, drawn.values()))}: a method or stream '
      f'with the split {drawing.RELABELLED!r} needs a teacher, others have '
      "teacher ''."
    )
  if run.reference == 'base' and config.vanilla.rounds == 0:
    raise UserError(
      f'run {name!r} compares with base, which must not know what is to be '
      'forgotten; with config.vanilla.rounds=0 it is the model that is to '
      f'forget. Set config.runs.{name}.reference to another one, or leave the '
      'run out.'
    )
  for turn in turns:
    stream = drawn.get(turn.split, '')
    if turn.relabelled and not any(map(drawing.is_relabelled, streams[stream])):
      raise UserError(
        f'the method {run.method!r} of run {name!r} learns its {turn.split} '
        f'stream, and {stream!r} has the true answers, which would be learned. '
        f'Set config.runs.{name}.forget to a stream of {drawing.RELABELLED!r}.'
      )
  if run.method in methods.MIRRORED and run.reference != 'vanilla':
    raise UserError(
      f'run {name!r} negates a change of vanilla: its reference is vanilla; '
      f'got {run.reference!r}.'
    )
  if run.method in methods.STARTS and run.reference == 'vanilla':
    raise UserError(
      f'run {name!r} starts from the weights of its reference, and {run.method}'
      f' of vanilla changes nothing. Set config.runs.{name}.reference=base.'
    )
  if not teacher and run.options.get('margin', 1) is None:
    raise UserError(
      f'run {name!r} has margin=None, which is measured where a teacher is '
      'asked, and has none. Give the margin in nats, as 12.'
    )
  return run


def check_depth(name: str, run: Config, model: Model) -> None:
  """Raises ValueError if the method of a run reads a layer that is not there.

  Args:
    name: name of the run.
    run: its settings.
    model: the model, with its number of layers.
  """
  layer = run.options.get('layer', 0)
  depth = model.config.text_config.num_hidden_layers
  if layer > depth:
    raise UserError(
      f'run {name!r} reads the states after layer {layer} of the decoder, '
      f'which has {depth}. Set config.runs.{name}.options.layer to {depth}.'
    )
