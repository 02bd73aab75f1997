"""Looks through a folder of data and says everything that is wrong with it.

A reader stops at the first problem; a download of some gigabytes is better
looked through once, with all problems at hand.
"""

import os
import pathlib
from typing import Any, NamedTuple

from mmu_jax import inputs
from mmu_jax.data.checks import check_rows
from mmu_jax.data.checks.counts import Count
from mmu_jax.data.checks.counts import count_parts
from mmu_jax.data.checks.counts import read_all
from mmu_jax.data.checks.look import Survey
from mmu_jax.data.readers import own
from mmu_jax.data.readers import parquet
from mmu_jax.errors import FAIL
from mmu_jax.errors import Finding
from mmu_jax.errors import MissingError
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
    counts: sizes of each part as the stages read it; empty if they cannot.
  """

  folder: pathlib.Path
  kind: str
  rows: dict[str, int]
  findings: tuple[Finding, ...]
  counts: tuple[Count, ...] = ()

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
  folder = pathlib.Path(folder).expanduser()
  _check_there(folder)
  path = check_rows.own_file(folder)
  look = Survey(folder)
  if path is not None:
    look.kind = check_rows.OWN
    wrong = lambda error: look.add(FAIL, path.name, str(error))
    look.config(path.name, own.records(path, wrong))
  else:
    _check_configs(folder, look)
  look.compare()
  sizes = _read(look, path or folder)
  order = [FAIL, WARN, OK]
  findings = sorted(look.findings(), key=lambda f: order.index(f.state))
  return Report(folder, look.kind, look.rows, tuple(findings), sizes)


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
  parts = Table('split', 'modality', 'use', box=box.SIMPLE_HEAD)
  for name in ('rows', 'pictures', 'entities'):
    parts.add_column(name, justify='right')
  for part in report.counts:
    parts.add_row(*map(str, part))
  numbers = {
    state: sum(f.state == state for f in report.findings)
    for state in (FAIL, WARN, OK)
  }
  called = {FAIL: 'error', WARN: 'warning', OK: 'note'}
  lines = [finding.line() for finding in report.findings]
  said = ', '.join(
    f'{n} {called[s]}{"s" * (n != 1)}' for s, n in numbers.items()
  )
  shown = [counted, parts] if report.counts else [counted]
  return [escape(title), *shown, *lines, said]


def _check_there(path):
  """Raises if there is nothing; names what may be meant."""
  if path.exists():
    return
  near = parquet.nearest(path.name, [p.name for p in path.parent.glob('*')])
  if not near and not path.suffix:
    raise inputs.no_folder(path, 'dataset')
  hint = f' (is {near!r} meant?)' if near else ''
  raise MissingError(
    f'there is no file or folder {str(path)[:200]}{hint}. Give a .jsonl or '
    '.parquet file of own data, or the folder of a benchmark.'
  )


def _read(look, path) -> tuple[Count, ...]:
  """Reads the data as the stages do; an error that is new is a finding."""
  found = []
  try:
    found.extend(read_all(look.kind, path))
  except (UserError, OSError) as error:
    fix = ''
    if look.kind == check_rows.MLLMU and 'ft_Data' not in look.rows:
      fix = (
        'Download ft_Data, or set train_path to MLLMMU/baseline_train_split.'
      )
    # Or it stops at an error that is known.
    if not any(finding.state == FAIL for finding in look.findings()):
      look.add(FAIL, path.name, f'the reader stops: {error}', fix)
  for note in dict.fromkeys(note for data in found for note in data.notes):
    look.add(WARN, path.name, note)
  return count_parts(found[0]) if found else ()


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
    held = ', '.join(names) or 'no parquet files'
    said = f'no benchmark and no file of own data; it has {held}'
    fix = 'Give the folder of MLLMU-Bench, of its training rows or of CLEAR.'
    fix += ' Of own data give the file, .jsonl or .parquet.'
    look.add(FAIL, str(folder), said, fix)
    return
  for config in columns:
    _check_config(folder, config, files[config], columns[config], look)
  _check_names(names, look)


def _check_config(folder, config, files, found, look):
  """Looks at the columns of a config, then at its rows."""
  known = check_rows.CONFIGS[look.kind]
  if config not in known:
    near = parquet.nearest(config, known)
    if near:
      said = 'a config of this name is not read'
      look.add(FAIL, config, said, f'Rename the folder to {near}.')
    return
  for split in files:
    if split != 'train':
      fix = 'Readers take train: name it train-00000-of-00001.parquet.'
      look.add(FAIL, config, f'the split {split!r} is not read', fix)
  wanted = check_rows.columns(look.kind, config)
  for name, near in parquet.missing_columns(wanted, sorted(found)).items():
    fix = f'Rename {near!r} to {name!r}.' if near else 'Get the file again.'
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
    said = f'{look.rows[config]} rows; {published} were published'
    look.add(OK, config, said)


def _check_names(names, look):
  """Looks for configs that are needed together."""
  for config in check_rows.CONFIGS[look.kind]:
    if not config.startswith(('forget', 'retain')) and config not in names:
      fix = 'A dataset is made of all: download it.'
      look.add(WARN, config, 'this config is not here', fix)
  pairs = check_rows.pairs(look.kind)
  if not any(set(pair) <= set(names) for pair in pairs):
    shown = ' or '.join(' with '.join(pair) for pair in pairs)
    said = 'no forget set with its retain set'
    look.add(FAIL, str(look.folder), said, f'Download {shown}.')
