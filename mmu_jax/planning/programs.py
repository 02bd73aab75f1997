"""The programs of a job: what runs on the devices in each of its stages."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmu_jax import methods
from mmu_jax.methods import Turn
from mmu_jax.models import Model
from mmu_jax.planning import inference
from mmu_jax.planning import memory
from mmu_jax.planning.inputs import Inputs
from mmu_jax.planning.memory import Need
from mmu_jax.planning.memory import Setting
from mmu_jax.planning.shapes import Rows


class Program(NamedTuple):
  """One program.

  Attributes:
    stage: 'base', 'vanilla', 'retrained', 'importance', 'mask', 'evaluate', or
      the name of a run.
    step: which step of it: a split, a task.
    rows: of the whole batch.
    turn: for a step of training, else None.
    options: of its optimizer.
    mask: whether the run holds a mask.
    reference: whether it holds a reference model.
    others: importances that a mask is made of, or new tokens of an answer.
  """

  stage: str
  step: str
  rows: Rows
  turn: Turn | None = None
  options: Mapping[str, Any] = {}
  mask: bool = False
  reference: bool = False
  others: int = 0

  @property
  def trains(self) -> bool:
    """Whether it takes a gradient, and so is split into micro-batches."""
    return self.turn is not None or self.stage == 'importance'


def of_config(config: Any, inputs: Inputs) -> list[Program]:
  """Returns the programs of a config, in the order of its stages.

  Args:
    config: the whole config.
    inputs: its model and batches.

  Raises:
    ValueError: if a run has an unknown method.
  """
  found = []
  for stage in ('base', 'vanilla'):
    if stage == 'base' and inputs.model.config.text_config.hidden_size > 1024:
      continue  # a checkpoint is the base
    spec = config[stage]
    rows = inputs.rows(spec.stream)
    found.append(_trained(stage, methods.finetune()[0], rows, spec))
  if 'retrained' in config:  # as vanilla, of fewer people
    found.append(found[-1]._replace(stage='retrained'))
  sets = [('forget', config.saliency.forget), *config.saliency.preserve.items()]
  for name, parts in sets:
    found.append(Program('importance', name, inputs.rows(parts)))
  compared = 1 + max(map(len, config.saliency.protects.values()))
  found.append(Program('mask', '', Rows(0, 0, 0), others=compared))
  for name, run in config.runs.items():
    found += _unlearning(name, run, config.unlearn, inputs)
  tokens = config.evaluation.max_new_tokens
  prompts = inputs.prompts
  longer = prompts._replace(length=-(-(prompts.length + tokens) // 8) * 8)
  found.append(Program('evaluate', 'decode', prompts, others=tokens))
  found.append(Program('evaluate', 'score', longer))
  return found


def need(program: Program, model: Model, setting: Setting) -> Need:
  """Returns what a program needs on one device.

  Args:
    program: of ``of_config``.
    model: with its dtype and remat policy.
    setting: mesh and levers.
  """
  if program.turn is not None:
    return memory.of_turn(
      model,
      program.turn,
      program.rows,
      setting,
      program.options,
      mask=program.mask,
      reference=program.reference,
    )
  if program.stage == 'importance':
    return memory.of_importance(model, program.rows, setting)
  if program.stage == 'mask':
    return inference.of_mask(model, program.others, setting)
  return inference.of_answers(model, program.rows, setting, program.others)


def _trained(stage, turn, rows, spec) -> Program:
  """A step of base or vanilla."""
  return Program(stage, turn.split, rows, turn, _options(spec.optimizer))


def _unlearning(name, run, config, inputs) -> list[Program]:
  """The turns of a run."""
  turns = methods.make(run.method, **run.options)
  reference = any(turn.needs_reference for turn in turns)
  streams = {
    'forget': config.streams.forget,
    'retain': config.streams[run.retain],
  }
  return [
    Program(
      name,
      turn.split,
      inputs.rows(streams[turn.split]),
      turn,
      _options(config.optimizer),
      bool(run.mask),
      reference,
    )
    for turn in turns
  ]


def _options(optimizer) -> dict[str, Any]:
  """The options of an optimizer, hashable."""
  return {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in optimizer.to_dict().items()
  }
