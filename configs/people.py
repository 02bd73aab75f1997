"""Fictional people on two cores: the whole method in a few minutes.

  mmu pipeline --config=configs/people.py --workdir=runs/people
  mmu pipeline --config=configs/people.py:all --workdir=runs/people
  mmu pipeline --config=configs/people.py:fast --workdir=runs/fast
  mmu pipeline --config=configs/people.py:paper_exact --workdir=runs/exact

Sixty people with drawn portraits, six facts each; six are to be forgotten. A
LLaVA of 1.3 M parameters learns everybody (`vanilla`), or everybody but the
portraits of the six (`retrained`), and every method starts from `vanilla`.
`:all` adds variants of the methods to the same models; `:fast` takes a minute
and learns nothing; `:paper_exact` does what the published code did, its
learning rate of 1e-5 included, which is chosen for models of 7 B parameters.

The learning rates in `runs` were chosen by `mmu tune`, for every method by
the same rule, on six other people: see that command.
"""

import importlib.util
import pathlib

import ml_collections

# A config file is found by its path, and so is the one beside it.
_spec = importlib.util.spec_from_file_location(
  'choices', pathlib.Path(__file__).with_name('choices.py')
)
choices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(choices)
part, run = choices.part, choices.run
VARIANTS = ('full', 'all', 'fast', 'paper_exact')


def get_config(variant: str = 'full') -> ml_collections.ConfigDict:
  """Returns the config.

  Args:
    variant: 'full'; 'all', with more runs; 'fast', small in everything, for
      tests and notebooks; 'paper_exact', see `configs/choices.py`.
  """
  if variant not in VARIANTS:
    raise ValueError(
      f'the variant is one of {", ".join(VARIANTS)}; got {variant!r}.'
    )
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.labels = 'answer'
  config.update(choices.hardware())
  config.data = dict(
    name='people',
    num_people=60,
    num_forget=6,
    num_validation_forget=6,
    num_validation_retain=12,
    train_views=12,
    num_captioned=3000,
    num_faces=400,
    num_shapes=500,
  )
  config.model = model()

  # Everything that an image model and a text model know before they meet the
  # people: pictures of nobody described, and all that is known in text.
  config.base = dict(
    rounds=200,
    rate=3e-3,
    stream=(
      part('captions', size=48),
      part(*TEXT, size=14, questions=2),
      part('facts', size=2, questions=2),
    ),
    **training(),
  )
  config.vanilla = dict(
    rounds=240,
    rate=3e-3,
    stream=(
      part(*PORTRAITS, size=20, questions=4),
      part('general', size=8, questions=4),
      part(*TEXT, size=3, questions=4, weight=0.5),
      part('facts', size=1, questions=4, weight=0.5),
    ),
    **training(),
  )
  # The retrained model: vanilla's recipe without these splits.
  config.retrained = dict(without=('vqa/forget',))

  # Who is forgotten, and who stands for the others: in the reported runs, and
  # in those that choose learning rates (`mmu tune`), which never see the
  # reported people.
  config.groups = dict(
    forget=('forget',),
    retain=('retain', 'validation_forget', 'validation_retain'),
    everybody=GROUPS,
  )
  config.validation_groups = dict(
    forget=('validation_forget',),
    retain=('retain', 'validation_retain'),
    everybody=('retain', 'validation_forget', 'validation_retain'),
  )

  config.saliency = dict(
    granularity='batch',
    batches=48,  # of each set; 0 is one pass over it
    forget=(part('vqa:forget', size=2, questions=4),),
    preserve=dict(
      retain_vqa=(part('vqa:retain', size=2, questions=4),),
      text=(part('qa:everybody', size=2, questions=4),),
    ),
    # Which preserve sets protect which component.
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
    rounds=60,
    retain_rate=1e-4,
    optimizer=dict(name='hf_adamw'),
    clip_norm=1.0,
    exempt='',  # regex of leaves that no mask holds
    limits={},  # split -> how many turns at most
    # Nats per token of a retain turn, above which a run stops as collapsed:
    # by guessing among 32,000 tokens a model has 10.4.
    max_retain_loss=10.0,
    streams=dict(
      forget=(part('vqa:forget', size=6, questions=4),),
      retain=(
        part('vqa:retain', size=6, questions=4),
        part('qa:everybody', size=6, questions=4),
      ),
      retain_without_text=(part('vqa:retain', size=6, questions=4),),
    ),
    save_every=60,
    probe_every=15,
    probe_rows=48,
  )
  config.runs = runs() | (variants() if variant == 'all' else {})
  config.tune = dict(rates=(1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4), rows=256)
  config.evaluation = dict(max_new_tokens=12, batch_size=64)
  if variant == 'fast':
    make_fast(config)
  if variant == 'paper_exact':
    make_paper_exact(config)
  return config


GROUPS = ('forget', 'validation_forget', 'validation_retain', 'retain')
PORTRAITS = tuple(f'vqa/{group}' for group in GROUPS)
TEXT = tuple(f'qa/{group}' for group in GROUPS)


def training():
  """Optimizer and schedule of base and vanilla."""
  return dict(
    schedule='cosine',
    warmup=30,
    optimizer=dict(name='adamw', weight_decay=0.05, b2=0.98),
    clip_norm=1.0,
    save_every=100,
  )


def model():
  """A LLaVA of 1.3 M parameters; 48 x 48 pixels are 16 image tokens.

  `--config.model.path=DIR` takes a LLaVA-1.5 or Qwen2-VL checkpoint instead:
  its weights are then the base model, its tokenizer and image processor encode
  the people, and of the fields below only dtype, attention and remat count.
  """
  return dict(
    path='',
    # Of a checkpoint; 0 and False leave what it says. max_pixels bounds the
    # pictures of Qwen2-VL: 28 x 28 pixels are a token.
    processor=dict(max_pixels=0, min_pixels=0, own_tokenizer=False),
    name='llava',
    dtype='float32',
    attention='xla',
    remat='none',
    vision_config=dict(
      hidden_size=96,
      intermediate_size=384,
      num_hidden_layers=3,
      num_attention_heads=2,
      image_size=48,
      patch_size=12,
      embedding_std=0.5,
    ),
    text_config=dict(
      hidden_size=128,
      intermediate_size=344,
      num_hidden_layers=4,
      num_attention_heads=2,
      num_key_value_heads=2,
      embedding_std=0.3,
    ),
    vision_feature_layer=-1,
  )


def runs():
  """The methods and controls that are compared."""
  return dict(
    ga=run('ga', 2.5e-5),
    npo=run('npo', 2.5e-5),
    ga_diff=run('ga_diff', 1.25e-5),
    kl_min=run('kl_min', 1.25e-5),
    npo_retain=run('npo_retain', 1.25e-5),
    mmunlearner=run('mmunlearner', 5e-5, 'saliency'),
    mmunlearner_topk=run('mmunlearner', 1.25e-5, 'topk'),
    mmunlearner_random=run('mmunlearner', 1e-4, 'random'),
  )


def variants():
  """What becomes of them with other choices."""
  without = 'retain_without_text'
  return dict(
    mmunlearner_literal=run('mmunlearner', 5e-5, 'literal'),
    mmunlearner_strict=run('mmunlearner_strict', 5e-5, 'saliency'),
    mmunlearner_projected=run('mmunlearner_projected', 5e-5, 'saliency'),
    mmunlearner_no_text=run('mmunlearner', 5e-5, 'saliency', without),
    ga_diff_no_text=run('ga_diff', 1.25e-5, retain=without),
  )


def make_fast(config):
  """Shrinks everything, for tests and notebooks."""
  config.data.update(
    num_people=12,
    num_forget=2,
    num_validation_forget=1,
    num_validation_retain=2,
    train_views=3,
    num_captioned=60,
    num_faces=40,
    num_shapes=40,
  )
  config.base.update(rounds=10, warmup=2, save_every=4)
  config.vanilla.update(rounds=12, warmup=2, save_every=4)
  config.saliency.batches = 4
  config.unlearn.update(rounds=4, probe_every=2, probe_rows=16)
  config.tune.rates = (1e-4, 2e-4)
  with config.unlocked():
    config.runs = {
      name: config.runs[name] for name in ('ga_diff', 'npo', 'mmunlearner')
    }


def make_paper_exact(config):
  """The published recipe on these people: one epoch of their portraits."""
  unlearn, saliency = config.unlearn, config.saliency
  with config.unlocked():
    unlearn.streams = dict(
      forget=(part('vqa:forget', size=4),), retain=(part('vqa:retain', size=4),)
    )
    # Pictures and text are mixed in the batches of one preserve set.
    saliency.preserve = dict(
      retain_vqa=(part('vqa:retain', size=2),),
      retain_vqa_and_text=(
        part('vqa:retain', size=1),
        part('qa:everybody', size=1),
      ),
    )
    saliency.protects.language = ('retain_vqa_and_text',)
  pictures = lambda people: people * config.data.train_views
  retained = config.data.num_people - config.data.num_forget
  choices.paper_exact(
    config,
    'clear',
    forget_batches=-(-pictures(config.data.num_forget) // 4),
    retain_batches=-(-pictures(retained) // 4),
  )
