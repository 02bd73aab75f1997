"""The commands on a checkpoint: they need no config."""

import argparse
import time

from mmu_jax.commands.command import Command
from mmu_jax.commands.command import filled
from mmu_jax.errors import UserError

_DTYPES = ('float32', 'bfloat16', 'float16')


def _add_convert(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``convert``."""
  parser.add_argument(
    '--from',
    required=True,
    dest='source',
    type=filled,
    metavar='DIR',
    help='a checkpoint, Hugging Face or Orbax; or a GGUF file',
  )
  parser.add_argument(
    '--to',
    required=True,
    dest='target',
    type=filled,
    metavar='DIR',
    help='a new folder for the other form',
  )
  parser.add_argument(
    '--like',
    type=filled,
    metavar='DIR',
    help='for the way back: the Hugging Face checkpoint that the model came '
    'from. Default: the source of `mmu convert`, if it made the Orbax folder',
  )
  parser.add_argument(
    '--adapter',
    type=filled,
    metavar='DIR',
    help='a LoRA adapter of PEFT, to merge into a Hugging Face checkpoint',
  )
  parser.add_argument(
    '--tower',
    type=filled,
    metavar='DIR',
    help='a LLaVA, as for `mmu ask --params`, whose vision tower the language '
    'model of a GGUF file gets',
  )
  parser.add_argument(
    '--dtype',
    choices=_DTYPES,
    help="dtype of the result. Default: the source's, and on the way back the "
    "Hugging Face checkpoint's",
  )


def _convert(args: argparse.Namespace) -> None:
  """Converts a checkpoint and names the folder that was written."""
  from mmu_jax.models.hub import convert

  started = time.time()
  options = dict(like=args.like, dtype=args.dtype, adapter=args.adapter)
  if args.tower:
    from mmu_jax import stages

    options['tower'] = stages.load_model(args.tower)
  print(convert.convert(args.source, args.target, **options))
  print(f'mmu convert: {time.time() - started:.0f} s')


def _add_ask(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``ask``."""
  parser.add_argument('question', nargs='*', metavar='QUESTION')
  for name, kind, said in (
    (
      'params',
      'DIR',
      'checkpoint, as runs/people/vanilla/params or from a hub',
    ),
    ('workdir', 'DIR', 'folder of a job, in place of --params'),
    ('run', 'NAME', 'model of the job: base, vanilla, retrained, or a run'),
    ('image', 'FILE', 'picture that is asked about'),
    ('like', 'DIR', 'Hugging Face checkpoint that an Orbax folder came from'),
  ):
    parser.add_argument(f'--{name}', type=filled, metavar=kind, help=said)
  parser.add_argument('--dtype', choices=_DTYPES, default='float32')
  for name, value in (('alternatives', 4), ('max_new_tokens', 64)):
    parser.add_argument(f'--{name}', type=int, default=value, metavar='N')


def _ask(args: argparse.Namespace) -> None:
  """Asks a model; prints its answer, and the alternatives below."""
  question = ' '.join(args.question)
  if not question.strip():
    raise UserError('there is no question: mmu ask --params=DIR "Who is this?"')
  given = [n for n in ('params', 'workdir', 'run') if getattr(args, n)]
  if given not in (['params'], ['workdir', 'run']):
    raise UserError(
      'which model is asked? Give --params=DIR, or both --workdir=DIR and '
      '--run=NAME.'
    )
  from mmu_jax import inputs

  if args.image:
    inputs.check_file(args.image)
  import jax

  from mmu_jax import evaluation
  from mmu_jax import sharding
  from mmu_jax import stages

  if args.params:
    model = stages.load_model(args.params, like=args.like, dtype=args.dtype)
  else:
    model = stages.load_run(args.workdir, args.run)
  with jax.set_mesh(sharding.make_mesh('fsdp=-1')):
    replies = evaluation.ask(
      model,
      question,
      args.image,
      alternatives=args.alternatives,
      max_new_tokens=args.max_new_tokens,
    )
  shown = [r.text + (' ...' if not r.ended else '') for r in replies]
  print(f'{shown[0]}\n\nprobability  answer, then alternatives')
  for reply, text in zip(replies, shown):
    print(f'{reply.probability:11.4f}  {text or "(nothing)"}')


def _add_inspect(parser: argparse.ArgumentParser) -> None:
  """Adds the arguments of ``inspect``."""
  parser.add_argument(
    'path', type=filled, metavar='DIR', help='folder of a checkpoint'
  )


def _inspect(args: argparse.Namespace) -> None:
  """Prints the tables of a checkpoint."""
  import rich

  from mmu_jax.models.hub import inspection

  for part in inspection.content_tables(inspection.inspect(args.path)):
    rich.print(part)


COMMANDS = (
  Command(
    'ask',
    'ask a model one question, about an image or in text',
    """
  mmu ask --params=llava-1.5-7b-hf --image=ada.png "Who is this?"
  mmu ask --workdir=runs/people "What city does Omar Popov live in?"
  mmu ask --params=runs/people/unlearned/npo/params --image=ada.png \\
      "Who is this?"

The question is put by the chat template and nothing more, and the answer is
decoded greedily. Its alternatives are the next likeliest first tokens, each
continued greedily, by falling probability; there may be likelier answers that
begin as these do. A probability is of the whole text and its end, under the
model itself, without a repetition penalty. A text that ends in ... was cut off
by --max_new_tokens. --dtype is for the parameters of a Hugging Face folder.""",
    _add_ask,
    _ask,
  ),
  Command(
    'convert',
    'convert a checkpoint: Hugging Face to Orbax, or back',
    """
  mmu convert --from=llava-1.5-7b-hf --to=llava-orbax
  mmu convert --from=llava-orbax --to=llava-again
  mmu convert --from=runs/people/unlearned/mmunlearner/params \\
      --to=unlearned-hf --like=llava-1.5-7b-hf
  mmu convert --from=llava-1.5-7b-hf --adapter=adapter --to=merged-hf
  mmu convert --from=runs/people/unlearned/ga_diff_lora/adapters \\
      --to=adapter --like=vanilla-hf
  mmu convert --from=SmolLM2-135M-Instruct.Q4_1.gguf --to=smol-llava \\
      --tower=runs/people/base/params

A folder with config.json is Hugging Face; a folder with numbered steps is
Orbax. The way back writes the files that serving software loads, in the names
and with the tokenizer of the source checkpoint. With --adapter, a Hugging Face
folder becomes one with the adapter merged. The adapters of a run without a mask
become a folder that PEFT loads over --like. A GGUF file of SmolLM2 becomes the
decoder of a LLaVA with the vision tower of --tower and a random projector.""",
    _add_convert,
    _convert,
  ),
  Command(
    'inspect',
    'show what a checkpoint holds: components, shapes, dtypes, memory',
    """
  mmu inspect llava-1.5-7b-hf
  mmu inspect runs/people/vanilla/params

Reads headers alone, so it takes a second for a model of any size.""",
    _add_inspect,
    _inspect,
  ),
)
