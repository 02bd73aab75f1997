"""How numbers and names of a plan stand in tables of 80 columns or more."""

from collections.abc import Iterable
from typing import Any

from mmu_jax.planning import search

GIB = 2**30


def gib(size: float) -> str:
  """Returns bytes in GiB with two digits.

  Example:
    >>> gib(3 * 2**29)
    '1.50'
  """
  return f'{size / GIB:,.2f}'


def number(x: float) -> str:
  """Returns a number in at most five characters, if it is below 10,000.

  Example:
    >>> [number(x) for x in (0, 0.00002, 0.5, 2.25, 123.4, 1234.5)]
    ['0', '2e-05', '0.500', '2.25', '123.4', '1,234']
  """
  if not x:
    return '0'
  if x < 0.001:
    return f'{x:.0e}'
  for below, digits in ((0.9995, 3), (99.995, 2), (999.95, 1)):
    if x < below:
      return f'{x:.{digits}f}'
  return f'{x:,.0f}'


def hundredths(x: float) -> str:
  """Returns a number with two digits behind the point, or fewer from 100 on.

  Example:
    >>> [hundredths(x) for x in (0.054, 12.3, 123.4)]
    ['0.05', '12.30', '123.4']
  """
  return f'{x:.2f}' if x < 99.995 else number(x)


def fits(peak: float, hbm: int) -> str:
  """Returns 'yes', 'tight' or 'no'; '' without a limit."""
  if not hbm:
    return ''
  tight = peak > search.TIGHT * hbm
  return 'no' if peak > hbm else 'tight' if tight else 'yes'


def short(names: list[str]) -> str:
  """Returns names of one row, the steps of one stage together.

  Example:
    >>> short(['ga forget', 'ga_diff forget', 'ga_diff retain'])
    'ga forget; ga_diff forget, retain'
  """
  steps: dict[str, list[str]] = {}
  for name in names:
    stage, _, step = name.partition(' ')
    steps.setdefault(stage, []).append(step)
  return '; '.join(
    f'{stage} {", ".join(found)}'.strip() for stage, found in steps.items()
  )


def table(title: str, left: Iterable[str], right: Iterable[str]) -> Any:
  """Returns an empty table with some columns flush left, then flush right.

  Args:
    title: '' for none.
    left: titles of columns of names, which wrap at spaces.
    right: titles of columns of numbers, which stay whole.
  """
  from rich import box
  from rich import table as rich_table

  made = rich_table.Table(
    title=title or None,
    box=box.SIMPLE_HEAD,
    padding=0,
    show_edge=False,
    title_justify='left',
    title_style='bold',
  )
  for name in left:
    made.add_column(name, overflow='fold', min_width=12)
  for name in right:
    made.add_column(name, justify='right', no_wrap=True)
  return made


def add(made: Any, *cells: str, bold: bool = False) -> None:
  """Adds a row; what is in brackets stays, though rich would take it for
  markup."""
  from rich import text

  style = 'bold' if bold else ''
  made.add_row(*(text.Text(cell) for cell in cells), style=style)


def filled(
  titles: Iterable[str], rows: list[tuple[str, ...]]
) -> tuple[list[str], list[list[str]]]:
  """Returns columns without those that are empty in every row.

  Args:
    titles: of the columns.
    rows: cells, '' where there is nothing.

  Example:
    >>> filled(['a', 'b'], [('1', ''), ('2', '')])
    (['a'], [['1'], ['2']])
  """
  titles = list(titles)
  stay = [i for i in range(len(titles)) if any(row[i] for row in rows)]
  return [titles[i] for i in stay], [[row[i] for i in stay] for row in rows]
