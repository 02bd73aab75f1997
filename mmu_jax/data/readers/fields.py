"""Checks that the values of a file have the form that its reader takes.

A form is a type, or several in a tuple; ``[form]`` is a list of them, and a
dict has a form for each field that matters; ``...`` stands for every field.
"""

from collections.abc import Mapping
import math
import re
from typing import Any

from mmu_jax.errors import UserError

TEXT = str
WORDS = (str, int, float)  # written as text
_NAMES = {TEXT: 'text', WORDS: 'text or a number', bool: 'true or false'}

# <image>, <image 1>, <|image_pad|>, <|vision_start|>, <video>, ...
_PLACEHOLDER = re.compile(
  r'<\|?/?\s*(image|video|vision)[\w\s-]{0,20}\|?>', re.IGNORECASE
)


def check_form(value: Any, form: Any, where: str, field: str = '') -> None:
  """Raises unless a value has a form; null, and a field that is not there, do.

  An element of a list is never null where it has fields. One text is a list
  of texts.

  Args:
    value: value as it was read.
    form: form that it must have, see the module.
    where: name of the row, for the message.
    field: name of the value.

  Raises:
    ValueError: names the field, the row and the form.

  Example:
    >>> check_form({'ID': 3, 'more': ...}, {'ID': WORDS}, 'row 0')
    >>> form = {'tasks': [{'ID': WORDS}]}
    >>> check_form({'tasks': [3]}, form, 'row 0')  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    mmu_jax.errors.UserError: tasks[0] of row 0 is an object, got 3 ...
  """
  if value is None:
    return
  if isinstance(form, dict):
    _require(isinstance(value, Mapping), 'an object', value, where, field)
    dot = f'{field}.' if field else ''
    for name in value if ... in form else form:
      inner = form.get(name, form.get(...))
      check_form(value.get(name), inner, where, f'{dot}{name}')
  elif isinstance(form, list):
    if form == [TEXT] and isinstance(value, str):
      # Of a table program: a list written as JSON, Python or NumPy do.
      listed = re.match(r"""\s*[\[({]\s*['"]""", value)
      _require(not listed, 'a list and not its text', value, where, field)
      return
    _require(isinstance(value, list), 'a list', value, where, field)
    for i, item in enumerate(value):
      place = f'{field}[{i}]'
      if isinstance(form[0], dict):
        _require(item is not None, 'an object', item, where, place)
      check_form(item, form[0], where, place)
  else:
    wanted = _NAMES.get(form)
    _require(_is_kind(value, form), wanted, value, where, field)
    if isinstance(value, str):
      _check_unicode(value, where, field)


def placeholder(text: Any) -> str:
  """Returns the first mark of a picture in a text, or ''.

  Example:
    >>> placeholder('<image> Is 1 <i> 2?'), placeholder('Is 1 <i> 2?')
    ('<image>', '')
  """
  found = _PLACEHOLDER.search(str(text))
  return found[0] if found else ''


def _is_kind(value, form):
  """Whether a value has a type; a flag or infinity is no number."""
  if form in (object, bool):
    return isinstance(value, form)
  wrong = isinstance(value, bool) or value in (math.inf, -math.inf)
  return isinstance(value, form) and not wrong


def _check_unicode(text, where, field):
  """Raises for half a sign, which JSON may have: "\\ud83d"."""
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise UserError(
      f'{field or "text"} of {where} has half of a sign of Unicode, '
      f'{text[error.start]!r}. Write the file again from its source.'
    ) from error


def _require(right, wanted, value, where, field):
  """Raises unless something is right."""
  if not right:
    raise UserError(
      f'{field or "every value"} of {where} is {wanted}, got '
      f'{str(value)[:40]} ({type(value).__name__}). Repair the row or drop '
      'it.'
    )
