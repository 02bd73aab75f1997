"""A text file of a checkpoint that is spoiled is named, with what is wrong."""

import json

import folders
import pytest

from mmu_jax.data.encoding import tokenizer_files
from mmu_jax.settings import rules
from mmu_jax.settings import sizes


@pytest.fixture
def llava(tmp_path):
  return folders.write(tmp_path / 'llava', 'llava')


@pytest.mark.parametrize(
  'name, content, words',
  [
    ('tokenizer.json', '{}', 'tokenizer.json in .* the library says: '),
    ('tokenizer_config.json', '[]', 'tokenizer_config.json must hold a JSON o'),
    (
      'tokenizer_config.json',
      '{"eos_token": 3}',
      'tokenizer_config.json: eos_token is text, or an object .*; got 3',
    ),
    (
      'tokenizer_config.json',
      '{"added_tokens_decoder": {"5": {"content": "x", "special": 1}}}',
      'added_tokens_decoder.5 is text, or an object with content and flags',
    ),
    (
      'tokenizer_config.json',
      '{"added_tokens_decoder": {"five": {"content": "x"}}}',
      'tokenizer_config.json or another file in .* the library says: ',
    ),
    ('added_tokens.json', '{"<x>": "5"}', 'added_tokens.json: <x> is a whole'),
    ('special_tokens_map.json', '{"pad_token": []}', 'map.json: pad_token is'),
    ('vocab.json', 'null', 'vocab.json must hold a JSON object, got NoneType'),
  ],
)
def test_a_spoiled_file_is_named(name, content, words, llava):
  (llava / name).write_text(content)
  with pytest.raises(ValueError, match=words):
    tokenizer_files.read_tokenizer(llava, raw=True)


def test_fields_that_nobody_reads_are_passed_over(llava):
  path = llava / 'tokenizer_config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | {'mine': [None]}))
  tokenizer_files.read_tokenizer(llava, raw=True)
  found = tokenizer_files.read(llava, path.name, sizes.TOKENIZER)
  assert found['mine'] == [None]
  with pytest.raises(ValueError, match='mine is a whole number'):
    tokenizer_files.read(llava, path.name, {'mine': (rules.whole(1), 'x')})


def test_a_fault_of_ours_keeps_its_traceback(tmp_path):
  for error in (ZeroDivisionError(), RuntimeError('x'), MemoryError()):
    with pytest.raises(type(error)):
      with tokenizer_files.read_by_transformers(tmp_path, 'tokenizer.json'):
        raise error
  with pytest.raises(ValueError, match='tokenizer.json in .* says: bad data'):
    with tokenizer_files.read_by_transformers(tmp_path, 'tokenizer.json'):
      raise Exception('bad data')
