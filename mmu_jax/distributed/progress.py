"""Progress on long work: a bar in a terminal, a line now and then in a log."""

from collections.abc import Iterable
import sys

import tqdm

from mmu_jax.distributed import processes


def track(items: Iterable, title: str, *, initial: int = 0, total=None):
  """Iterates with a bar that shows the title, the rate and the time left.

  Of several processes the first shows it.

  Args:
    items: items to go through.
    title: name of the work: 'vanilla'.
    initial: number of items done before, when a run resumes.
    total: number of items in all, if ``items`` does not know it.

  Returns:
    A ``tqdm`` bar; ``bar.set_postfix(loss=...)`` adds numbers to it.
  """
  terminal = sys.stderr.isatty()
  return tqdm.tqdm(
    items,
    desc=title,
    initial=initial,
    total=total,
    disable=not processes.is_first(),
    mininterval=0.2 if terminal else 20,
    maxinterval=10 if terminal else 60,
    ncols=None if terminal else 88,
    dynamic_ncols=terminal,
  )


def say(text: str) -> None:
  """Prints a line, on the first of several processes."""
  if processes.is_first():
    print(text, flush=True)
