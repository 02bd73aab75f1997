"""Records in which order names and contents come to the disk."""

import os
import pathlib
from typing import NamedTuple


class Event(NamedTuple):
  """A file or folder that was synced, or that got its name."""

  kind: str  # 'sync' or 'rename'
  path: pathlib.Path
  held: frozenset[str]  # names in a folder at that moment


def record(monkeypatch) -> list[Event]:
  """Returns a list that grows with every fsync and rename of this process."""
  events = []
  sync, calls = os.fsync, {name: getattr(os, name) for name in RENAMES}

  def synced(number):
    path = pathlib.Path(os.readlink(f'/proc/self/fd/{number}'))
    held = frozenset(os.listdir(path) if path.is_dir() else ())
    sync(number)
    events.append(Event('sync', path, held))

  def renamed(name):
    def call(old, new, **options):
      calls[name](old, new, **options)
      events.append(Event('rename', pathlib.Path(new).absolute(), frozenset()))

    return call

  monkeypatch.setattr(os, 'fsync', synced)
  for name in RENAMES:
    monkeypatch.setattr(os, name, renamed(name))
  return events


def before(events: list[Event], path: pathlib.Path) -> list[Event]:
  """Returns the events before a path got its name."""
  return events[: _place(events, path)]


def is_lasting(events: list[Event], path: pathlib.Path) -> bool:
  """Whether the folder of a path was synced after the path got its name."""
  after = events[_place(events, path) :]
  return any(e.path == path.parent and path.name in e.held for e in after)


def _place(events, path):
  return max(i for i, e in enumerate(events) if e[:2] == ('rename', path))


RENAMES = ('rename', 'replace')
