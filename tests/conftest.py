"""Eight CPU devices for every test, set before JAX is imported."""

import gc
import os
import pathlib
import sys

import compiling
import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('XLA_FLAGS', compiling.flags(8))

try:
  import mmu_jax  # noqa: F401
except ImportError:  # not installed: use this checkout
  sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))


pytest_plugins = ['commanding']  # fixtures of the command line


def pytest_collection_modifyitems(config, items):
  """Leaves whole jobs out unless asked for (``-m scale``); slow files first."""
  jobs = [item for item in items if item.get_closest_marker('scale')]
  if 'scale' not in config.option.markexpr:
    config.hook.pytest_deselected(items=jobs)
    items[:] = [item for item in items if item not in jobs]
  big = {item.path for item in jobs}
  slow = {i.path for i in items if i.get_closest_marker('slow')}
  # The longest first: no process waits long for the other at the end.
  items.sort(key=lambda item: (item.path not in big, item.path not in slow))


def pytest_collection_finish():
  """Lets the garbage collector leave alone what every test uses.

  Tracing makes so many objects that it would look through all of them again
  and again, a tenth of the time of a test that compiles.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 50, 100)


MAPS = pathlib.Path('/proc/self/maps')  # where Linux has it


@pytest.fixture(scope='module', autouse=True)
def few_programs():
  """Forgets compiled programs before there are too many for one process.

  A program takes some six maps of memory and Linux grants 65,530; XLA does not
  say so but crashes.
  """
  yield
  if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > 20_000:
    import jax

    jax.clear_caches()


@pytest.fixture(scope='module')
def quick_compile():
  """Compiles the programs of a module with few optimizations.

  For modules whose time is spent on compiling. Bits are tested as in a run,
  with ``all_optimizations``.
  """
  yield from _optimizing(few=True)


@pytest.fixture(scope='module')
def unpainted():
  """Makes plots and saves another picture in their place.

  For modules whose reports are about other things: to paint four plots takes
  seconds.
  """
  import benchmark_folders
  from matplotlib import figure

  picture = benchmark_folders.file(0, 'PNG', 16)
  save = lambda figure, file, **options: file.write(picture)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(figure.Figure, 'savefig', save)
    yield


@pytest.fixture(scope='module')
def roughly_scored():
  """Draws few resamples for the intervals of what compares models.

  For modules that look at no width of an interval: a thousand of them take more
  time than the answers of a small model.
  """
  from mmu_jax.evaluation.scoring import comparison

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(comparison, '_RESAMPLES', 20)
    patch.setattr(comparison, '_KS_RESAMPLES', 20)
    yield


@pytest.fixture
def all_optimizations():
  """Compiles as a run does, whatever was compiled before."""
  import jax

  jax.clear_caches()
  yield from _optimizing(few=False)
  jax.clear_caches()


def _optimizing(few):
  """Sets how programs are compiled, for a while."""
  import jax

  before = jax.config.values['jax_disable_most_optimizations']
  jax.config.update('jax_disable_most_optimizations', few)
  yield
  jax.config.update('jax_disable_most_optimizations', before)
