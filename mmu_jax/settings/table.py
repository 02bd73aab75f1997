"""Every field of a config: type, range, and meaning.

A dataset, method or optimizer of your own may have further options; they are
plain values, checked by the function that takes them. A whole part of your own
is one more entry here::

  table.TABLE['relearn.rounds'] = (rules.whole(1), 'rounds of the attack')
"""

from collections.abc import Mapping
import math
import re
from typing import Any
import urllib.parse

from mmu_jax.errors import UserError
from mmu_jax.settings import attacking
from mmu_jax.settings import rules
from mmu_jax.settings import sizes
from mmu_jax.settings.learning import COUNT
from mmu_jax.settings.learning import LORA
from mmu_jax.settings.learning import MASK
from mmu_jax.settings.learning import NAMES
from mmu_jax.settings.learning import ONE
from mmu_jax.settings.learning import OPTIMIZER
from mmu_jax.settings.learning import OR_INF
from mmu_jax.settings.learning import PART
from mmu_jax.settings.learning import POSITIVE
from mmu_jax.settings.learning import RATE
from mmu_jax.settings.learning import RUN
from mmu_jax.settings.learning import SALIENCY
from mmu_jax.settings.learning import TRAINING
from mmu_jax.settings.rules import ANY
from mmu_jax.settings.rules import below
from mmu_jax.settings.rules import FLAG
from mmu_jax.settings.rules import number
from mmu_jax.settings.rules import one_of
from mmu_jax.settings.rules import Rule
from mmu_jax.settings.rules import several
from mmu_jax.settings.rules import Table
from mmu_jax.settings.rules import TEXT
from mmu_jax.settings.rules import whole


def check(config: Any) -> None:
  """Raises unless every field of a config is known, in its range, and there.

  Called before anything is computed or written. Messages show no value that
  may be a key.

  Args:
    config: whole config, a ConfigDict or nested dicts.

  Raises:
    ValueError: names the fields, their rules and their values.

  Example:
    >>> from mmu_jax import recipes
    >>> config = recipes.load('people:fast')
    >>> check(config)
    >>> config.seed = -1
    >>> check(config)
    Traceback (most recent call last):
    ...
    mmu_jax.errors.UserError: config.seed is a whole number >= 0 and <= \
2147483646 (seed of data, batches and random weights); got -1.
  """
  plain = config.to_dict() if hasattr(config, 'to_dict') else config
  plain = {k: v for k, v in plain.items() if v is not None or k not in MAY_LACK}
  rules.check(plain, TABLE, 'config')
  for name in ('base', 'vanilla'):
    _check_warmup(name, plain.get(name, {}))
  rounds = plain.get('unlearn', {}).get('rounds')
  for name, run in plain.get('runs', {}).items():
    run = run | {'rounds': run.get('rounds') or rounds}
    _check_warmup(f'runs.{name}', run)
  there = [group for group in _OPTIONAL if _has(plain, group)]
  optional = [p for p in TABLE for group in there if p.startswith(f'{group}.')]
  rules.check_there(plain, (*REQUIRED, *optional), TABLE, 'config')


def _has(plain: Any, group: str) -> bool:
  """Whether nested dicts have a group."""
  for word in group.split('.'):
    if not isinstance(plain, Mapping) or word not in plain:
      return False
    plain = plain[word]
  return True


def _check_warmup(place: str, spec: Mapping[str, Any]) -> None:
  """Raises UserError where the rate of a training never reaches its height."""
  warmup, rounds = spec.get('warmup'), spec.get('rounds')
  if rounds and warmup and warmup > rounds:
    raise UserError(
      f'config.{place}.warmup is a whole number >= 0 and <= config.{place}.'
      f'rounds, which is {rounds}: the rate would never reach its height; '
      f'got {warmup}.'
    )


def restored(value: Any, node: Any = None) -> Any:
  """Returns settings as they were before they became JSON.

  Lists become tuples, and the text 'inf' of a number infinity.

  Args:
    value: config from a workdir's ``config.json``, or a part of it.
    node: part of the table for it; None for the whole.

  Example:
    >>> restored({'unlearn': {'clip_norm': 'inf'}, 'offload': []})
    {'unlearn': {'clip_norm': inf}, 'offload': ()}
  """
  node = rules.rule_of(TABLE, ()) if node is None else node
  if isinstance(value, dict):
    inner = node if isinstance(node, dict) else {}
    part = lambda key: inner.get(key, inner.get('*', {}))
    return {key: restored(x, part(key)) for key, x in value.items()}
  if isinstance(value, list):
    part = node.get('#', {}) if isinstance(node, dict) else node
    return tuple(restored(x, part) for x in value)
  infinite = isinstance(node, tuple) and node[0].high == math.inf
  return math.inf if infinite and value == 'inf' else value


def _is_address(text: str) -> bool:
  """Whether a text is '' or a URL with nothing in it that may be a key."""
  try:
    parts = urllib.parse.urlsplit(text)
    more = parts.username or parts.password or parts.query or parts.fragment
    return not text or bool(
      parts.scheme in ('http', 'https') and parts.hostname and not more
    )
  except ValueError:
    return False


def _is_pattern(text: str) -> bool:
  """Whether a text is a regular expression."""
  try:
    re.compile(text)
  except re.error:
    return False
  return True


def _is_variable(text: str) -> bool:
  """Whether a text is '' or a name that a variable of a shell may have."""
  name = re.fullmatch(r'[A-Z_][A-Z0-9_]{0,63}', text)
  return not text or bool(name) and not rules.may_hold_secret(text)


_GROUPS: Table = {'*': (NAMES, 'groups of people with this role')}
JUDGE: Table = {
  'url': (
    Rule(
      str,
      test=_is_address,
      words='an address that begins with http:// or https:// and holds no '
      "user, password or query, or ''",
      secret=True,
    ),
    "endpoint that scores facts; '': none",
  ),
  'model': (TEXT, 'name of the judge at the endpoint'),
  'key_variable': (
    Rule(
      str,
      test=_is_variable,
      words='the name of an environment variable (capitals, digits and _)',
      secret=True,
    ),
    'variable that holds the key, never the key itself',
  ),
  'tries': (ONE, 'most attempts at one question'),
  'parallel': (ONE, 'questions at a time'),
  'timeout': (POSITIVE, 'seconds to wait for an answer'),
  'first_wait': (number(0), 'seconds before the second try'),
}

TABLE: Table = {
  'seed': (whole(0, 2**31 - 2), 'seed of data, batches and random weights'),
  'labels': (one_of('answer', 'full', 'published'), 'tokens that are learned'),
  'mesh': (TEXT, 'devices of each axis, as data=2,fsdp=4; -1: the others'),
  'micro_batches': (ONE, 'parts of a batch, computed one after the other'),
  'offload': (
    several(one_of('reference'), 0),
    'trees that wait in the memory of the host',
  ),
  'checkpoints.keep_last': (ONE, 'newest checkpoints that are kept'),
  'checkpoints.keep_every': (
    COUNT,
    'rounds between checkpoints kept for good; 0: none',
  ),
  'checkpoints.importance_every': (COUNT, 'batches between saves; 0: none'),
  # Data.
  'data.name': (TEXT, 'people, mllmu_bench, clear, own, tfds, or your own'),
  'data.path': (TEXT, 'folder or file of the dataset'),
  'data.train_path': (TEXT, 'folder of the training rows of MLLMU-Bench'),
  'data.processor': (
    one_of('', 'small'),
    "tokenizer and images; '': the checkpoint's",
  ),
  'data.ratio': (whole(1, 99), 'percentage that is to be forgotten'),
  'data.retain_rows': (COUNT, 'retain questions that are scored; 0: all'),
  'data.published': (FLAG, 'draw the caption questions as published'),
  'data.text': (
    one_of('training', 'classification', 'generation', 'none'),
    'source of the training rows in text',
  ),
  'data.outside': (FLAG, 'images may lie outside of the folder of the file'),
  'data.holdout': (one_of('one', 'all'), 'new pictures of each person'),
  'data.num_people': (ONE, 'people in all'),
  'data.num_forget': (ONE, 'people to forget'),
  'data.num_validation_forget': (
    ONE,
    'people to forget, for choosing settings',
  ),
  'data.num_validation_retain': (ONE, 'people to keep, for choosing settings'),
  'data.train_views': (ONE, 'portraits of each person to train on'),
  'data.holdout_views': (ONE, 'further portraits, never trained on'),
  'data.validation_views': (ONE, 'portraits, for choosing settings'),
  'data.num_captioned': (COUNT, 'pictures of nobody with a description'),
  'data.num_faces': (whole(7), 'faces of nobody to be asked about'),
  'data.num_shapes': (whole(7), 'pictures of shapes to be asked about'),
  'data.look_alikes': (FLAG, 'those to forget look like others'),
  'data.short_answers': (FLAG, 'answers about people are the fact alone'),
  'data.known_facts': (FLAG, 'plain facts that a language model knows'),
  'data.*': (ANY, 'another option of the dataset'),
  'groups.*': _GROUPS['*'],
  'validation_groups.*': _GROUPS['*'],
  # Model.
  'model.name': (TEXT, 'family of a small model, a key of models.MODELS'),
  'model.path': (TEXT, "folder of a checkpoint; '': a small model"),
  'model.adapter': (TEXT, "folder of a PEFT adapter merged into it; '': none"),
  'model.dtype': (
    one_of('float32', 'bfloat16', 'float16'),
    'dtype of the computation',
  ),
  'model.attention': (
    one_of('auto', 'xla', 'blocks', 'cudnn'),
    'implementation; auto: blocks for long rows, else xla',
  ),
  'model.remat': (one_of('none', 'products', 'full'), 'what is computed twice'),
  'model.tie_word_embeddings': (FLAG, 'one matrix of tokens'),
  'model.processor.own_tokenizer': (FLAG, 'tokenizer class of transformers'),
  'model.processor.max_pixels': (COUNT, 'largest picture; 0: as the files'),
  'model.processor.min_pixels': (COUNT, 'smallest picture; 0: as the files'),
  **below('model', sizes.LLAVA_NEXT),
  'model.mm_tokens_per_image': sizes.GEMMA3['mm_tokens_per_image'],
  **below('model.vision_config', sizes.TOWERS),
  **below('model.text_config', sizes.DECODER | sizes.ROPE),
  **below('model.text_config', sizes.DECODER_KINDS),
  'model.text_config.embedding_std': (POSITIVE, 'spread of random embeddings'),
  'model.vision_config.embedding_std': (
    POSITIVE,
    'spread of random embeddings',
  ),
  # Stages.
  **below('base', TRAINING),
  **below('vanilla', TRAINING),
  'retrained.without': (several(TEXT, 0), 'splits of vanilla left out'),
  'saliency.granularity': (
    one_of('batch', 'example'),
    'gradients that are squared',
  ),
  'saliency.batches': (COUNT, 'batches of each set; 0: one pass'),
  **below('saliency', SALIENCY),
  **below('masks.*', MASK),
  'saliency.keep': (one_of('importances', 'log_ratio'), 'kept on disk'),
  'unlearn.rounds': (whole(1, null=True), 'rounds of a run; None: by epochs'),
  'unlearn.epochs': (ONE, 'passes over the data, where rounds is None'),
  'unlearn.allow_partial_forget': (FLAG, 'runs may leave out forget batches'),
  'unlearn.require_memorised': (
    FLAG,
    'no run where vanilla does not know what is to be forgotten',
  ),
  'unlearn.retain_rate': (RATE, 'learning rate of the retain turns'),
  **below('unlearn.optimizer', OPTIMIZER),
  **below('unlearn.lora', LORA),
  'unlearn.clip_norm': (OR_INF, 'largest norm of a gradient; inf: no clip'),
  'unlearn.exempt': (
    Rule(str, test=_is_pattern, words='a regular expression'),
    'leaves that no mask holds',
  ),
  'unlearn.limits.*': (ONE, 'most turns on a split'),
  'unlearn.max_retain_loss': (OR_INF, 'nats per token at which a run stops'),
  **below('unlearn.streams.*.#', PART),
  'unlearn.save_every': (ONE, 'rounds between checkpoints'),
  'unlearn.probe_every': (ONE, 'rounds between two looks at the scores'),
  'unlearn.probe_rows': (ONE, 'questions of each task in a look'),
  **below('runs.*', RUN),
  'tune.rates': (several(RATE), 'learning rates to try'),
  'tune.rows': (ONE, 'questions of each task in a try'),
  # Evaluation.
  'evaluation.max_new_tokens': (whole(1, 2**16), 'longest answer'),
  'evaluation.repetition_penalty': (
    sizes.PENALTY._replace(
      low=0, test=lambda x: x == 0 or sizes.PENALTY.accepts(x)
    ),
    "from 0.01 on, 1: none; 0: the checkpoint's",
  ),
  'evaluation.batch_size': (ONE, 'questions at a time'),
  'evaluation.protocol': (TEXT, "way of asking; '': the dataset's"),
  'evaluation.shots': (COUNT, 'people whose questions stand before each'),
  **below('evaluation.judge', JUDGE),
  **below('attacks', attacking.ATTACKS),
}

OPEN = ('limits', 'clip_norms')  # groups whose fields the command line names
MAY_LACK = ('retrained',)  # groups that may be None
_OPTIONAL = ('tune', 'attacks.relearn.cases', *MAY_LACK)  # whole if there
# Fields without which a job does; the code that reads them has a default.
_DEFAULTED = re.compile(
  r'data\.(?!name)|validation_groups|tune|retrained|.*epochs|.*partial_forget'
  r'|.*require_memorised|saliency\.(density|preserve_loss)|masks|attacks'
  r'|evaluation\.(judge|prot|rep|shots)'
  r'|model\.(?!name|path|dtype|attention|remat)'
  r'|.*optimizer\.(?!name)|.*\.lora\.'
  r'|runs\.\*\.(warmup|teacher|forget|retain_rate|options\.(?!\*))'
)
REQUIRED = (
  *(path for path in TABLE if not _DEFAULTED.match(path)),
  *below('unlearn.streams.forget.#', PART),
)
