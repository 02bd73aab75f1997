"""Spoils inputs and counts how they are met: clear, unclear, silent.

An attack has three parts: cases, each a spoiled file; `make`, which writes a
valid input into a folder; `run`, which reads the input and returns its meaning
as something that can be compared::

    outcomes = fuzzing.attack(cases, make, run, folder)
    fuzzing.check(outcomes, most_unclear=0.02)

Bad JSON is made by `json_cases`, for any file of JSON.
"""

import collections
from collections.abc import Callable, Sequence
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

import numpy as np

from mmu_jax.errors import UserError

CLEAR = 'clear'  # an error of ours, or a note on another, names the file
UNCLEAR = 'unclear'  # another exception, or an error without the file
SILENT = 'silent'  # invalid, and read with another meaning
HARMLESS = 'harmless'  # read as before, or validly changed


class Case(NamedTuple):
  """One spoiled input.

  Attributes:
    name: what is done, for the reader of a failure.
    file: name of the file that an error must name.
    mutate: function of the folder that spoils the file.
    invalid: whether no reader may take the result with another meaning.
  """

  name: str
  file: str
  mutate: Callable[[pathlib.Path], None]
  invalid: bool = True


class Outcome(NamedTuple):
  """How a case was met: one of the kinds above, and the words of the error."""

  case: Case
  kind: str
  said: str = ''


def attack(
  cases: Sequence[Case],
  make: Callable[[pathlib.Path], None],
  run: Callable[[pathlib.Path], Any],
  folder: pathlib.Path,
) -> list[Outcome]:
  """Runs every case on a fresh copy of the valid input."""
  valid = folder / 'valid'
  make(valid)
  before = run(valid)
  assert run(valid) == before, 'a valid input has one meaning'
  outcomes = []
  for i, case in enumerate(cases):
    copy = folder / f'case{i}'
    shutil.copytree(valid, copy)
    case.mutate(copy)
    outcomes.append(_outcome(case, run, copy, before))
    shutil.rmtree(copy)
  return outcomes


def _outcome(case, run, folder, before) -> Outcome:
  try:
    after = run(folder)
  except UserError as error:
    named = case.file in str(error)
    return Outcome(case, CLEAR if named else UNCLEAR, str(error))
  # Any other exception is the fault that is looked for.
  except BaseException as error:  # noqa: BLE001
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
      raise
    notes = '\n'.join(getattr(error, '__notes__', ()))
    kind = CLEAR if case.file in notes else UNCLEAR
    return Outcome(case, kind, f'{type(error).__name__}: {error}\n{notes}')
  changed = case.invalid and after != before
  return Outcome(case, SILENT if changed else HARMLESS)


def chosen(cases: Sequence[Case], number: int, seed: int = 0) -> list[Case]:
  """Some cases, in their order; all with MMU_FUZZ=all in the environment."""
  if os.environ.get('MMU_FUZZ') == 'all':
    return list(cases)
  order = np.random.default_rng(seed).permutation(len(cases))
  return [cases[i] for i in sorted(order[:number])]


def count(outcomes: Sequence[Outcome]) -> collections.Counter:
  """Kind -> number of outcomes."""
  return collections.Counter(outcome.kind for outcome in outcomes)


def check(outcomes: Sequence[Outcome], most_unclear: float) -> None:
  """Fails above a share of unclear outcomes, or for any silent one."""
  found = count(outcomes)
  print(dict(found))
  bad = [
    f'{o.kind}: {o.case.name}: {o.said[:300]}'
    for o in outcomes
    if o.kind in (UNCLEAR, SILENT)
  ]
  text = '\n'.join([str(dict(found)), *bad])
  assert not found[SILENT], text
  assert found[UNCLEAR] < most_unclear * len(outcomes), text
  assert found[CLEAR] > len(outcomes) / 4, text  # or nothing was spoiled


def replaced(file: str, value: Any) -> Callable[[pathlib.Path], None]:
  """A mutation that writes a file anew: bytes as they are, others as JSON."""
  made = value if isinstance(value, bytes) else json.dumps(value).encode()
  return lambda folder: (folder / file).write_bytes(made)


GARBAGE = {
  'empty': b'',
  'null': b'null',
  'a list': b'[1, 2]',
  'a text': b'"text"',
  'a number': b'3',
  'cut off': b'{"a": ',
  'no JSON': b'<html>404</html>',
  'no text': b'\xff\xfe\x00\x80',
  'deep': b'[' * 100_000,
}
_WRONG = (None, -1, 0, 1e30, float('nan'), 'text', '', [], {}, [None], True)


def garbage_cases(file: str) -> list[Case]:
  """A file of JSON in which nothing is as it should be."""
  return [
    Case(f'{file} is {name}', file, replaced(file, made))
    for name, made in GARBAGE.items()
  ]


def json_cases(file: str, valid: Any, seed: int, number: int) -> list[Case]:
  """Cases that give random fields of a JSON file a value of another type."""
  rng = np.random.default_rng(seed)
  places = list(places_of(valid))
  cases = []
  while len(cases) < number:
    path = places[rng.integers(len(places))]
    value = _WRONG[rng.integers(len(_WRONG))]
    old = _get(valid, path)
    if type(value) is type(old):
      continue
    made = put(json.loads(json.dumps(valid)), path, value)
    said = '.'.join(map(str, path))
    name, mutate = f'{file}: {said} = {value!r}', replaced(file, made)
    # Null often stands for a field that is not there: a default is no fault.
    cases.append(Case(name, file, mutate, invalid=value is not None))
  return cases


def places_of(value, path=()):
  """The paths of all fields, of lists too; no more than 40 of a group."""
  entries = (
    value.items()
    if isinstance(value, dict)
    else enumerate(value)
    if isinstance(value, list)
    else ()
  )
  for key, inner in list(entries)[:40]:
    yield (*path, key)
    yield from places_of(inner, (*path, key))


def _get(value, path):
  for key in path:
    value = value[key]
  return value


def put(value, path, new):
  place = _get(value, path[:-1])
  place[path[-1]] = new
  return value
