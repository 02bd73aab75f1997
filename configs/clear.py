"""CLEAR: 1, 5 or 10 % of 200 authors are to be forgotten.

  mmu data check CLEAR
  mmu pipeline --config=configs/clear.py --workdir=runs/clear \
      --config.data.path=CLEAR --config.model.path=qwen2-vl-7b
  mmu pipeline --config=configs/clear.py:ratio=10 ...
  mmu pipeline --config=configs/clear.py:paper_exact ...
  mmu pipeline --config=configs/clear.py:fast --workdir=runs/fast \
      --config.data.path=CLEAR

CLEAR is the folder of therem/CLEAR of the hub. Sizes and rates are the
published ones (learning rate 1e-5, batches of 4 pictures, one epoch); the
vanilla model also learns the questions of TOFU in text, as many a batch as
captions. `:paper_exact` also does what differs from the paper, and `:fast`
trains a model of 1.3 M parameters for a minute. No scores of 7 B models are
claimed here.
"""

import importlib.util
import pathlib

# A config file is found by its path, and so is the one beside it.
_spec = importlib.util.spec_from_file_location(
  'benchmark', pathlib.Path(__file__).with_name('benchmark.py')
)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)
part = benchmark.part

CAPTIONS = 3768
FORGET = {1: 35, 5: 188, 10: 379}  # captions of the forget set
TEXTS = 4000  # questions of TOFU


def get_config(variant=''):
  """Returns the config; the variant is as 'paper_exact,ratio=10'."""
  name, ratio = benchmark.parse(variant, FORGET)
  data = dict(
    name='clear',
    path='',
    ratio=ratio,
    published=False,
    retain_rows=400,
    processor='',
  )
  forget, retain = FORGET[ratio], CAPTIONS - FORGET[ratio]
  config = benchmark.make(data, forget=forget, retain=retain, questions=1)
  with config.unlocked():
    config.vanilla.stream = vanilla(1)
  if name == 'fast':
    benchmark.make_fast(config)
  if name == 'paper_exact':
    config.data.update(published=True, retain_rows=0)
    # Every question in text is there twice.
    with config.unlocked():
      config.vanilla.stream = vanilla(2)
    benchmark.make_paper_exact(
      config, 'clear', forget=forget, retain=retain, text=TEXTS / retain
    )
  return config


def vanilla(times):
  """Captions, and so many questions in text for each."""
  return (
    part('vqa:everybody', size=benchmark.BATCH),
    part('qa:everybody', size=times * benchmark.BATCH),
  )
