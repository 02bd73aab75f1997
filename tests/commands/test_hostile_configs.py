"""Configs and fields of the command line that are spoiled: each is named."""

import os
import re

import fuzzing
from fuzzing import Case
import numpy as np
import pytest

from mmu_jax import recipes
from mmu_jax.commands import fields
from mmu_jax.stages import job
from mmu_jax.stages.budgets import run_rules

FILE = 'mine.py'
VALID = b"""
from mmu_jax import recipes


def get_config(variant='fast'):
  config = recipes.load(f'people:{variant}')
  return config
"""
_END = b'  return config\n'
_FILES = {
  'empty': b'',
  'no Python': b'seed: 3\n',
  'JSON': b'{"seed": 3}',
  'a page': b'<html>404</html>',
  'not in UTF-8': b'x = "\xff\xfe"\n' + VALID,
  'with zeros': b'x = 1\0\n' + VALID,
  'in UTF-16': VALID.decode().encode('utf-16'),
  'compiled': b'\xa7\r\r\n' + bytes(range(256)),
  'cut off': VALID[:-9],
  'not indented': VALID.replace(b'  config', b'config'),
  'deep': b'x = ' + b'(' * 500 + b')' * 500,
  'of another name': VALID.replace(b'get_config', b'config'),
  'an import of nothing': b'import nothing_of_this_name\n' + VALID,
  'a division by zero': b'1 / 0\n' + VALID,
  'a function that is a number': b'get_config = 3\n',
  'a function of two arguments': b'def get_config(a, b): pass\n',
  'a function of a keyword': b'def get_config(*, variant): pass\n',
  'a function that fails': VALID.replace(_END, b"  raise KeyError('x')\n"),
  'a function that fails a test': VALID.replace(_END, b'  assert False\n'),
  'a field that is not there': VALID.replace(_END, b'  config.no.x = 1\n'),
  'a locked config': VALID.replace(_END, b'  config.lock().n = 1\n' + _END),
}
_RETURNED = {
  'nothing': b'None',
  'a list': b'[config]',
  'a text': b"'people'",
  'a class': b'dict',
  'a number': b'3',
  'an empty dict': b'{}',
  'an empty config': b'type(config)()',
  'a seed alone': b'type(config)(dict(seed=3))',
  'numbers as names': b'type(config)({1: 2})',
}
_VALUES = ('', '-1', 'nan', 'inf', '1e999', 'text', 'None', '[1', '()', '{}')
_VALUES += ('0x10', '1.5', 'True', "('a',)", '\ud83d', 'a' * 9999, '9' * 5000)
_WORDS = {
  'unknown': '--config.sede=1',
  'below a value': '--config.seed.x=1',
  'a group': '--config.unlearn=3',
  'a group as a dict': '--config.unlearn={}',
  'a group that is empty': '--config.runs=',
  'no value': '--config.seed',
  'no field': '--config.=1',
  'two dots': '--config..seed=1',
  'a dot at the end': '--config.seed.=1',
  'a place beyond the end': '--config.base.stream[9].size=1',
  'a place that is text': '--config.base.stream[x].size=1',
  'a place below the first': '--config.base.stream[-99].size=1',
  'an open place': '--config.base.stream[0.size=1',
  'a place of a number': '--config.seed[0]=1',
  'a field of a part': '--config.base.stream[0].sise=1',
  'a part of another type': '--config.base.stream[0].size=x',
  'a part below its range': '--config.base.stream[0].size=0',
  'a place of a group': '--config.runs[0].rate=1',
  'no dash': 'config.seed=1',
  'another option': '--sede=1',
  'a word': 'seed',
  'only dashes': '--',
  'a method': '--config.to_dict=1',
  'hidden': '--config.__class__=1',
  'a key': '--config.evaluation.judge.key_variable=sk-' + 'a' * 40,
}


_NAMES = r'(groups|validation_groups|runs|saliency\.p\w+|unlearn\.streams)\.'
# Fields and groups that need not be there, or may have such a value.
_VALID = {
  'is missing': re.compile(
    rf'data\.(?!name).*|{_NAMES}(?!forget$)\w+|.*optimizer\.(?!name).*'
    r'|model\.(?!name|path|dtype|attention|remat).*|validation_groups|tune'
    r'|masks.*|attacks(?!\.relearn\.cases\.\w+\.).*|saliency\.(density|pres.*)'
    r'|runs\.\w+\.(warmup|options\.margin)|unlearn\.streams\.retain|groups\.forget|validation_groups\.forget'
  ),
  'is null': re.compile(
    r'(runs\.\w+|base|vanilla|unlearn)\.rounds|retrained'
    r'|.*forget_every|.*options\.margin|.*num_key_value_heads'
  ),
  'is a class': re.compile('$.'),
  'is another dict': re.compile(rf'{_NAMES[:-2]}|data'),
}


def _make(folder):
  folder.mkdir()
  (folder / FILE).write_bytes(VALID)


def _meaning(folder):
  """All fields of a config, checked as the first stage of a job checks it."""
  words = folder / 'words'
  given = (
    words.read_bytes().decode('utf-8', 'surrogatepass')
    if (words.exists())
    else ''
  )
  config = fields.read(str(folder / FILE), given.split('\n') if given else [])
  job.check_names(config)
  for name in config.runs:
    run_rules.run_settings(config, name)
  return config.to_json_best_effort()


def _file_cases():
  for name, made in _FILES.items():
    yield Case(f'the file is {name}', FILE, fuzzing.replaced(FILE, made))
  for name, made in _RETURNED.items():
    source = VALID.replace(_END, b'  return ' + made + b'\n')
    # A field that is missing is named, not the file.
    named = {'an empty config', 'a seed alone', 'numbers as names'}
    word = 'config' if name in named else FILE
    yield Case(f'returns {name}', word, fuzzing.replaced(FILE, source))
  for name, make in {
    'a pipe': os.mkfifo,
    'a folder': os.mkdir,
    'missing': lambda path: None,
  }.items():

    def mutate(folder, make=make):
      (folder / FILE).unlink()
      make(folder / FILE)

    yield Case(f'the file is {name}', FILE, mutate)


def _leaves(value, path=()):
  """The paths of all groups and fields of a config."""
  for key, inner in value.items():
    yield (*path, key)
    if isinstance(inner, dict):
      yield from _leaves(inner, (*path, key))


def _field_cases():
  """A config of one's own without a field, or with another value there."""
  config = recipes.load('people:fast').to_dict()
  for path in _leaves(config):
    place = ''.join(f'[{key!r}]' for key in path)
    said = '.'.join(path)
    for name, code in {
      'is missing': f'del plain{place}',
      'is a class': f'plain{place} = dict',
      'is another dict': f'plain{place} = {{"x": [1]}}',
      'is null': f'plain{place} = None',
    }.items():
      body = (
        f'  plain = config.to_dict()\n  {code}\n  return type(config)(plain)'
      )
      source = VALID.replace(_END, body.encode() + b'\n')
      valid = _VALID[name].fullmatch(said)
      write = fuzzing.replaced(FILE, source)
      yield Case(f'{said} {name}', path[-1], write, not valid)


def _word_cases():
  def words(text):
    return lambda folder: (folder / 'words').write_bytes(
      text.encode('utf-8', 'surrogatepass')
    )

  for name, word in _WORDS.items():
    field = word.split('=')[0].lstrip('-').split('.')[-1]
    yield Case(f'a word with {name}', field, words(word))
  config = recipes.load('people:fast').to_dict()
  rng = np.random.default_rng(0)
  for path in _leaves(config):
    value = _VALUES[rng.integers(len(_VALUES))]
    word = f'--config.{".".join(path)}={value}'
    # Some of these are valid: text may be anything.
    yield Case(f'{word[:80]}', path[-1], words(word), False)


CASES = {
  'files': (_file_cases, 40),
  'fields': (_field_cases, 50),
  'words': (_word_cases, 40),
}


@pytest.mark.parametrize('kind', CASES)
def test_a_spoiled_config_is_an_error_that_names_the_place(kind, tmp_path):
  make, number = CASES[kind]
  cases = fuzzing.chosen(list(make()), number)
  outcomes = fuzzing.attack(cases, _make, _meaning, tmp_path)
  fuzzing.check(outcomes, most_unclear=0.02)
