"""What the command line takes: its commands, their options and examples."""

import argparse

COMMANDS = {
  'pipeline': (
    'run every stage in order; what exists is skipped',
    """
  mmu pipeline --config=configs/people.py --workdir=runs/people
  mmu pipeline --config=configs/people.py --workdir=runs/seed1 --config.seed=1
  mmu pipeline --config=configs/people.py:fast --workdir=runs/fast

Stop it at any time; the same command goes on where it was.""",
  ),
  'train': (
    'train one model: base, vanilla, retrained, or a run of the config',
    """
  mmu train --config=configs/people.py --workdir=runs/people --run=base
  mmu train --config=configs/people.py --workdir=runs/people --run=vanilla
  mmu train --config=configs/people.py --workdir=runs/people \\
      --run=mmunlearner

vanilla and retrained start from base; every other run starts from vanilla,
and makes the mask that it needs if `mmu saliency` has not.""",
  ),
  'saliency': (
    'measure importances at vanilla and make the masks',
    """
  mmu saliency --config=configs/people.py --workdir=runs/people

Writes importance/ and mask/, with a note.json that states density and ties.""",
  ),
  'evaluate': (
    'ask models the questions of every task and score the answers',
    """
  mmu evaluate --config=configs/people.py --workdir=runs/people
  mmu evaluate --config=configs/people.py --workdir=runs/people \\
      --run=vanilla --run=mmunlearner

Writes predictions/ and results.jsonl and prints the table.""",
  ),
  'report': (
    'write plots and report.html from the scores',
    """
  mmu report --config=configs/people.py --workdir=runs/people""",
  ),
  'tune': (
    'try the learning rates of the config on validation people',
    """
  mmu tune --config=configs/people.py --workdir=runs/people

Needs vanilla. Prints S for every run and rate; the best ones belong into the
config by hand.""",
  ),
  'plan': (
    'say what a job needs of each device, before it is launched',
    """
  mmu plan --config=configs/people.py --mesh=fsdp=8 --compile
  mmu plan --config=configs/mllmu_bench.py --model=llava-1.5-7b \\
      --mesh=fsdp=8 --hbm=16GiB --chip=v5e

Reads no weights and needs no devices. Data may be missing: then a row has its
image tokens and 64 for each question (or --length). Says what every stage
holds, which one peaks, the smallest mesh that fits, what each lever saves,
and whether computing or moving takes longer. --compile asks XLA too, which
takes seconds for each step. GiB are of one device; take 10 % more than an
estimate.""",
  ),
  'doctor': (
    'say whether the machines of a job can run it',
    """
  mmu doctor
  mmu doctor --config=configs/people.py --workdir=runs/people --mesh=fsdp=-1
  srun mmu doctor --config=... --workdir=...

Run it in every process of a job, as the job itself: by the same launcher. Says
which devices each process sees, whether the mesh fits them, how long a sum
over all of them takes, whether versions are alike, whether every process reads
the same dataset, checkpoint and workdir, and whether the disk has room. The
exit code is 1 if the job would fail.""",
  ),
  'data': (
    'check a dataset on disk before a job reads it',
    """
  mmu data check MLLMU-Bench
  mmu data check CLEAR

Says what the folder is and how many rows it has, and every problem at once:
missing columns, pictures that cannot be read, empty answers, people in both
forget and retain, pictures and texts that stand in both. The exit code is 1 if
there is an error among them.""",
  ),
  'convert': (
    'convert a checkpoint: Hugging Face to Orbax, or back',
    """
  mmu convert --from=llava-1.5-7b-hf --to=llava-orbax
  mmu convert --from=llava-orbax --to=llava-again
  mmu convert --from=runs/people/unlearned/mmunlearner/params \\
      --to=unlearned-hf --like=llava-1.5-7b-hf

A folder with config.json is Hugging Face; a folder with numbered steps is
Orbax. The way back writes the files that serving software loads, in the names
and with the tokenizer of the source checkpoint.""",
  ),
  'inspect': (
    'show what a checkpoint holds: components, shapes, dtypes, memory',
    """
  mmu inspect llava-1.5-7b-hf
  mmu inspect runs/people/vanilla/params

Reads headers alone, so it takes a second for a model of any size.""",
  ),
}


ON_FILES = ('data', 'convert', 'inspect')  # they need no config


def parser() -> argparse.ArgumentParser:
  """The commands and what they take; each explains itself by examples."""
  made = argparse.ArgumentParser(
    prog='mmu',
    description='Machine unlearning for multimodal LLMs, in JAX.',
    epilog='mmu COMMAND --help shows examples.',
  )
  commands = made.add_subparsers(
    dest='command', required=True, metavar='COMMAND'
  )
  for name, (title, examples) in COMMANDS.items():
    command = commands.add_parser(
      name,
      help=title,
      description=title[0].upper() + title[1:] + '.',
      epilog='examples:' + examples,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )
    if name == 'convert':
      _add_convert(command)
    elif name == 'inspect':
      command.add_argument('path', metavar='DIR', help='a checkpoint folder')
    elif name == 'data':
      command.add_argument('action', choices=('check',))
      command.add_argument('path', metavar='DIR', help='of the dataset')
    elif name == 'plan':
      _add_plan(command)
    elif name == 'doctor':
      _add_doctor(command)
    else:
      _add_stage(command, name)
  return made


def _add_plan(command: argparse.ArgumentParser) -> None:
  """What ``plan`` takes."""
  _add_config(command, required=True)
  for flag, text in {
    '--model': 'llava-1.5-7b, llava-1.5-13b, qwen2-vl-2b, qwen2-vl-7b, or a '
    'folder with config.json; left out, that of the config',
    '--mesh': 'as data=2,fsdp=4, with every size; left out, that of the '
    'config, or one device',
    '--hbm': 'memory of a device, as 16GiB',
    '--chip': 'v4, v5e, v5p, v6e, a100, h100 or h200, for times',
  }.items():
    command.add_argument(flag, default='', help=text)
  command.add_argument(
    '--length', type=int, default=0, metavar='TOKENS', help='of every row'
  )
  command.add_argument(
    '--compile', action='store_true', help="print XLA's numbers too"
  )


def _add_doctor(command: argparse.ArgumentParser) -> None:
  """What ``doctor`` takes."""
  _add_config(command, required=False)
  command.add_argument(
    '--workdir', default='', metavar='DIR', help='of the job'
  )
  command.add_argument(
    '--mesh', default='', help='instead of that of the config'
  )
  _add_processes(command)


def _add_config(command: argparse.ArgumentParser, *, required: bool) -> None:
  """The config of a job."""
  command.add_argument(
    '--config',
    required=required,
    default='',
    metavar='FILE[:VARIANT]',
    help='Python file with get_config(); any of its fields can be set, '
    'as in --config.seed=1',
  )


def _add_stage(command: argparse.ArgumentParser, name: str) -> None:
  """What the stages take."""
  _add_config(command, required=True)
  command.add_argument(
    '--workdir',
    required=True,
    metavar='DIR',
    help='where the job keeps all that it makes',
  )
  command.add_argument(
    '--resume',
    choices=('auto', 'never'),
    default='auto',
    help='auto, the default, goes on where an earlier call was stopped; '
    'never refuses a workdir where this command has begun',
  )
  _add_processes(command)
  if name in ('train', 'evaluate'):
    command.add_argument(
      '--run',
      required=name == 'train',
      action='append' if name == 'evaluate' else 'store',
      metavar='NAME',
      help='vanilla, retrained, or a key of config.runs; may be given again'
      if name == 'evaluate'
      else 'base, vanilla, retrained, or a key of config.runs',
    )


def _add_processes(command: argparse.ArgumentParser) -> None:
  """What says how several processes find each other."""
  group = command.add_argument_group(
    'several processes',
    'found by themselves under SLURM, Open MPI, Cloud TPU and Kubernetes '
    'JobSet; elsewhere give all three (or MMU_COORDINATOR, '
    'MMU_NUM_PROCESSES and MMU_PROCESS_ID)',
  )
  group.add_argument('--coordinator', metavar='HOST:PORT')
  group.add_argument('--num_processes', type=int, metavar='N')
  group.add_argument('--process_id', type=int, metavar='I')


def _add_convert(command: argparse.ArgumentParser) -> None:
  """What ``convert`` takes."""
  command.add_argument(
    '--from',
    required=True,
    dest='source',
    metavar='DIR',
    help='a checkpoint, Hugging Face or Orbax',
  )
  command.add_argument(
    '--to',
    required=True,
    dest='target',
    metavar='DIR',
    help='a new folder for the other form',
  )
  command.add_argument(
    '--like',
    metavar='DIR',
    help='for the way back: the Hugging Face checkpoint that the model came '
    'from (found by itself if `mmu convert` made the Orbax folder)',
  )
  command.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16', 'float16'),
    help='of the result; by default that of the source, and on the way back '
    'that of the Hugging Face checkpoint',
  )
