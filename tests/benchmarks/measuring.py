"""Lines of a benchmark: times of calls that take turns, and their ratios."""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any, NamedTuple

import jax

Call = Callable[[], Any]


class Line(NamedTuple):
  """One line of the table.

  Attributes:
    row: name of the measurement.
    model: name of the model.
    way: name of the thing that was measured.
    values: one number for each repeat.
    unit: unit of the values; seconds mostly.
    over: name of the thing that it is divided by; '' for none.
    ratio: quotients of the two, repeat by repeat.
    torch: quotients of torch's seconds and these; none without torch.
  """

  row: str
  model: str
  way: str
  values: Sequence[float]
  unit: str = 's'
  over: str = ''
  ratio: Sequence[float] = ()
  torch: Sequence[float] = ()


def take_turns(
  ways: Mapping[str, Call], repeats: int
) -> dict[str, list[float]]:
  """Returns the seconds of every call, each once in every repeat.

  A call before the first compiles. The order is turned round from repeat to
  repeat, so that a machine that gets slower is unfair to nobody.

  Args:
    ways: name -> function without arguments, whose result is waited for.
    repeats: number of timed calls of each.
  """
  for call in ways.values():
    jax.block_until_ready(call())
  found: dict[str, list[float]] = {name: [] for name in ways}
  for turn in range(repeats):
    for name in list(ways)[:: -1 if turn % 2 else 1]:
      started = time.perf_counter()
      jax.block_until_ready(ways[name]())
      found[name].append(time.perf_counter() - started)
  return found


def compare(
  row: str,
  model: str,
  ways: Mapping[str, Call],
  repeats: int,
  over: Mapping[str, str],
  torch: Mapping[str, str] | None = None,
) -> list[Line]:
  """Times calls that take turns.

  Args:
    row: name of the measurement.
    model: name of the model.
    ways: name -> function without arguments.
    repeats: number of timed calls of each.
    over: way -> way that it is divided by; a line for each of these.
    torch: way -> way of torch to divide by it; those that are missing are
      left out.
  """
  seconds = take_turns(ways, repeats)
  divide = lambda a, b: [x / y for x, y in zip(a, b)]
  lines = []
  for way, base in over.items():
    ratio = divide(seconds[way], seconds[base]) if base else ()
    theirs = seconds.get((torch or {}).get(way, ''), ())
    line = Line(row, model, way, seconds[way], 's', base, ratio)
    lines.append(line._replace(torch=divide(theirs, seconds[way])))
  return lines


HEAD = ('row', 'model', 'way', 'median', 'unit', 'ratio', 'over', 'torch / it')
WIDTHS = (11, 12, 26, 9, 9, 20, 24, 20)


def heading() -> str:
  """Returns the two first lines of the table."""
  return f'{_row(HEAD)}\n{_row("-" * n for n in WIDTHS)}'


def shown(line: Line) -> str:
  """Returns a line of the table; medians, with the least and the most."""
  median = f'{statistics.median(line.values):.4g}'
  ratio, torch = _spread(line.ratio), _spread(line.torch)
  first = (line.row, line.model, line.way, median, line.unit)
  return _row((*first, ratio, line.over, torch))


def write(path: pathlib.Path, lines: Sequence[Line], **told: Any) -> None:
  """Writes lines as JSON, with the machine and other fields."""
  about = {
    'device': jax.devices()[0].device_kind,
    'devices': jax.device_count(),
    'cores': os.cpu_count(),
    'load': os.getloadavg()[0],
    'jax': jax.__version__,
    'python': platform.python_version(),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  made = {**about, **told, 'lines': [line._asdict() for line in lines]}
  path.write_text(json.dumps(made, indent=1) + '\n')


def _row(cells) -> str:
  return '| ' + ' | '.join(f'{c:{n}}' for c, n in zip(cells, WIDTHS)) + ' |'


def _spread(values: Sequence[float]) -> str:
  """Median (least-most)."""
  if not values:
    return ''
  middle = statistics.median(values)
  return f'{middle:.3g} ({min(values):.3g}-{max(values):.3g})'
