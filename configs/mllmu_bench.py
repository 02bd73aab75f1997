"""MLLMU-Bench: 25, 50 or 75 of 500 people are to be forgotten.

  mmu data check MLLMU-Bench
  mmu pipeline --config=mllmu_bench --workdir=runs/mllmu \
      --config.data.path=MLLMU-Bench --config.model.path=llava-1.5-7b-hf
  mmu pipeline --config=mllmu_bench:ratio=10 ...
  mmu pipeline --config=mllmu_bench:paper_exact,ratio=10 ...
  mmu pipeline --config=mllmu_bench:fast --workdir=runs/fast \
      --config.data.path=MLLMU-Bench                       # 2 minutes

MLLMU-Bench is the folder of MLLMMU/MLLMU-Bench of the hub. The training rows
are those of its config ft_Data; `--config.data.train_path` takes a folder of
MLLMMU/baseline_train_split. Sizes and rates are the published ones (learning
rate 1e-5, batches of 4, one epoch), with the questions about a picture packed
into one sequence. Hours and scores of 7 B models are not measured yet; `mmu
plan` says what a step computes. `:fast` trains a model of 1.3 M parameters,
which learns nothing in that time.
"""

from mmu_jax import recipes

PEOPLE = 500
# Training questions about the forget and the retain people.
QUESTIONS = {5: (381, 7323), 10: (770, 6934), 15: (1158, 6546)}
MOST = 19  # training questions about one picture


def get_config(variant=''):
  """Returns the config; the variant is as 'paper_exact,ratio=10'."""
  name, ratio = recipes.variant_and_ratio(variant, QUESTIONS)
  data = dict(
    name='mllmu_bench',
    path='',
    train_path='',
    ratio=ratio,
    # 'classification' is the published choice: it trains the preserve set
    # on questions that are scored.
    text='classification' if name == 'paper_exact' else 'training',
    holdout='one',
    retain_rows=0,
    processor='',
  )
  forget = PEOPLE * ratio // 100
  config = recipes.benchmark(
    data, forget=forget, retain=PEOPLE - forget, questions=MOST
  )
  if name == 'fast':
    recipes.make_fast(config)
  if name == 'paper_exact':
    forget, retain = QUESTIONS[ratio]
    # Five questions in text about each of the people.
    recipes.make_published(
      config, 'mllmu', forget=forget, retain=retain, text=2500 / retain
    )
  return config
