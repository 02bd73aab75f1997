"""Looks at the rows of a folder and collects its problems: see ``check``."""

import collections
from collections.abc import Iterable, Iterator, Mapping
import hashlib
import pathlib
import re
from typing import Any

import numpy as np

from mmu_jax import inputs
from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks import overlap
from mmu_jax.data.encoding.images import LazyImage
from mmu_jax.data.readers import fields
from mmu_jax.data.readers import own
from mmu_jax.data.readers import reading
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import OK
from mmu_jax.errors import UserError
from mmu_jax.errors import WARN

_SHOWN = 5  # rows named of each problem
_APART = 'Take it out of one of them.'


class Survey:
  """Everything seen so far; findings of one kind become one, with its rows.

  Attributes:
    folder: folder that is looked at.
    kind: one of ``check_rows.CONFIGS``, once it is known.
    rows: config -> how many.
  """

  def __init__(self, folder: pathlib.Path):
    """Has seen nothing."""
    self.folder, self.kind, self.rows = folder, '', {}
    self._found: dict[tuple[str, ...], list[str]] = {}
    self._ids: dict[str, str] = {}  # id of a row -> where it was seen first
    self._pixels: dict[str, str] = {}  # digest of a file -> of its pixels
    # role -> people, pictures and texts, and where they were seen first
    self._seen = collections.defaultdict(lambda: ({}, {}, {}))
    self._contents: dict[Any, str] = {}  # all of a row -> where, seen first

  def add(
    self, state: str, config: str, message: str, fix: str = '', row: str = ''
  ) -> None:
    """Notes a problem; the rows of equal ones are put together."""
    rows = self._found.setdefault((state, config, message, fix), [])
    if row:
      rows.append(row)

  def findings(self) -> Iterator[Finding]:
    """One for each kind of problem and config."""
    alike: dict[tuple[str, ...], int] = collections.Counter()
    for (state, config, message, fix), rows in self._found.items():
      if rows:
        more = ', ...' if len(rows) > _SHOWN else ''
        shown = ', '.join(rows[:_SHOWN]) + more
        message = f'{len(rows)} x {message}: {shown}.'
      # Errors of a reader that differ in numbers, paths and quoted values.
      words = re.sub(r"'[^']*'|\S*[/\d]\S*", '#', message)
      alike[state, config, words] += 1
      if alike[state, config, words] <= _SHOWN:
        yield Finding(state, config, message, fix)
    for (state, config, words), number in alike.items():
      if number > _SHOWN:
        more = f'{number - _SHOWN} more like this: {words[:100]}'
        yield Finding(state, config, more)

  def config(
    self, config: str, rows: Iterable[tuple[str, Mapping[str, Any]]]
  ) -> None:
    """Looks at the rows of a config; a reader's error is a finding.

    Args:
      config: name of the config.
      rows: rows, each with its place: 'row 3'.
    """
    count, persons = 0, {}
    try:
      for place, row in rows:
        self._row(config, place, row, persons)
        count += 1
      if not count:
        self.add(FAIL, config, 'there are no rows', 'Is it the right file?')
    except (UserError, OSError) as error:
      self.add(FAIL, config, str(error))
    self.rows[config] = count

  def compare(self) -> None:
    """Looks for what forget and retain sets of one ratio have in common.

    Of own data both must have rows, too.
    """
    for what in ('forget', 'retain') if self.kind == check_rows.OWN else ():
      if f'{what} 0' not in self._seen and any(self.rows.values()):
        said = f'there is nothing to {what}: no row has the split {what!r}'
        fix = 'Rows without a split are to be retained.'
        self.add(FAIL, ' '.join(self.rows), said, fix)
    sets = (self._seen[f'{split} 0'] for split in own.SPLITS[:3])
    (forget, *_), (retain, *_), (holdout, *_) = sets
    for row in reading.strangers(holdout, forget, retain):
      said = 'a person of holdout who is not in forget'
      self.add(FAIL, 'holdout', said, own.STRANGERS_FIX, row)
    for role in [role for role in self._seen if role.startswith('forget')]:
      self._compare(role, role.replace('forget', 'retain'))

  def _compare(self, one, other):
    """Looks for what two sets have in common."""
    sets = self._seen[one], self._seen[other]
    persons, pictures, texts = zip(*sets)
    shared = {'person': reading.in_both(*persons)}
    both = sorted(pictures[0].keys() & pictures[1].keys())
    shared['picture'] = [
      f'({"; ".join(x[key] for x in pictures)})' for key in both
    ]
    for name, found in shared.items():
      said = f'the same {name} in both'
      for row in found:
        self.add(FAIL, 'forget and retain', said, _APART, row)
    for key, near, index in overlap.near_duplicates(*texts):
      same = overlap.words(texts[0][key]) == overlap.words(texts[1][near])
      what = 'the same text' if same else 'nearly the same text'
      row = f'{key} and {near}' + ('' if same else f' ({index:.2f})')
      state = FAIL if same else WARN
      self.add(state, 'forget and retain', f'{what} in both', _APART, row)

  def _row(self, config, place, row, persons):
    """Looks at one row."""
    try:
      entry = check_rows.entry(self.kind, config, place, row)
    except UserError as error:
      self.add(FAIL, config, str(error))
      return
    if entry.problem:
      said = f'a row with {entry.problem}'
      self.add(FAIL, config, said, 'Repair or drop it.', entry.where)
    if entry.unique and entry.person in persons:
      twice = f'{entry.person} ({persons[entry.person]} and {entry.where})'
      said = 'an ID that occurs twice'
      self.add(FAIL, config, said, 'Drop one of them.', twice)
    if entry.key:
      first = self._ids.setdefault(entry.key, entry.where)
      if first != entry.where:
        twice = f'{entry.key} ({first} and {entry.where})'
        fix = 'Change one of them, or leave the column out.'
        self.add(FAIL, config, 'an id that another row has', fix, twice)
    persons.setdefault(entry.person, entry.where)
    place = f'{config} {entry.where}'
    people, pictures, texts = self._seen[entry.role]
    if entry.person is not None:
      people.setdefault(str(entry.person), place)
    shown = [self._image(config, entry.where, x) for x in entry.images]
    for pixels in filter(None, shown):
      pictures.setdefault(pixels, place)
    for text in entry.texts:
      full = self._text(config, entry, text)
      if full and self.kind == check_rows.OWN:
        self._content(config, entry, text, shown)
      if full and text.alone:
        texts[f'{place} {text.key}'] = f'{text.question} {text.answer}'
    for choice in entry.choices:
      self._choice(config, entry, choice)

  def _content(self, config, entry, text, shown):
    """Looks whether an earlier row says and shows the same."""
    said = str(text.question).strip(), str(text.answer).strip()
    content = entry.role, entry.person, tuple(shown), said
    first = self._contents.setdefault(content, entry.where)
    if first != entry.where:
      said = 'a row with the content of another'
      fix = 'It counts twice: drop it.'
      self.add(FAIL, config, said, fix, f'{entry.where} (as {first})')

  def _image(self, config, where, value) -> str:
    """Decodes a picture that was not seen; returns a digest of its pixels."""
    folder = self.folder.parent if self.folder.is_file() else self.folder
    try:
      base = folder if self.kind == check_rows.OWN else folder / config
      source = reading.image_source(value, base, where)
      if source is None:
        said = 'no image where there must be one'
        fix = 'Get the file again, or drop the rows.'
        self.add(FAIL, config, said, fix, where)
        return ''
      if isinstance(source, pathlib.Path):
        self._place(config, source, base, where)
      image = LazyImage(source, where)
      digest = image.digest()
      if digest not in self._pixels:
        array = np.asarray(image)
        pixels = hashlib.sha256(repr(array.shape).encode() + array.tobytes())
        self._pixels[digest] = pixels.hexdigest()
        if max(image.shape[:2]) > 200 * min(image.shape[:2]):
          said = 'an image that is more than 200 times as long as wide'
          self.add(FAIL, config, said, 'Models refuse it: cut it.', where)
        if image.mode != 'RGB':
          said = f'image of mode {image.mode}, converted to RGB'
          self.add(OK, config, said, row=where)
    except UserError as error:
      self.add(FAIL, config, str(error))
      return ''
    return self._pixels[digest]

  def _place(self, config, path, base, where):
    """Looks whether an image is where a reader takes it."""
    if self.kind != check_rows.OWN:
      reading.check_inside(path, base, where)
    elif not inputs.is_inside(path, base):
      said = 'an image outside of the folder of the file'
      fix = 'A job needs config.data.outside=True to read it.'
      self.add(WARN, config, said, fix, where)

  def _text(self, config, entry, text) -> bool:
    """Whether question and answer say something."""
    full = True
    for name, column in zip(('question', 'answer'), text.columns):
      where = f'{entry.where} {column or text.key}'
      mark = fields.placeholder(getattr(text, name))
      if mark:
        said = f'the mark of a picture, {mark!r}, in the {name}'
        self.add(FAIL, config, said, 'Take it out: it is written anew.', where)
      if reading.is_blank(getattr(text, name)):
        state = WARN if text.optional else FAIL
        fix = 'They are left out.' if text.optional else 'Fill in or drop them.'
        self.add(state, config, f'an empty {name}', fix, where)
        full = False
    return full

  def _choice(self, config, entry, choice):
    """Looks for the answer among its options."""
    row = f'{entry.where} {choice.key}'
    if choice.right is None:
      fix = 'Correct_Answer is a letter of Options; in real_*, one of options.'
      self.add(FAIL, config, 'options without the answer', fix, row)
    if len(set(choice.options)) < len(choice.options):
      fix = 'The letter of a choice is then ambiguous.'
      self.add(WARN, config, 'an option that occurs twice', fix, row)
