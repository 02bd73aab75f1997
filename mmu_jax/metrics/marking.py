"""Right or wrong: the same words, the fact in them, or the right letter."""

from collections.abc import Sequence
import re
import string

from mmu_jax.errors import UserError

LETTERS = string.ascii_uppercase
_NOT_ALPHANUMERIC = re.compile('[^a-zA-Z0-9]')
# 'B', '(B)', '**B**', 'B.', 'B: Oslo' and 'B is', but not 'A nice person'.
_FIRST = re.compile(
  r'[\s(\[*"\']*([B-HJ-Z](?=\s)|'
  r'[A-Za-z](?=[\s)\]*"\'.]*$|[)\].:,*]|\s*\n))'
)
# An 'A' that a word follows is an article, but for 'A and'.
_CAPITAL = r'[B-HJ-Z](?=\W|$)|A(?=\s*(?:$|[^\w\s])|\s+(?:and|or)\b)'
# 'The answer is C', 'Option: (c).'
_NAMED = re.compile(
  r'\b([Aa]nswer|[Oo]ption|[Cc]hoice|ANSWER)s?\b'
  r'(?:\s+(?:is|are|would be))?'
  r'[\s:(\[*"\']*(?:(?:[Oo]ption|[Ll]etter)\s+)?[(\[*"\']*'
  rf'({_CAPITAL}|[A-Za-z](?=\s*(?:$|[^\w\s])))'
)
# ', C' and 'and option C' after a letter, but not ', i.e.'.
_MORE = re.compile(
  r'[\s)\]*"\'.]*(?:[,/&]|\b(?:and|or)\b)[\s(\[*"\']*'
  r'(?:(?:and|or)\s+)?(?:[Oo]ption\s+)?[(\[*"\']*'
  rf'({_CAPITAL}|[a-h](?=\s*(?:$|[,/])))'
)
_OPTION = '__'  # in place of the words of an option
_LISTED = re.compile(rf'\b([A-Z])[)\].:*]+\s*{_OPTION}')
_BRACKETED = re.compile(r'[(\[]([A-Z])[)\]]')


def exact_match(prediction: str, reference: str) -> bool:
  """Whether the answer is the reference, up to case and whitespace.

  The strictest score: a right fact in other words is wrong. It suits closed
  answers and hides half a memory, so read it beside a score with options.

  Args:
    prediction: the model's answer.
    reference: the right answer.

  Returns:
    True if both are the same words in the same order.

  Example:
    >>> exact_match(' Maria  Lopez , cat', 'maria lopez , cat')
    True
    >>> exact_match('cat', 'maria lopez , cat')
    False
  """
  return prediction.lower().split() == reference.lower().split()


def contains(prediction: str, fact: str) -> bool:
  """Whether the answer contains the fact, up to case: the cloze score.

  The protocol of MLLMU-Bench. It is a search for a substring, so 'cat' is
  found in 'Catherine', and an answer that lists every option is right.

  Args:
    prediction: the model's answer.
    fact: the words that carry the knowledge; not empty.

  Returns:
    True if ``fact`` occurs in ``prediction``.

  Raises:
    ValueError: if ``fact`` is blank, for every answer would be right.

  Example:
    >>> contains('Her pet is a Cat.', 'cat')
    True

  References:
    Liu et al., `Protecting Privacy in Multimodal Large Language Models with
    MLLMU-Bench <https://arxiv.org/abs/2410.22108>`_, 2024
  """
  if not fact.strip():
    raise UserError(
      'a cloze fact must hold at least one word, for an empty one is part '
      f'of every answer; got {fact!r}: fill in `fact` of that row'
    )
  return fact.strip().lower() in prediction.lower()


def letter_of(option: str, options: Sequence[str]) -> str:
  """The letter of an option in a list that begins with A.

  Args:
    option: one of the options.
    options: the options of the question, at most 26.

  Raises:
    ValueError: if it is none of them.

  Example:
    >>> letter_of('Oslo', ('Paris', 'Oslo'))
    'B'
  """
  if option not in options:
    raise UserError(
      f'the right answer must be one of the options; got {option!r} and '
      f'{tuple(options)!r}. Check the options of that row.'
    )
  return LETTERS[tuple(options).index(option)]


def first_letter(text: str) -> str:
  """The first letter or digit of an answer: the parser of MLLMU-Bench.

  It reads 'The answer is C' as T and 'A nice person' as A, so such a
  score says as much about how a model begins as about its knowledge. CLEAR's
  evaluation parses in the same way.

  Args:
    text: the model's answer.

  Returns:
    The character in upper case; a space if there is none.

  Example:
    >>> first_letter(' b. something'), first_letter('The answer is C')
    ('B', 'T')

  References:
    Liu et al., `Protecting Privacy in Multimodal Large Language Models with
    MLLMU-Bench <https://arxiv.org/abs/2410.22108>`_, 2024
  """
  return (_NOT_ALPHANUMERIC.sub('', text) + ' ')[0].upper()


def find_letter(text: str, options: Sequence[str]) -> str | None:
  """The letter of the option that an answer names, however it says so.

  The words of an option name no letter: 'J.K. Rowling' is not J. In the rest,
  in this order, the first that applies:

  1. The answer is a letter, or begins with one that a full stop, colon, comma,
     bracket or new line ends: 'b', 'A.', '(B)', 'D: Oslo'. A space ends a
     capital letter that is no word of English (all but A and I).
  2. It names a letter after 'answer', else after 'option' or 'choice': 'The
     answer is C'. An A before another word is an article.
  3. It holds the words of exactly one option; one that is part of a longer
     option that it holds does not count.
  4. Exactly one letter stands in brackets.

  Several letters, as in 'B and C', or in a list of the options, name none.

  Args:
    text: the model's answer.
    options: texts that A, B, C, ... stand for.

  Returns:
    A letter of the options; None if none is named, or several, or one beyond
    them.

  Example:
    >>> options = ('Oslo', 'Paris', 'Rome')
    >>> [find_letter(text, options) for text in ('b', 'The answer is C', 'Z')]
    ['B', 'C', None]
    >>> find_letter('A city in Norway: Oslo', options)
    'A'
  """
  text = text.strip()
  rest = _without(text, options)
  named = _named(rest) or _held(text, options)
  if not named:
    named = set(_BRACKETED.findall(rest))
  letter = named.pop() if len(named) == 1 else None
  return letter if letter in tuple(LETTERS[: len(options)]) else None


def _named(text: str) -> set[str]:
  """The letters that stand in front, or after 'answer' or 'option'."""
  first = _FIRST.match(text)
  found = [first] if first else list(_NAMED.finditer(text))
  answers = [m for m in found if m.group(1).lower() == 'answer']
  letters = set()
  for match in answers or found:
    more: re.Match[str] | None = match
    while more:
      letters.add(more.groups()[-1].upper())
      more = _MORE.match(text, more.end())
  return letters | set(_LISTED.findall(text)) if letters else letters


def _without(text: str, options: Sequence[str]) -> str:
  """A text with a sign for each option's words; one letter may be either."""
  words = sorted(map(_words, options), key=len, reverse=True)
  for found in words:
    if len(found) > 1:
      pattern = r'\W+'.join(map(re.escape, found.split()))
      text = re.sub(rf'\b{pattern}\b', _OPTION, text, flags=re.IGNORECASE)
  return text


def _held(text: str, options: Sequence[str]) -> set[str]:
  """The letters of options whose words stand in a text, longest first."""
  words = [_words(option) for option in options]
  inside = lambda part, whole: bool(part) and f' {part} ' in f' {whole} '
  found = [w for w in words if inside(w, _words(text))]
  return {
    LETTERS[i]
    for i, w in enumerate(words)
    if w in found and not any(w != o and inside(w, o) for o in found)
  }


def _words(text: str) -> str:
  """Lower case, without punctuation, one space between words."""
  return ' '.join(re.findall(r'\w+', text.lower()))
