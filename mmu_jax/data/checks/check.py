"""Looks through a folder of data and says everything that is wrong with it.

A reader stops at the first problem; a download of some gigabytes is better
looked through once, with all problems at hand.
"""

import os
import pathlib
from typing import Any, NamedTuple

from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks.look import Survey
from mmu_jax.data.readers import mllmu_rows
from mmu_jax.data.readers import own
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import OK
from mmu_jax.errors import UserError
from mmu_jax.errors import WARN


class Report(NamedTuple):
  """Kind of data in a folder, and its problems.

  Attributes:
    folder: folder that was looked through.
    kind: 'MLLMU-Bench', 'MLLMU training', 'CLEAR', 'own data', or ''.
    rows: number of rows of each config.
    findings: problems of each config, errors first. FAIL: a reader stops, or
      scores would be wrong. WARN: the reader leaves rows out, or it may be
      meant. OK: worth knowing, and read as it is.
  """

  folder: pathlib.Path
  kind: str
  rows: dict[str, int]
  findings: tuple[Finding, ...]

  @property
  def failed(self) -> bool:
    """Whether there is an error."""
    return any(finding.state == FAIL for finding in self.findings)


def check(folder: str | os.PathLike) -> Report:
  """Looks through a folder of data; every picture is decoded once.

  Forget and retain set overlap where they share a person, a picture (equal
  pixels, whatever the file), or a text that stands for itself: a question
  without a picture, or a caption. Of texts, equal words are an error and
  near-duplicates a warning: see ``overlap.near_duplicates``. Questions about
  pictures may be alike.

  Args:
    folder: folder of MLLMU-Bench, of its training rows or of CLEAR, or a file
      of own data.

  Returns:
    A ``Report``.

  Raises:
    FileNotFoundError: if there is nothing.
  """
  folder = pathlib.Path(folder)
  path = check_rows.own_file(folder)
  look = Survey(folder)
  if path is not None:
    look.kind = check_rows.OWN
    wrong = lambda error: look.add(FAIL, path.name, str(error))
    look.config(path.name, own.records(path, wrong))
  else:
    _check_configs(folder, look)
  look.compare()
  order = [FAIL, WARN, OK]
  findings = sorted(look.findings(), key=lambda f: order.index(f.state))
  return Report(folder, look.kind, look.rows, tuple(findings))


def tables(report: Report) -> list[Any]:
  """Returns what to print of a report: rich tables and lines."""
  from rich import box
  from rich.markup import escape
  from rich.table import Table

  title = f'{report.folder}: {report.kind or "no known kind of data"}'
  counted = Table('config', box=box.SIMPLE_HEAD)
  counted.add_column('rows', justify='right')
  for config, rows in report.rows.items():
    counted.add_row(escape(config), str(rows))
  counts = {
    state: sum(f.state == state for f in report.findings)
    for state in (FAIL, WARN, OK)
  }
  called = {FAIL: 'error', WARN: 'warning', OK: 'note'}
  lines = [finding.line() for finding in report.findings]
  said = ', '.join(
    f'{n} {called[s]}{"s" * (n != 1)}' for s, n in counts.items()
  )
  return [escape(title), counted, *lines, said]


def _check_configs(folder, look):
  """Looks at every config of a folder."""
  names = parquet.configs(folder)
  files, columns = {}, {}
  for config in names:
    try:
      files[config] = parquet.splits(folder, config)
      paths = [path for found in files[config].values() for path in found]
      opened = [parquet.open_file(path) for path in paths]
      columns[config] = set(opened[0].schema_arrow.names)
    except (UserError, OSError) as error:
      look.add(FAIL, config, str(error))
  look.kind = check_rows.kind_of(
    columns | {n: set() for n in names if n not in columns}
  )
  if not look.kind:
    look.add(
      FAIL,
      str(folder),
      'no benchmark and no file of own data; it '
      f'has {", ".join(names) or "no parquet files"}',
      'Give the folder of MLLMU-Bench, of its training rows or of '
      'CLEAR, with one folder for each config.',
    )
    return
  for config in columns:
    _check_config(folder, config, files[config], columns[config], look)
  _check_names(names, look)
  if look.kind == check_rows.MLLMU:
    _check_people(look)


def _check_config(folder, config, files, found, look):
  """Looks at the columns of a config, then at its rows."""
  known = check_rows.CONFIGS[look.kind]
  if config not in known:
    near = parquet.nearest(config, known)
    if near:
      look.add(
        FAIL,
        config,
        'a config of this name is not read',
        f'Rename the folder to {near}.',
      )
    return
  for split in files:
    if split != 'train':
      look.add(
        FAIL,
        config,
        f'the split {split!r} is not read',
        'Readers take the split train: name the files '
        'train-00000-of-00001.parquet.',
      )
  wanted = check_rows.columns(look.kind, config)
  for name, near in parquet.missing_columns(wanted, sorted(found)).items():
    fix = (
      f'Rename {near!r} to {name!r}.'
      if near
      else ('Get the file again from the hub.')
    )
    look.add(FAIL, config, f'the column {name!r} is missing', fix)
  more = check_rows.optional(look.kind, config)
  some = [name for name in (*wanted, *more) if name in found]
  rows = (
    row
    for paths in files.values()
    for path in paths
    for row in parquet.read_file(path, some)
  )
  look.config(config, ((f'row {i}', row) for i, row in enumerate(rows)))
  published = known[config]
  if published not in (None, look.rows[config]):
    look.add(
      OK, config, f'{look.rows[config]} rows; {published} were published'
    )


def _check_names(names, look):
  """Looks for configs that are needed together."""
  for config in check_rows.CONFIGS[look.kind]:
    if not config.startswith(('forget', 'retain')) and config not in names:
      look.add(
        WARN,
        config,
        'this config is not here',
        'A dataset is made of all: download it.',
      )
  pairs = check_rows.pairs(look.kind)
  if not any(set(pair) <= set(names) for pair in pairs):
    shown = ' or '.join(' with '.join(pair) for pair in pairs)
    look.add(
      FAIL,
      str(look.folder),
      'no forget set with its retain set',
      f'Download {shown}.',
    )


def _check_people(look):
  """Looks for people of whom a config of MLLMU-Bench lacks what another has."""
  people = look.people
  for pair in check_rows.pairs(look.kind):
    if not set(pair) <= set(people):
      continue
    forget, retain = (people[config] for config in pair)
    taught = people.get('ft_Data')
    found = mllmu_rows.unmatched(forget, retain, taught, people.get('Test_Set'))
    for what, who in found.items():
      nobody = what == mllmu_rows.UNTAUGHT and not forget & taught
      look.add(
        FAIL if nobody else WARN,
        ' and '.join(pair),
        f'{len(who)} {what}: {reading.some(who)}.',
        'The configs must be of one download, with the same IDs.',
      )
