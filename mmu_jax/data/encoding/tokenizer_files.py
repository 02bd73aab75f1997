"""The text files of a checkpoint folder, checked before a library reads them.

Whatever is wrong with a file is said with its name: the messages of
``transformers`` and ``tokenizers`` name neither file nor field.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import pathlib
from typing import Any

from mmu_jax import inputs
from mmu_jax import workdir as workdir_lib
from mmu_jax.distributed import progress
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.settings import rules
from mmu_jax.settings import sizes

TOKENIZER_FILES = ('tokenizer.json', 'vocab.json', 'tokenizer.model')
# Classes of transformers that tokenizer_config.json may name; code in the
# folder (auto_map) is never run.
TOKENIZERS = (
  'LlamaTokenizer',
  'LlamaTokenizerFast',
  'Qwen2Tokenizer',
  'Qwen2TokenizerFast',
  'PreTrainedTokenizerFast',
  'TokenizersBackend',  # the same, as transformers 5 writes it
)
_READ = ('.json', '.model', '.txt', '.jinja')  # files that a tokenizer reads
_TABLES = {
  'tokenizer_config.json': sizes.TOKENIZER,
  'special_tokens_map.json': sizes.SPECIAL_TOKENS,
  'added_tokens.json': sizes.VOCABULARY,
  'vocab.json': sizes.VOCABULARY,
}
# Raised by transformers for options and tokens of a wrong form.
_BROKEN = (TypeError, ValueError, LookupError, AttributeError, OverflowError)
_QUESTION = 'Which colour?'  # stands for any question


def read(folder: pathlib.Path, name: str, table: rules.Table) -> dict[str, Any]:
  """Reads a JSON file of a checkpoint, an object.

  Args:
    folder: folder of the checkpoint.
    name: name of the file.
    table: rules of the fields that are read.

  Raises:
    FileNotFoundError: if it is missing.
    ValueError: names the file, the field, the rule and the value.
  """
  path = folder / name
  if not path.exists():
    raise MissingError(
      f'a checkpoint needs {name}, and {folder} does not hold it. Copy it '
      'there from where the weights are from.'
    )
  found = workdir_lib.read_object(path)
  rules.check(found, table, f'{path}: ', others=True)
  return found


@contextlib.contextmanager
def read_by_transformers(folder: pathlib.Path, name: str) -> Iterator[None]:
  """Names the file in errors of a library that reads it, or its fields."""
  try:
    yield
  except Exception as error:
    # The tokenizers library raises Exception itself, which no narrower clause
    # catches. Errors of ours, and bugs, go on as they are.
    expected = type(error) is Exception or isinstance(error, _BROKEN)
    if expected and not isinstance(error, UserError):
      raise UserError(
        f'{name} in {folder} cannot be used; the library says: {error}. Fetch '
        'it again from where the weights are from.'
      ) from error
    raise


def read_tokenizer(folder: pathlib.Path, raw: bool) -> Any:
  """Returns the tokenizer of a folder. Says which one.

  Args:
    folder: folder of the checkpoint.
    raw: whether ``tokenizer.json`` is taken as it is, see
      ``processors.read_processor``.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file cannot be read, or names an unknown class.
  """
  import tokenizers
  import transformers

  if not any((folder / name).exists() for name in TOKENIZER_FILES):
    raise MissingError(
      f'{folder} holds no tokenizer: one of {", ".join(TOKENIZER_FILES)} is '
      'needed. Copy the tokenizer files of the checkpoint there.'
    )
  for file in folder.iterdir():
    if file.suffix in _READ:
      inputs.check_file(file, inputs.LARGEST)
  options = read(folder, 'tokenizer_config.json', sizes.TOKENIZER)
  for name, table in _TABLES.items():
    if (folder / name).exists():
      read(folder, name, table)
  if (folder / 'tokenizer.json').exists():
    with read_by_transformers(folder, 'tokenizer.json'):
      tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
  kind = options.get('tokenizer_class') or _usual_class(folder)
  if raw and (folder / 'tokenizer.json').exists():
    say_once(f'tokenizer: tokenizer.json of {folder} as it is')
    kind = 'PreTrainedTokenizerFast'
  elif kind not in TOKENIZERS or not hasattr(transformers, kind):
    raise UserError(
      f'the tokenizer_config.json of {folder} names the class {kind!r:.60}; '
      f'the classes of transformers {transformers.__version__} in use are '
      f'{", ".join(TOKENIZERS)}. Use raw_tokenizer=True with a tokenizer.json.'
    )
  else:
    say_once(f'tokenizer: {kind} of transformers {transformers.__version__}')
  with read_by_transformers(folder, 'tokenizer_config.json or another file'):
    return getattr(transformers, kind).from_pretrained(folder)


def _usual_class(folder):
  """The tokenizer of a folder that names none in tokenizer_config.json."""
  from transformers.models.auto import tokenization_auto as auto

  config = read(folder, 'config.json', sizes.PROCESSOR)
  usual = auto.TOKENIZER_MAPPING_NAMES.get(config.get('model_type'))
  return config.get('tokenizer_class') or usual


def chat_template(
  folder: pathlib.Path,
  tokenizer: Any,
  image_token: str,
  around: Sequence[str] = (),
) -> str:
  """Returns the template that a processor of transformers takes.

  processor_config.json comes before chat_template.json, then
  chat_template.jinja, then the tokenizer's. A second one that differs is said:
  another program may read it.

  Args:
    folder: folder of the checkpoint.
    tokenizer: its tokenizer.
    image_token: placeholder that the template writes for a picture.
    around: tokens before and behind a picture, for templates that write the
      first of them alone. The processors of transformers put the rest in, with
      empty lines around, before they make tokens; so does the result.

  Raises:
    ValueError: if there is none, or it does not write a question and a
      picture.
  """
  import jinja2

  found: dict[str, str] = {}  # template -> the first file that has it
  for name, made in _templates(folder, tokenizer):
    found.setdefault(made or '', name)
  found.pop('', None)
  if not found:
    raise UserError(
      f'{folder} has no chat template, so that no question can be asked; '
      'copy chat_template.json or chat_template.jinja of the checkpoint '
      'there.'
    )
  (made, name), *others = found.items()
  if around and image_token not in made:
    before, behind = around
    whole = (
      f'\\n\\n{before}{image_token}{behind}\\n\\n'  # within quotes of Jinja
    )
    made = made.replace(before, whole)
  for _, other in others:
    say_once(
      f'note: the chat template of {folder} is the one of {name}, as for a '
      f'processor of transformers; {other} has another.'
    )
  parts = [{'type': 'image'}, {'type': 'text', 'text': _QUESTION}]
  try:
    text = tokenizer.apply_chat_template(
      [{'role': 'user', 'content': parts}],
      chat_template=made,
      tokenize=False,
      add_generation_prompt=True,
    )
  except (jinja2.TemplateError, *_BROKEN) as error:
    raise UserError(
      f'the chat template of {folder / name} cannot write a question with a '
      f'picture: {error}. Fetch it again.'
    ) from error
  if _QUESTION not in text or image_token not in text:
    raise UserError(
      f'the chat template of {folder / name} must write the question and '
      f'{image_token} for its picture; it writes {text[:80]!r}.'
    )
  return made


def _templates(folder, tokenizer):
  """The chat templates of a folder by file, in the order of transformers."""
  for name in ('processor_config.json', 'chat_template.json'):
    if (folder / name).exists():
      yield name, read(folder, name, sizes.TEMPLATE).get('chat_template')
  if (folder / 'chat_template.jinja').exists():
    yield (
      'chat_template.jinja',
      workdir_lib.read_text(folder / 'chat_template.jinja'),
    )
  made = tokenizer.chat_template  # of several by name the default one
  yield (
    'tokenizer_config.json',
    made.get('default') if isinstance(made, Mapping) else made,
  )


def stop_ids(
  folder: pathlib.Path, generation: Mapping[str, Any], tokenizer: Any
) -> tuple[int, ...]:
  """Returns the end tokens of generation_config.json, or the tokenizer's.

  Args:
    folder: folder of the checkpoint.
    generation: fields of its generation_config.json, if it has one.
    tokenizer: its tokenizer.

  Raises:
    ValueError: if there is none, or one is beyond the vocabulary.
  """
  name, stop = 'generation_config.json', generation.get('eos_token_id')
  if stop is None:
    stop = tokenizer.eos_token_id
  stops = tuple(stop) if isinstance(stop, list) else (stop,)
  if None in stops or not stops:
    raise UserError(
      f'answers need an end token, and neither {name} nor '
      f'the tokenizer in {folder} has one (eos_token_id). Add it there.'
    )
  least = rules.whole(0, len(tokenizer) - 1)
  wrong = [stop for stop in stops if not least.accepts(stop)]
  if wrong:
    raise UserError(
      f'{folder / name}: eos_token_id is {least.text} (tokens that end an '
      f'answer, of the {len(tokenizer)} of the tokenizer), or a list of them; '
      f'got {wrong[0]!r}.'
    )
  return stops


@functools.cache
def say_once(text: str) -> None:
  """Prints a line, once in a process."""
  progress.say(text)
