"""MLLMU-Bench: 25, 50 or 75 of 500 people are to be forgotten.

  mmu data check MLLMU-Bench
  mmu pipeline --config=configs/mllmu_bench.py --workdir=runs/mllmu \
      --config.data.path=MLLMU-Bench --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=configs/mllmu_bench.py:ratio=10 ...
  mmu pipeline --config=configs/mllmu_bench.py:paper_exact,ratio=10 ...
  mmu pipeline --config=configs/mllmu_bench.py:fast --workdir=runs/fast \
      --config.data.path=MLLMU-Bench

MLLMU-Bench is the folder of MLLMMU/MLLMU-Bench of the hub. The training rows
are those of its config ft_Data; `--config.data.train_path` takes a folder of
MLLMMU/baseline_train_split. Sizes and rates are the published ones (learning
rate 1e-5, batches of 4, one epoch), with the questions about a picture packed
into one sequence; `:paper_exact` also does what differs from the paper, and
`:fast` trains a model of 1.3 M parameters for a minute. No scores of 7 B
models are claimed here.
"""

import importlib.util
import pathlib

# A config file is found by its path, and so is the one beside it.
_spec = importlib.util.spec_from_file_location(
  'benchmark', pathlib.Path(__file__).with_name('benchmark.py')
)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)

PEOPLE = 500
# Training questions about the forget and the retain people.
QUESTIONS = {5: (381, 7323), 10: (770, 6934), 15: (1158, 6546)}
MOST = 19  # training questions about one picture


def get_config(variant=''):
  """Returns the config; the variant is as 'paper_exact,ratio=10'."""
  name, ratio = benchmark.parse(variant, QUESTIONS)
  data = dict(
    name='mllmu_bench',
    path='',
    train_path='',
    ratio=ratio,
    # 'classification' is the published choice: it trains the preserve set
    # on questions that are scored.
    text='training',
    holdout='one',
    retain_rows=0,
    processor='',
  )
  forget = PEOPLE * ratio // 100
  config = benchmark.make(
    data, forget=forget, retain=PEOPLE - forget, questions=MOST
  )
  if name == 'fast':
    benchmark.make_fast(config)
  if name == 'paper_exact':
    config.data.text = 'classification'
    forget, retain = QUESTIONS[ratio]
    # Five questions in text about each of the people.
    benchmark.make_paper_exact(
      config, 'mllmu', forget=forget, retain=retain, text=2500 / retain
    )
  return config
