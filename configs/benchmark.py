"""What the configs of the benchmarks share; `mllmu_bench.py` and `clear.py`
say what they add. As `choices.py`, it is no config by itself.

`data.path` is the folder of a benchmark as the hub has it (`mmu data check`
looks through it), `model.path` that of a LLaVA-1.5 or Qwen2-VL checkpoint.
"""

import importlib.util
import pathlib

import ml_collections


def load(name):
  """The config file of this name beside this one."""
  spec = importlib.util.spec_from_file_location(
    name, pathlib.Path(__file__).with_name(f'{name}.py')
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


choices = load('choices')
part, run = choices.part, choices.run
VARIANTS = ('full', 'fast', 'paper_exact')
BATCH = 4  # pictures of every batch, as published


def parse(variant, ratios):
  """The variant and the ratio of 'paper_exact,ratio=10'."""
  name, ratio = 'full', 5
  for word in filter(None, variant.split(',')):
    key, _, value = word.rpartition('=')
    if key == 'ratio' and value in map(str, ratios):
      ratio = int(value)
    elif word in VARIANTS:
      name = word
    else:
      raise ValueError(
        f'the variant is one of {", ".join(VARIANTS)}, and ratio= one of '
        f'{", ".join(map(str, ratios))}, with a comma between; got {word!r}.'
      )
  return name, ratio


def make(data, *, forget, retain, questions, rate=1e-5):
  """A config for a dataset with the splits vqa and qa, forget and retain.

  Args:
    data: its options.
    forget: pictures of the forget set.
    retain: of the retain set.
    questions: of a picture in one sequence: they share its encoding.
    rate: the learning rate of everything, as published.
  """
  forget, retain = batches(forget), batches(retain)
  pictured = lambda role: part(f'vqa:{role}', size=BATCH, questions=questions)
  text = part('qa:everybody', size=BATCH, questions=questions)
  training = dict(
    schedule='linear',
    warmup=0,
    optimizer=dict(name='hf_adamw'),
    clip_norm=1.0,
    save_every=200,
  )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.labels = 'answer'
  config.update(choices.hardware())
  config.data = data
  config.model = load('people').model() | dict(dtype='bfloat16', remat='full')
  # Of small models alone: a checkpoint is the base.
  config.base = dict(rounds=100, rate=3e-3, stream=(text,), **training)
  config.vanilla = dict(
    rounds=forget + retain,
    rate=rate,
    stream=(pictured('everybody'),),
    **training,
  )
  config.retrained = dict(without=('vqa/forget',))
  config.groups = dict(
    forget=('forget',), retain=('retain',), everybody=('forget', 'retain')
  )
  config.saliency = dict(
    granularity='batch',
    batches=retain,
    forget=(pictured('forget'),),
    preserve=dict(retain_vqa=(pictured('retain'),), text=(text,)),
    protects=dict(
      vision=('retain_vqa',),
      projector=('retain_vqa',),
      language=('retain_vqa', 'text'),
    ),
    threshold=1.0,
    normalize=True,  # False is the published ratio
    ties_are_salient=False,  # True is the published rule
    # 'importances' are two float32 trees and more; 'log_ratio' is a byte per
    # weight, enough to see what other thresholds would select.
    keep='importances',
  )
  config.unlearn = dict(
    rounds=retain,  # one epoch
    retain_rate=rate,
    optimizer=dict(name='hf_adamw'),
    clip_norm=1.0,
    exempt='',
    limits={},
    # Nats per token of a retain turn, above which a run stops as collapsed:
    # by guessing among 32,000 tokens a model has 10.4.
    max_retain_loss=10.0,
    streams=dict(
      forget=(pictured('forget'),),
      retain=(pictured('retain'),),
      retain_and_text=(pictured('retain'), text),
    ),
    save_every=retain,
    probe_every=max(1, retain // 4),
    probe_rows=48,
  )
  config.runs = runs(rate, forget, retain)
  config.evaluation = dict(
    max_new_tokens=50,
    batch_size=16,
    protocol='',  # '' is 'fixed'; 'official' is the published one
    shots=0,  # people whose questions stand before each question
    # Of factuality, by an OpenAI-compatible endpoint; no url: none is asked.
    judge=dict(
      url='',
      model='',
      key_variable='',  # names the environment variable with the key
      tries=5,
      parallel=4,
      timeout=60.0,
      first_wait=1.0,
    ),
  )
  return config


def runs(rate, forget, retain):
  """The methods and controls, with the forget set seen once."""
  alone = dict(rate=rate, rounds=forget)
  pairs = dict(rate=rate, forget_every=max(1, retain // forget))
  return dict(
    ga=run('ga', **alone),
    npo=run('npo', **alone),
    ga_diff=run('ga_diff', **pairs),
    kl_min=run('kl_min', **pairs),
    mmunlearner=run('mmunlearner', mask='saliency', **pairs),
    mmunlearner_topk=run('mmunlearner', mask='topk', **pairs),
    mmunlearner_random=run('mmunlearner', mask='random', **pairs),
  )


def batches(rows, size=BATCH):
  """How many batches an epoch has; the last may be smaller."""
  return -(-rows // size)


def make_fast(config):
  """A small model and a few rounds, for a folder of any size and for tests."""
  config.data.processor = 'small'
  if 'retain_rows' in config.data:
    config.data.retain_rows = 8
  config.model = load('people').model()
  config.base.update(rounds=10, rate=3e-3, save_every=5)
  config.vanilla.update(rounds=10, rate=3e-3, save_every=5)
  config.saliency.batches = 4
  config.unlearn.update(
    rounds=4, retain_rate=1e-4, save_every=4, probe_every=2, probe_rows=8
  )
  config.evaluation.max_new_tokens = 8
  with config.unlocked():
    config.runs = dict(
      ga_diff=run('ga_diff', 1e-4),
      mmunlearner=run('mmunlearner', 1e-4, 'saliency'),
    )


def make_paper_exact(config, benchmark, *, forget, retain, text):
  """The published recipe, one question a row.

  Args:
    config: gets it.
    benchmark: 'mllmu' or 'clear'.
    forget: rows of the forget set.
    retain: rows of the retain set.
    text: how many rows in text there are for each with a picture, where the
      preserve set of the language model mixes them.
  """
  size = choices.IMPORTANCE_BATCH[benchmark]
  mixed = max(1, min(size - 1, round(size * text / (1 + text))))
  saliency, unlearn = config.saliency, config.unlearn
  with config.unlocked():
    saliency.preserve = dict(
      retain_vqa=(part('vqa:retain', size=size),),
      retain_vqa_and_text=(
        part('vqa:retain', size=size - mixed),
        part('qa:everybody', size=mixed),
      ),
    )
    saliency.protects.language = ('retain_vqa_and_text',)
    unlearn.streams = dict(
      forget=(part('vqa:forget', size=BATCH),),
      retain=(part('vqa:retain', size=BATCH),),
    )
  forget, retain = batches(forget), batches(retain)
  config.vanilla.rounds = forget + retain
  saliency.batches = retain * BATCH // size
  choices.paper_exact(
    config, benchmark, forget_batches=forget, retain_batches=retain
  )
  config.evaluation.protocol = 'official'
