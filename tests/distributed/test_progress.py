"""Of several processes only the first speaks."""

import pytest

from mmu_jax.distributed import processes
from mmu_jax.distributed import progress


@pytest.mark.parametrize('first', [True, False])
def test_only_the_first_process_shows_progress(monkeypatch, capsys, first):
  monkeypatch.setattr(processes, 'is_first', lambda: first)
  progress.say('mask saliency: made')
  assert list(progress.track(range(3), 'vanilla')) == [0, 1, 2]
  out, err = capsys.readouterr()
  assert out == ('mask saliency: made\n' if first else '')
  assert ('vanilla' in err) == first


def test_a_resumed_run_counts_what_was_done_before():
  bar = progress.track(range(2, 5), 'vanilla', initial=2, total=5)
  assert sum(1 for _ in bar) == 3
  assert (bar.n, bar.total) == (5, 5)
