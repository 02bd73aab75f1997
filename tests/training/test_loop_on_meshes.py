"""A run that was stopped goes on, on its own mesh or on another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mmu_jax import checkpoint
from mmu_jax import methods
from mmu_jax import sharding
from mmu_jax.distributed import preemption
from mmu_jax.training import loop
from mmu_jax.training import optimizer

pytestmark = pytest.mark.usefixtures('quick_compile')
ROUNDS, STOP = 6, 3
RULES = (
  (r'.*kernel', jax.sharding.PartitionSpec('fsdp', 'tensor')),
  (r'.*', jax.sharding.PartitionSpec()),
)
MESHES = ('fsdp=4', 'data=2,fsdp=2,tensor=2', '')


def _run(spec, folder):
  """A masked method with moments, on a mesh; the final parameters."""
  mesh = sharding.make_mesh(spec)
  total = sharding.row_count(6, mesh)

  def stream(seed):
    def batch(step):
      made = toy.batch(1000 * seed + step, rows=6)
      made = toy.pad(made, step, rows=total - 6)
      made = jax.tree.map(np.asarray, made)
      return sharding.place(made, mesh, total)

    return batch

  params = toy.params(0)
  plan = loop.Plan(
    turns=methods.mmunlearner(),
    streams={'forget': stream(1), 'retain': stream(2)},
    rates=dict.fromkeys(('forget', 'retain'), lambda _: 1e-3),
    rounds=ROUNDS,
    forward=toy.forward,
    tx=optimizer.build('adamw', eps=1e-3),
    mask=toy.random_mask(params, 1),
    rules=RULES,
  )
  like = sharding.placed(params, RULES, mesh)
  start = lambda: jax.device_put(
    jax.tree.map(jnp.array, params), sharding.shardings(params, RULES, mesh)
  )
  with jax.set_mesh(mesh):
    final = loop.fit(plan, like, start, folder, log_every=1, save_every=100)
  return toy.vector(final), (folder / 'metrics.jsonl').read_text()


@pytest.fixture
def stopped(tmp_path, monkeypatch):
  """A run that was asked to stop in round 3, on the first mesh."""
  monkeypatch.setattr(preemption, 'requested', lambda step: step == STOP)
  with pytest.raises(preemption.Preempted):
    _run(MESHES[0], tmp_path / 'run')
  monkeypatch.undo()
  assert checkpoint.latest_step(tmp_path / 'run' / loop.RUNNING) == STOP
  return tmp_path


@pytest.mark.parametrize('spec', MESHES)
def test_a_stopped_run_goes_on_on_any_mesh(stopped, spec):
  """On its own mesh bit for bit, on another to rounding."""
  whole, log = _run(MESHES[0], stopped / 'whole')
  got, got_log = _run(spec, stopped / 'run')
  assert len(log.splitlines()) == 2 * ROUNDS
  if spec == MESHES[0]:
    assert got.tobytes() == whole.tobytes() and got_log == log
  else:
    np.testing.assert_allclose(got, whole, rtol=1e-5, atol=1e-6)
  assert np.abs(whole - toy.vector(toy.params(0))).max() > 1e-3
