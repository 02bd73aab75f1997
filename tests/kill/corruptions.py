"""Ways to damage a workdir, drawn at random."""

from collections.abc import Mapping
import json
import pathlib
import random
import re
import shutil
from typing import Any, NamedTuple

# Kind of file -> pattern of its path below the folder of job and data.
FILES = {
  'data rows': r'data/people\.jsonl',
  'data picture': r'data/\d\.png',
  'world.json': r'job/world\.json',
  'config.json of the job': r'job/config\.json',
  'manifest.json': r'job/manifest\.json',
  'results': r'job/results\.jsonl',
  'seal of results': r'job/results\.jsonl\.seal',
  'old report': r'job/(report\.html|gallery\.\w+|plots/.*)',
  'partial answers': r'.*\.partial\.jsonl',
  'answers': r'job/predictions/.*[a-z]\.jsonl',
  'seal of answers': r'job/predictions/.*_q?\w+\.jsonl\.seal',
  'note of answers': r'job/predictions/.*/note\.json(\.seal)?',
  'config.json of answers': r'job/predictions/.*/config\.json',
  'log': r'.*/metrics\.jsonl',
  'seal of a log': r'.*/metrics\.jsonl\.seal',
  'timing': r'.*/timing\.jsonl',
  'copy of a note': r'job/(?!predictions).*/note\.json',
  'config.json of a tree': r'job/(?!predictions).+/config\.json',
  'note of a tree': r'.*/\d+/_NOTE',
  'checksums of a tree': r'.*/\d+/_DIGESTS',
  'arrays': r'.*/\d+/.*',
}
# Kind of folder -> pattern of its path; those of a kind are exchanged.
FOLDERS = {
  'model folder': r'job/(vanilla|retrained|unlearned/\w+|attacks/noise/\w+)',
  'params folder': r'job/.*/params',
  'step folder': r'job/.*/\d+',
  'mask folder': r'job/mask/\w+',
  'importance folder': r'job/importance/\w+',
  'answers folder': r'job/predictions/(.*/)?(vanilla|retrained|ga_.+|m\w+)',
  'protocol folder': r'job/predictions/fixed-1shot',
  'stage folder': r'job/(unlearned|mask|importance|predictions|base|attacks)',
}
# Files that belong together, and are exchanged or deleted so, too.
PAIRS = ('results', 'answers', 'note of answers', 'log')


class Made(NamedTuple):
  """A corruption: the kind of file or folder, and what was done to it."""

  kind: str
  what: str


def corrupt(
  now: pathlib.Path,
  others: Mapping[str, pathlib.Path],
  start: str,
  rng: random.Random,
) -> Made | None:
  """Damages a copy of a job in one way.

  Args:
    now: folder of ``job/`` and ``data/``.
    others: folders of other jobs, 'seed' and 'rate' among them.
    start: 'stopped' damages those parts that a stopped job alone has.
    rng: random numbers.

  Returns:
    The corruption; None where it changed nothing.
  """
  table = FOLDERS if rng.random() < 0.35 else FILES
  kind = rng.choice(list(table))
  if start == 'stopped':
    table, kind = FILES, rng.choice(['partial answers', 'log', 'arrays'])
  found = _find(now, table, kind)
  if start == 'stopped' and kind != 'partial answers':
    found = [path for path in found if 'unlearned/masked' in path.as_posix()]
  if not found:
    return None
  path = rng.choice(found)
  if table is FOLDERS:
    what = rng.choice(('delete', 'exchange', 'bring', 'rename', 'over'))
  elif kind in PAIRS and rng.random() < 0.4:
    what = rng.choice(('delete', 'exchange', 'bring', 'over'))
  else:
    what = rng.choice((*_EDITS, 'delete', 'exchange', 'bring'))
  if what in _EDITS:
    before = path.read_bytes()
    after = _EDITS[what](before, rng)
    if after is None or after == before:
      return None
    path.write_bytes(after)
    return Made(kind, f'{what} {path.relative_to(now)}')
  both = table is FILES and kind in PAIRS and rng.random() < 0.6
  said = _move(what, path, found, now, others, both, rng)
  return said and Made(kind, said)


def _find(now: pathlib.Path, table: Mapping[str, str], kind: str) -> list:
  """All files or folders of a kind, and of no kind before it."""
  found = []
  for path in sorted(now.rglob('*')):
    name = path.relative_to(now).as_posix()
    if path.is_file() != (table is FILES):
      continue
    kinds = [k for k, form in table.items() if re.fullmatch(form, name)]
    if kinds[:1] == [kind]:
      found.append(path)
  return found


def _move(what, path, found, now, others, both, rng) -> str | None:
  """Deletes, exchanges, renames or brings a file or folder."""
  name = path.relative_to(now)
  parts = ['', '.seal'] if both else ['']
  said = f'{what} {name}' + (' with its seal' if both else '')
  side = lambda path, part: path.with_name(path.name + part)
  if what == 'delete':
    for part in parts:
      _remove(side(path, part))
    return said
  if what == 'rename':
    path.rename(path.with_name(path.name.removesuffix('1') + '1'))
    return said
  if what == 'bring':
    other = rng.choice(('seed', 'rate'))
    for part in parts:
      source = side(others[other] / name, part)
      if not source.exists() or _same(source, side(path, part)):
        return None
      _copy(source, side(path, part))
    return f'{said} from the job of another {other}'
  more = [
    other
    for other in found
    if other != path
    and path not in other.parents
    and other not in path.parents
    and (other.is_dir() or other.name == path.name or 'data' in name.parts)
  ]
  if not more:
    return None
  other = rng.choice(more)
  for part in parts:
    a, b = side(path, part), side(other, part)
    if not (a.exists() and b.exists()) or _same(a, b):
      return None
    aside = a.with_name('aside')
    if what == 'over':
      _copy(b, a)
    else:
      a.rename(aside)
      b.rename(a)
      aside.rename(b)
  return f'{said} and {other.relative_to(now)}'


def _same(a: pathlib.Path, b: pathlib.Path) -> bool:
  """Whether two files hold the same bytes."""
  return a.is_file() and b.is_file() and a.read_bytes() == b.read_bytes()


def _remove(path: pathlib.Path) -> None:
  """Removes a file or folder."""
  shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _copy(source: pathlib.Path, path: pathlib.Path) -> None:
  """Copies a file or folder over another."""
  _remove(path)
  (shutil.copytree if source.is_dir() else shutil.copy)(source, path)


def _cut(content: bytes, rng) -> bytes:
  """The first part of a file."""
  return content[: rng.randrange(max(len(content), 1))]


def _flip(content: bytes, rng) -> bytes | None:
  """A file with another bit."""
  if not content:
    return None
  found = bytearray(content)
  found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
  return bytes(found)


def _digit(content: bytes, rng) -> bytes | None:
  """A file with another digit, in a value of JSON where it is JSON."""
  places = [m.start() for m in re.finditer(rb'\d', content)]
  if not places:
    return None
  at = rng.choice(places)
  new = rng.choice([d for d in b'123456789' if d != content[at]])
  return content[:at] + bytes([new]) + content[at + 1 :]


def _value(content: bytes, rng) -> bytes | None:
  """JSON, or one line of it, with another value somewhere."""
  lines = content.split(b'\n')
  try:
    try:
      value, at = json.loads(content), None
    except ValueError:
      at = rng.randrange(len(lines))
      value = json.loads(lines[at])
  except ValueError:
    return None
  if not isinstance(value, dict) or not value:
    return None
  _change(value, rng)
  if at is None:
    return json.dumps(value, indent=2).encode() + b'\n'
  lines[at] = json.dumps(value).encode()
  return b'\n'.join(lines)


def _change(value: Any, rng) -> None:
  """Changes one leaf of a JSON value in its place."""
  keys = list(value) if isinstance(value, dict) else range(len(value))
  key = rng.choice(list(keys))
  old = value[key]
  if isinstance(old, (dict, list)) and old:
    _change(old, rng)
  elif isinstance(old, bool) or old is None:
    value[key] = not old
  elif isinstance(old, (int, float)):
    value[key] = old + 1 if rng.random() < 0.5 else round(old * 0.9, 4) + 0.01
  else:
    value[key] = f'{old}x' if isinstance(old, str) else {'x': 1}


def _without_line(content: bytes, rng) -> bytes:
  """A file that lost a line."""
  lines = content.splitlines(keepends=True)
  lines.pop(rng.randrange(len(lines))) if lines else None
  return b''.join(lines)


def _twice(content: bytes, rng) -> bytes | None:
  """A file with a line twice."""
  lines = content.splitlines(keepends=True)
  if not lines:
    return None
  at = rng.randrange(len(lines))
  return b''.join([*lines[:at], lines[at], *lines[at:]])


_EDITS = {
  'cut': _cut,
  'empty': lambda content, rng: b'',
  'flip a bit of': _flip,
  'change a digit of': _digit,
  'change a value of': _value,
  'delete a line of': _without_line,
  'double a line of': _twice,
}
