"""Measures how easy the code is to live in: counts of one checkout or more.

    python tests/benchmarks/house_figures.py [DIR ...]   # a Markdown table
    python tests/benchmarks/house_figures.py --list      # and the names behind
    python tests/benchmarks/house_figures.py --check     # fails beyond LIMITS

It reads `mmu_jax/**/*.py`, README.md and the names of tests. Definitions:

- module: a file that is not `__init__.py`; lines include `__init__.py`.
- public name: a function or class at the top level, without a leading
  underscore. Constants and methods do not count.
- NamedTuple: a class at the top level with that base, public or private.
- entry: a line of `Args:` or `Attributes:` with its continuation lines.
- fragment: an entry that opens with a preposition ("of the whole batch").
- without a noun first: an entry that opens with a preposition, a relative word
  ("whose rows", "what to save") or a verb ("encodes rows"). "Whether" is fine.
  Both go by lists of words, not by grammar.
- mirrored test: `mmu_jax/a/b.py` is tested by `tests/a/test_b.py`.
- 'what' as a noun: "what" before is, was, it, they, its, a, an, the, each, one.
"""

import argparse
import ast
import collections
import math
import pathlib
import re
import statistics
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]

TOP = 'modules at the top of the package'
FULLEST = 'modules in the fullest folder'
SHARED = 'names in 2 or more modules'
SKIPS = '`fmt: skip`'
FIRST_PYTHON = 'README: line of the first Python'
FRAGMENTS = 'entries that are fragments, %'
NOUNLESS = 'entries without a noun first, %'
UNTESTED = 'modules without a mirrored test'
THAT_OF = "'that of / those of' per 1,000 words"
WHAT = "'what' as a noun per 1,000 words"

# No figure may exceed its limit.
LIMITS = {
  'package lines': 42_220,  # 22,000 were wanted; guards, attacks, methods since
  TOP: 13,
  FULLEST: 10,
  SHARED: 15,
  SKIPS: 0,
  'README lines': 150,
  FIRST_PYTHON: 40,
  FRAGMENTS: 0,
  NOUNLESS: 0,
  UNTESTED: 1,  # typing.py has types alone
  THAT_OF: 0.1,
  WHAT: 0.2,
  'planning lines': 1_620,  # 850 are wanted; adapters, blocks since
}

_PREPOSITIONS = frozenset(
  """about above after against among as at before behind below beside between
  beyond by during for from in inside instead into like of on out outside over
  per since through to toward under until up upon with within without""".split()
)
_OPENINGS = _PREPOSITIONS | frozenset(
  """what how when where which who whom whose why that so also even
  asks builds decodes divides draws encodes ends gets gives goes has holds is
  keeps knows makes must needs reads says see sees takes tells was""".split()
)
_PHRASES = {
  THAT_OF: re.compile(r'\b(?:that|those)\s+of\b', re.I),
  WHAT: re.compile(r'\bwhat\s+(?:is|was|it|they|its|an?|the|each|one)\b', re.I),
}
_WORD = re.compile(r"[A-Za-z']+")
_SECTION = re.compile(r'^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)*)', re.M)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Measured(NamedTuple):
  """Figures of one checkout.

  Attributes:
    figures: numbers by title, in the order of the table.
    lists: lines behind some of the figures, by the same titles.
    remarks: names shown beside some of the figures.
  """

  figures: dict[str, float]
  lists: dict[str, list[str]]
  remarks: dict[str, str]


def _entries(docstring):
  """Yields (name, text) of every entry below `Args:` and `Attributes:`."""
  for section in _SECTION.findall(docstring):
    lines = [line for line in section.splitlines() if line.strip()]
    indent = min((len(x) - len(x.lstrip()) for x in lines), default=0)
    entry = rf'^ {{{indent}}}(\S.*?):(?:\s+|$)(.*(?:\n {{{indent + 1},}}.*)*)'
    for name, text in re.findall(entry, '\n'.join(lines), re.M):
      yield name, ' '.join(text.split())


def _read_docstring(docstring, where, counts, lists):
  """Adds the words, phrases and entries of one docstring."""
  counts['words'] += len(_WORD.findall(docstring))
  for title, pattern in _PHRASES.items():
    for match in pattern.finditer(docstring):
      start, end = max(0, match.start() - 30), match.end() + 30
      text = ' '.join(docstring[start:end].split())
      lists[title].append(f'{where}: ...{text}...')
  for name, text in _entries(docstring):
    counts['entries'] += 1
    opening = text.split()[0].lower().strip(',;.:') if text else ''
    for title, words in ((FRAGMENTS, _PREPOSITIONS), (NOUNLESS, _OPENINGS)):
      if opening in words:
        lists[title].append(f'{where}({name}): {text}')


def measure(root=ROOT):
  """Returns the `Measured` of the checkout in a folder."""
  root = pathlib.Path(root)
  package = root / 'mmu_jax'
  counts, folders = collections.Counter(), collections.Counter()
  lists, owners = collections.defaultdict(list), collections.defaultdict(set)
  functions, files = [], {}

  # One pass over the files: lines, then names at the top level, then the
  # docstrings at every depth.
  for path in sorted(package.rglob('*.py')):
    name = path.relative_to(package).as_posix()
    source = path.read_text('utf-8')
    lines = source.splitlines()
    counts['lines'] += len(lines)
    counts['comments'] += sum(x.lstrip().startswith('#') for x in lines)
    counts['planning'] += len(lines) * name.startswith('planning/')
    for number, line in enumerate(lines, 1):
      if re.search(r'#\s*fmt:\s*(skip|off)', line):
        lists[SKIPS].append(f'{name}:{number}')
    if path.name != '__init__.py':
      files[name] = len(lines)
      folders[path.parent.relative_to(package).as_posix()] += 1
      test = pathlib.Path(name).with_name(f'test_{path.name}')
      if not (root / 'tests' / test).exists():
        lists[UNTESTED].append(name)

    tree = ast.parse(source, str(path))
    for node in tree.body:
      if isinstance(node, _NAMED) and not node.name.startswith('_'):
        counts['names'] += 1
        owners[node.name].add(name)
      if isinstance(node, ast.ClassDef) and any(
        ast.unparse(base).endswith('NamedTuple') for base in node.bases
      ):
        lists['NamedTuples'].append(f'{name}: {node.name}')
    for node in ast.walk(tree):
      if not isinstance(node, (*_NAMED, ast.Module)):
        continue
      if isinstance(node, _NAMED[:2]):
        functions.append(node.end_lineno - node.lineno + 1)
      where = f'{name}:{getattr(node, "lineno", 1)}'
      where += f' {getattr(node, "name", "module")}'
      _read_docstring(ast.get_docstring(node) or '', where, counts, lists)

  shared = [(k, sorted(v)) for k, v in owners.items() if len(v) > 1]
  for name, found in sorted(shared, key=lambda x: (-len(x[1]), x[0])):
    lists[SHARED].append(f'{name} ({len(found)}): {", ".join(found)}')
  top = folders.pop('.', 0)
  fullest = max(folders, key=folders.get, default='')
  longest = max(files, key=files.get, default='')
  readme = root / 'README.md'
  readme = readme.read_text('utf-8').splitlines() if readme.exists() else []
  blocks = [i for i, line in enumerate(readme, 1) if line.startswith('```py')]
  entries, words = max(counts['entries'], 1), max(counts['words'], 1)
  figures = {
    'package lines': counts['lines'],
    'modules': len(files),
    TOP: top,
    FULLEST: folders[fullest],
    'public names': counts['names'],
    'NamedTuples': len(lists['NamedTuples']),
    SHARED: len(lists[SHARED]),
    'whole-line comments, %': 100 * counts['comments'] / counts['lines'],
    SKIPS: len(lists[SKIPS]),
    'README lines': len(readme),
    FIRST_PYTHON: blocks[0] if blocks else math.inf,
    FRAGMENTS: 100 * len(lists[FRAGMENTS]) / entries,
    NOUNLESS: 100 * len(lists[NOUNLESS]) / entries,
    UNTESTED: len(lists[UNTESTED]),
    THAT_OF: 1000 * len(lists[THAT_OF]) / words,
    WHAT: 1000 * len(lists[WHAT]) / words,
    'planning lines': counts['planning'],
    'median function, lines': statistics.median(functions),
    'median module, lines': statistics.median(files.values()),
    'longest file': files[longest],
  }
  remarks = {FULLEST: fullest, 'longest file': longest}
  return Measured(figures, dict(lists), remarks)


def beyond(measured):
  """Returns a message for every figure above its limit."""
  return [
    f'{title}: at most {limit:,}, is {round(measured.figures[title], 2):,}'
    for title, limit in LIMITS.items()
    if measured.figures[title] > limit
  ]


def _cell(measured, title):
  value = measured.figures[title]
  text = f'{value:,}' if isinstance(value, int) else f'{value:.2f}'
  remark = measured.remarks.get(title)
  return f'{text} (`{remark}`)' if remark else text


def table(measured):
  """Returns the Markdown table: a column for each (name, `Measured`)."""
  names = ' | '.join(name for name, _ in measured)
  rows = [f'| | {names} | limit |', '|---|' + '--:|' * (len(measured) + 1)]
  for title in measured[0][1].figures:
    limit = f'{LIMITS[title]:,}' if title in LIMITS else ''
    cells = [_cell(m, title) for _, m in measured]
    rows.append(f'| {title} | ' + ' | '.join([*cells, limit]) + ' |')
  return '\n'.join(rows)


def main(argv=None):
  """Prints the table; returns the messages of a failed check, for sys.exit."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('folders', nargs='*', metavar='DIR', default=[str(ROOT)])
  parser.add_argument('--list', action='store_true', help='names, by file')
  parser.add_argument('--check', action='store_true', help='fail above limits')
  args = parser.parse_args(argv)
  for name in args.folders:
    if not (pathlib.Path(name) / 'mmu_jax').is_dir():
      parser.error(f'DIR must be a checkout, with mmu_jax/ in it: got {name}')
  measured = [(name, measure(name)) for name in args.folders]
  print(table(measured))
  for name, one in measured if args.list else ():
    for title, lines in one.lists.items():
      print(f'\n## {name}: {title} ({len(lines)})')
      print('\n'.join(f'- {line}' for line in lines))
  failed = [f'{name}: {text}' for name, one in measured for text in beyond(one)]
  return '\n'.join(failed) or None if args.check else None


if __name__ == '__main__':
  sys.exit(main())
