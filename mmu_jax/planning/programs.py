"""Programs of a job: everything its stages run on the devices, as shapes.

Turns, optimizers, splits and questions come from the stages. Only the rows of
a dataset that look longest are encoded. Without data the length of a row is
guessed from its questions.
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import pathlib
from typing import Any

from mmu_jax import inputs
from mmu_jax import lora
from mmu_jax import models
from mmu_jax import sharding
from mmu_jax.data.batches import batching
from mmu_jax.data.encoding import processors
from mmu_jax.data.encoding.patches import bucket
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError
from mmu_jax.evaluation.asking import together
from mmu_jax.models import Model
from mmu_jax.models import MODELS
from mmu_jax.models.hub import config as hub_config
from mmu_jax.planning.memory import abstract_mesh
from mmu_jax.planning.memory import Program
from mmu_jax.planning.memory import Rows
from mmu_jax.planning.memory import Setting
from mmu_jax.saliency import FORGET
from mmu_jax.settings import table as settings
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import scoring
from mmu_jax.stages.budgets import drawing
from mmu_jax.stages.budgets import plans
from mmu_jax.stages.budgets import run_rules
from mmu_jax.stages.budgets import settle as budgets
from mmu_jax.stages.budgets import streams

PUBLISHED = {n: c for f in MODELS.values() for n, c in f.published.items()}
TEXT = 64  # tokens of a question and its answer, where no data says it
TEXT_SPLITS = {'qa', 'facts'}  # kinds of splits without pictures
LONGEST = 8  # pictures, texts or questions that are encoded
Parts = Iterable[Mapping[str, Any]]


def read_job(
  config: Any, length: int = 0
) -> tuple[Setting, list[Program], list[str]]:
  """Returns the setting of a config, its programs in order, and notes.

  Args:
    config: the whole config; ``model.path`` may be a key of ``PUBLISHED``.
    length: tokens of every row; 0 for the lengths of the data.

  Raises:
    ValueError: if a run or model is unknown, or sizes are missing.
  """
  settings.check(config)
  sizes = sharding.axis_sizes(config.mesh)
  model, job, note = _open(config)
  config = job.config if job else budgets.settle(config, None, {})[0]
  image = _picture(model)[0]
  if length and length <= image:
    raise UserError(
      f'--length is at least {image + 1} tokens, for a picture and one more; '
      f'got {length}. Leave it out for the lengths of the data.'
    )
  notes = [f'rows have {length} tokens, as given' if length else note]
  if -1 in sizes.values():
    sizes = {axis: max(n, 1) for axis, n in sizes.items()}
    notes += [f'one device for {config.mesh}; give --config.mesh=fsdp=8 or so']
  if length or job is None:
    full = config.labels != 'answer'
    shape = functools.partial(_guess, model, length, full)
    asked = _guess_asked(model, config.evaluation, length)
  else:
    shape, asked = functools.partial(_measure, job), _measure_asked(job)
  levers = config.micro_batches, tuple(config.offload)
  setting = Setting(model, abstract_mesh(**sizes), *levers)
  return setting, _programs(config, model, shape, asked), notes


def _programs(config, model, shape, asked) -> list[Program]:
  """Programs of all stages; ``shape`` gives the rows of a stream."""
  trained = {} if config.model.path else {'base': (config.base, ())}
  trained['vanilla'] = config.vanilla, ()
  if config.get('retrained'):
    trained['retrained'] = config.vanilla, tuple(config.retrained.without)
  found, forward = [], model.forward
  trained = {k: v for k, v in trained.items() if v[0].rounds}
  for name, (spec, without) in trained.items():
    rows = shape(spec.stream, without)
    own = plans.adapters_of(spec, spec, model)
    plan = plans.training_plan(spec, forward=forward, stream=rows, lora=own)
    found += _turns(name, plan)
  sets = {FORGET: config.saliency.forget, **config.saliency.preserve}
  found += [Program('importance', k, shape(parts)) for k, parts in sets.items()]
  compared = 1 + max(map(len, config.saliency.protects.values()))
  found.append(Program('mask', '', count=compared))
  drawn = {k: shape(parts) for k, parts in config.unlearn.streams.items()}
  for name in config.runs:
    run = run_rules.run_settings(config, name)
    rows = {k: drawn[name] for k, name in drawing.streams_of(run).items()}
    rows[drawing.RELABELLED] = drawn['forget']  # pairs of answers
    plan = plans.unlearning_plan(
      config.unlearn,
      run,
      forward=forward,
      streams=rows,
      lora=plans.adapters_of(config.unlearn, run, model),
    )
    found += _turns(name, plan, bool(run.mask), run.reference != 'vanilla')
  new = {'decode': config.evaluation.max_new_tokens, 'score': 0}
  return found + [Program('evaluate', k, asked[k], count=new[k]) for k in asked]


def _turns(
  name, plan, mask: bool = False, apart: bool = False
) -> list[Program]:
  """A program for each turn of a training plan whose streams are ``Rows``."""
  reference, rows = any(t.needs_reference for t in plan.turns), plan.streams
  own: dict[str, Any] = {}
  if plan.lora:  # a reference that is not apart is the base
    kinds = lora.kinds_of(turn.masked for turn in plan.turns)
    own, reference = dict(lora=plan.lora, kinds=kinds), reference and apart
  beside = lambda t: {'beside': rows[t.beside]} if t.beside else {}
  held = plan.tx, mask, reference
  return [
    Program(name, t.split, rows[t.split], t, *held, **beside(t), **own)
    for t in plan.turns
  ]


def _open(config) -> tuple[Model, job_lib.Job | None, str]:
  """The model, a job to read rows with if there is data, and a note."""
  path = config.model.path
  ways = {k: config.model[k] for k in ('dtype', 'attention', 'remat')}
  guess = f'rows are guessed: image tokens, and {TEXT} for each question'
  if path in PUBLISHED:
    sizes = dataclasses.replace(PUBLISHED[path], **ways)
    return models.build(sizes), None, f'no data is read; {guess}'
  if path and not pathlib.Path(path).exists():
    known = f'Without a folder mmu plan knows {", ".join(PUBLISHED)}.'
    raise UserError(f'{inputs.no_folder(path, "model")}\n{known}')
  if not path and config.data.get('path', None) == '':
    raise UserError(
      'config.data.path is empty: give --config.data.path=..., or '
      '--config.model.path=llava-1.5-7b to plan without data.'
    )
  try:
    data, encoder, scorer, model = job_lib.load_world(config)
  except (UserError, OSError) as error:
    if not path:
      raise
    model = models.build(hub_config.read_config(path, ways))
    return model, None, f'no data ({str(error).splitlines()[0][:90]}); {guess}'
  config, _ = budgets.settle(config, data.train, config.groups)
  here = pathlib.Path()  # no workdir is read or written
  loaded = config, here, data, encoder, scorer, model, config.groups, '', here
  job = job_lib.Job(*loaded, None)
  forget = config.unlearn.streams.forget
  train = drawing.with_stand_ins(data.train, config.groups, forget)
  job = job._replace(data=data._replace(train=train))
  return model, job, 'rows are as long as the data says'


def _measure(job, parts: Parts, without: Sequence[str] = ()) -> Rows:
  """The rows that a stream draws; one of them is made."""
  drawn = [
    part._replace(rows=_longest(part, job.encoder.processor.images))
    for part in streams.draw_from(job, parts, without)
  ]
  first = lambda rows: range(1)
  stream = batching.Stream(drawn, job.encoder, seed=0, share=first)
  room = stream(0)['pixel_values'].shape[1]
  return Rows(stream.num_rows, stream.length, room, stream.most_counted)


def _longest(part: batching.Part, images: processors.Images) -> list[Row]:
  """Rows of the pictures, or texts, that look longest, and of the largest."""
  groups: dict[str, list[Row]] = {}
  for row in part.rows:
    groups.setdefault(row.picture_key or row.key, []).append(row)
  size = lambda row: len(row.question) + len(row.answer)
  total = lambda rows: sum(sorted(map(size, rows))[-part.questions :])
  kept = max(LONGEST, part.questions)
  # As many more as let epochs end at the same places of a sequence of texts.
  kept += (len(groups) - kept) % part.questions
  found = sorted(groups.values(), key=total)[-kept:]
  if part.rows and part.rows[0].picture is not None:
    grid = lambda rows: images.grid(*rows[0].picture.image.shape[:2])
    for size in (images.num_tokens, lambda grid: images.room([grid])):
      found.append(max(groups.values(), key=lambda rows: size(grid(rows))))
  return [row for group in found for row in group]


def _measure_asked(job) -> dict[str, Rows]:
  """Rows that are decoded and scored, and rows that are scored alone."""
  protocol, tasks = scoring.asked(job)
  prompt = lambda q: sum(len(row.question) for row in (q.row, *q.shots))
  given = lambda q: prompt(q) + len(q.row.answer)
  found: dict[str, Rows] = {}
  for questions in tasks.values():
    longest = {
      question.row.key: question
      for size in (prompt, given)
      for question in sorted(questions, key=size)[-LONGEST:]
    }
    for question in longest.values():
      made = protocol.ask(question, job.scorer)
      prompts = [made.example] if made else []
      answers = protocol.answers(question, job.scorer)
      row = together.pack_row(prompts, answers, job.scorer)
      room, counted = job.scorer.room(row.pictures), max(1, row.num_counted)
      sizes = bucket(row.num_tokens), room, bucket(counted)
      step = 'decode' if made else 'score'
      largest = map(max, sizes, found.get(step, (0, 0, 0, 0))[1:])
      found[step] = Rows(job.config.evaluation.batch_size, *largest)
  return found


def _guess(model, length: int, full: bool, parts: Parts, _=()) -> Rows:
  """The rows that a stream draws, where no data says it.

  All of a question's text may count; in ``full`` rows everything does.
  """
  tokens, picture = _picture(model)
  count = longest = room = texts = 0
  for part in parts:
    kinds = {split.replace(':', '/').split('/')[0] for split in part['splits']}
    seen = not kinds <= TEXT_SPLITS
    texts = max(texts, TEXT * part['questions'])
    longest = max(longest, seen * tokens + TEXT * part['questions'])
    room, count = max(room, seen * picture), count + part['size']
  length = length or -(-longest // 8) * 8
  return Rows(count, length, room, 0 if full else min(texts, length))


def _guess_asked(model, ask, length: int) -> dict[str, Rows]:
  """Prompts with given answers behind them, where no data says it."""
  part = dict(splits=['vqa'], size=ask.batch_size, questions=1)
  one, asked = _guess(model, length, False, [part]), ask.get('shots', 0) + 1
  longer = -(-(one.length * asked + ask.max_new_tokens) // 8) * 8
  return {'decode': Rows(one.count, longer, one.room * asked, one.counted)}


def _picture(model) -> tuple[int, int]:
  """Tokens and room of one ordinary picture."""
  family = MODELS[model.family]
  room = family.widths(model.config)['picture']
  return family.image_tokens(model.config, room), room
