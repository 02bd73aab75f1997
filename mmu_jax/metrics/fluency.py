"""Whether an answer is an answer at all, by rules that a reader can check."""

from collections.abc import Sequence
import re

_WORD = re.compile(r'\w+')
_CJK = re.compile('[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]')
_LONGEST_WORD = 30  # characters; longer than any word of these benchmarks
_MOST_SYMBOLS = 0.3  # share of characters that are no letter, digit or space
_MOST_REPEATED = 0.5  # share of word triples that came before
_FEWEST_CHARACTERS = 20  # of an answer whose symbols are counted
_FEWEST_WORDS = 8  # of an answer whose repetitions are counted
_RUN = 4  # times the same word in a row


def is_empty(text: str) -> bool:
  """Whether an answer holds no letter and no digit.

  Example:
    >>> is_empty(' ...'), is_empty('42')
    (True, False)
  """
  return not any(c.isalnum() for c in text)


def is_gibberish(text: str) -> bool:
  """Whether an answer is no language, as a broken model gives it.

  Gradient ascent can lower a forget score by ruining the model; this rate
  tells that from forgetting. An answer that is not empty is gibberish if one
  of these holds:

  * the same word stands four times in a row;
  * of eight words or more, over half of the triples of words came before;
  * a word has more than 30 characters (but for scripts without spaces);
  * of twenty characters or more, over 30 % are no letters, digits or spaces
    (of '(B)' two thirds are none);
  * it holds the replacement character of broken UTF-8.

  It knows no grammar: fluent nonsense passes.

  Args:
    text: the model's answer, in any script.

  Example:
    >>> is_gibberish('the the the the'), is_gibberish('She lives in Oslo.')
    (True, False)
  """
  if is_empty(text):
    return False
  words = _WORD.findall(text.lower())
  symbols = sum(not (c.isalnum() or c.isspace()) for c in text)
  return (
    '\ufffd' in text
    or _in_a_row(words) >= _RUN
    or _repeated(words) > _MOST_REPEATED
    or (max(map(len, words)) > _LONGEST_WORD and not _CJK.search(text))
    or (len(text) >= _FEWEST_CHARACTERS and symbols > _MOST_SYMBOLS * len(text))
  )


def _in_a_row(words: Sequence[str]) -> int:
  """The longest run of one word."""
  longest = run = 1
  for last, word in zip(words, words[1:]):
    run = run + 1 if word == last else 1
    longest = max(longest, run)
  return longest


def _repeated(words: Sequence[str]) -> float:
  """The share of word triples that stood before; 0 for a short answer."""
  if len(words) < _FEWEST_WORDS:
    return 0.0
  triples = list(zip(words, words[1:], words[2:]))
  return 1 - len(set(triples)) / len(triples)
