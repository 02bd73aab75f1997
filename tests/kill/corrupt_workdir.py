"""Damages a finished workdir in many ways, and looks for wrong reports.

  python tests/kill/corrupt_workdir.py --number=200 --seed=0

A small job of every stage is finished, and so are two others: of another seed,
and of other rates. Each time a fresh copy of the first is damaged: a file or
folder is deleted, cut, edited, exchanged for another, or brought from another
job; or its data are. Then the stages run that a user would call, and the
outcome is one of these::

  harmless  the report is that of the undamaged workdir
  repaired  it is, after a warning or after parts were made anew
  warning   it is where it shows something; the rest is named on the page
  error     a UserError that names a file or folder
  UNCLEAR   any other exception, or an error that names no file
  SILENT    results or a report that differ, and nothing says so

Pictures of plots are not drawn: the page has the numbers in their place. With
``--only=17`` one corruption is made again, and all that was said is printed.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import traceback
from typing import NamedTuple
from unittest import mock

ROOT = pathlib.Path(__file__).parents[2]
for name in ('helpers', 'kill'):
  sys.path.insert(0, str(ROOT / 'tests' / name))

import compiling  # noqa: E402

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', compiling.flags(1))

import corrupted_job as jobs  # noqa: E402
import corruptions  # noqa: E402
import jax  # noqa: E402

from mmu_jax import stages  # noqa: E402
from mmu_jax.errors import UserError  # noqa: E402
from mmu_jax.evaluation.report import page  # noqa: E402
from mmu_jax.evaluation.scoring import comparison  # noqa: E402

WAYS = {
  'evaluate, report': (stages.evaluate, stages.report),
  'report': (stages.report,),
  'pipeline': (stages.pipeline,),
}
# Part of the page -> what a remark must speak of where the part differs.
EXPLAINED = {
  # The sentence before unlearning is left out, and a remark says why.
  'top': 'Whether vanilla knew',
  'Plots': 'rounds of|no scores|mask',
  'Questions and answers': 'Answers of|no scores',
  'Where it went wrong': 'Answers of|no scores',
  'Masks': 'mask',
}
NAMED = r'/|\w+\.(json|jsonl|npz|seal)\b'


class Outcome(NamedTuple):
  """What came of a corruption: a word of the list above, and what was said."""

  kind: str
  said: str


def main(argv=None) -> int:
  """Makes the corruptions; returns 1 if one was silent or unclear."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--number', type=int, default=200)
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--only', type=int, help='number of one corruption')
  parser.add_argument('--folder', help='where finished jobs are kept')
  args = parser.parse_args(argv)
  jax.config.update('jax_disable_most_optimizations', True)
  few = dict(_RESAMPLES=20, _KS_RESAMPLES=20)  # a thousand take seconds
  with (
    mock.patch.multiple(comparison, **few),
    tempfile.TemporaryDirectory() as made,
  ):
    bench = Bench(pathlib.Path(args.folder or made).absolute())
    numbers = range(args.number) if args.only is None else [args.only]
    found = {n: bench.try_one(args.seed, n) for n in numbers}
  for number, (what, outcome) in found.items():
    if args.only is not None or outcome.kind.isupper():
      print(f'--seed={args.seed} --only={number}: {what}\n  {outcome}')
  print_table(found.values())
  return int(any(o.kind.isupper() for _, o in found.values()))


def print_table(found) -> None:
  """Prints how often each kind of file had each outcome."""
  kinds = ('error', 'warning', 'repaired', 'harmless', 'UNCLEAR', 'SILENT')
  table = collections.defaultdict(collections.Counter)
  for what, outcome in found:
    table[what.kind][outcome.kind] += 1
    table['all'][outcome.kind] += 1
  print(f'{"":24}', *(f'{kind:>8}' for kind in kinds))
  for name in sorted(table, key=lambda name: (name == 'all', name)):
    print(f'{name:24}', *(f'{table[name][kind]:8}' for kind in kinds))


class Bench:
  """Finished jobs, and a place where copies of them are damaged."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.now = folder, folder / 'now'
    self.config = jobs.config_of(self.now / 'data')
    if not (folder / 'ready').exists():
      with mock.patch.object(page, '_draw', _numbers):
        jobs.quietly(self._make)
    self.paths = {
      name: folder / name for name in ('whole', 'seed', 'rate', 'stopped')
    }
    self._renew('whole')
    self.page, self.results = self._run(WAYS['report'])[:2]

  def _make(self) -> None:
    """Finishes all jobs, each at the place where it is to be damaged."""
    here, other = self.now / 'job', jobs.config_of(self.now / 'data', seed=1)
    jobs.write_data(self.now / 'data')
    jobs.finish(other, here)
    shutil.move(here, self.folder / 'seed' / 'job')
    jobs.finish(self.config, here)
    shutil.copytree(self.now, self.folder / 'whole')
    jobs.other_settings(self.config, here, 3e-3)
    shutil.move(here, self.folder / 'rate' / 'job')
    self._renew('whole')
    jobs.interrupt(self.config, here)
    shutil.copytree(self.now, self.folder / 'stopped')
    jobs.write_data(self.folder / 'seed' / 'data', seed=1)
    (self.folder / 'ready').touch()

  def _renew(self, name: str) -> None:
    """Puts a copy of a job at the place where it is to be damaged."""
    shutil.rmtree(self.now, ignore_errors=True)
    shutil.copytree(self.folder / name, self.now)

  def try_one(self, seed: int, number: int):
    """Makes one corruption; returns it with its outcome."""
    rng = random.Random(f'{seed} {number}')
    while True:
      start = rng.choices(('whole', 'stopped'), (9, 1))[0]
      self._renew(start)
      made = corruptions.corrupt(self.now, self.paths, start, rng)
      if made is not None:
        break
    way = rng.choices(list(WAYS), (6, 3, 1))[0]
    way = 'pipeline' if start == 'stopped' else way
    if made.kind.startswith('data'):
      jobs.forget_data()
    outcome = self._outcome(way)
    if made.kind.startswith('data'):
      jobs.forget_data()
    print(number, way, *made, outcome.kind, sep=' | ', flush=True)
    return made._replace(what=f'{made.what}, then {way}'), outcome

  def _run(self, way):
    """Calls stages; returns page, results and warnings."""

    def call():
      for stage in way:
        stage(self.config, self.now / 'job')

    with mock.patch.object(page, '_draw', _numbers):
      said = jobs.quietly(call)
    job = self.now / 'job'
    rows = (job / 'results.jsonl').read_text().splitlines()
    text = (job / 'report.html').read_text()
    return text, [json.loads(row) for row in rows], said

  def _outcome(self, way: str) -> Outcome:
    """Runs stages on what is there, and compares their report."""
    try:
      text, results, said = self._run(WAYS[way])
    except UserError as error:
      kind = 'error' if re.search(NAMED, str(error)) else 'UNCLEAR'
      return Outcome(kind, str(error))
    except Exception:  # noqa: BLE001 - it is what is looked for
      return Outcome('UNCLEAR', traceback.format_exc())
    plain, remarks = _split(text)
    said = [s for s in said if 'is damaged' in s or 'is now called' in s]
    said = '; '.join([*said, remarks])
    if plain == _split(self.page)[0] and results == self.results:
      return Outcome('repaired' if said.strip() else 'harmless', said)
    wrong = _unexplained(plain, _split(self.page)[0], remarks)
    shown = {row['run'] for row in results}
    wrong += [row for row in results if row not in self.results]
    wrong += [
      row
      for row in self.results
      if row not in results
      and row['run'] in shown
      and 'retrained has no scores' not in remarks
    ]
    wrong += [
      row['run']
      for row in self.results
      if row['run'] not in shown and f'{row["run"]} has no sc' not in remarks
    ]
    if wrong:
      return Outcome('SILENT', f'{said}: {str(wrong)[:1500]}')
    return Outcome('warning', said)


def _numbers(workdir, results, histories, masks) -> dict[str, str]:
  """What plots are drawn of, in the place of their pictures."""
  del workdir
  drawn = {'bars': results, 'tradeoff': results}
  drawn |= {'trajectory': histories} if histories else {}
  drawn |= {'density': masks} if masks else {}
  return {name: json.dumps(of) for name, of in drawn.items()}


def _split(text: str) -> tuple[str, str]:
  """A page without its remarks and the revision of the code; the remarks."""
  text = re.sub('<tr><th>revision</th>.*?</tr>', '', text)
  found = re.search(r'<ul class="remarks">.*?</ul>', text, re.DOTALL)
  if not found:
    return text, ''
  return text.replace(found[0] + '\n', ''), found[0]


def _unexplained(text: str, whole: str, remarks: str) -> list[str]:
  """Parts of a page that differ, and no remark is about them."""
  pair = [
    dict(zip(['top', *re.findall('<h2>(.*?)</h2>', x)], x.split('<h2>')))
    for x in (text, whole)
  ]
  left_out = 'no scores' in remarks
  return [
    f'{name}: {_first(pair[0].get(name, ""), pair[1].get(name, ""))}'
    for name in pair[0].keys() | pair[1].keys()
    if pair[0].get(name) != pair[1].get(name)
    and not (left_out and name in ('top', 'Results'))
    and not re.search(EXPLAINED.get(name, '(?!)'), remarks)
  ]


def _first(a: str, b: str) -> str:
  """Where two texts differ first."""
  at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), 0)
  return f'{a[max(0, at - 80) : at + 80]!r} not {b[at : at + 80]!r}'


if __name__ == '__main__':
  sys.exit(main())
