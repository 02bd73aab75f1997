"""Answers and scores on a mesh are those of one device."""

import jax
import numpy as np
import pytest
from results import make_task
from small_worlds import NEW_TOKENS
from small_worlds import TASKS

from mmu_jax import sharding
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks as tasks_lib

pytestmark = pytest.mark.usefixtures('quick_compile')
MESHES = ('fsdp=8', 'data=2,fsdp=2,tensor=2')


@pytest.fixture(scope='module', params=MESHES)
def mesh(request):
  return sharding.make_mesh(request.param)


@pytest.fixture(scope='module')
def split(mesh, model, params):
  return jax.device_put(
    params, sharding.shardings(params, model.partition_rules, mesh)
  )


def _ask(model, params, tasks, encoder):
  """Every question of two tasks, in batches of three."""
  found = []
  for task in TASKS.values():
    rows = tasks[task][:7]
    asked = make_task(task, rows)
    protocol = protocols.PROTOCOLS['plain']
    questions = protocol.questions(asked, {task: asked}, 0, 0)
    for batch in tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=protocol,
      max_new_tokens=NEW_TOKENS,
      size=3,
    ):
      found += batch
  return found


def test_a_mesh_changes_no_answer(mesh, split, model, params, tasks, encoder):
  want = _ask(model, params, tasks, encoder)
  with jax.set_mesh(mesh):
    got = _ask(model, split, tasks, encoder)
  assert len(want) >= 14
  for a, b in zip(got, want, strict=True):
    assert a.keys() == b.keys()
    for field in a.keys() - {'likelihoods'}:
      assert a[field] == b[field], field
    nll = lambda answer: [g['nll'] for g in answer.get('likelihoods', ())]
    np.testing.assert_allclose(nll(a), nll(b), rtol=1e-4)


def test_the_cache_is_split_by_rows_and_heads(mesh, split, model, encoder):
  """Else each device would hold the keys and values of the whole batch."""
  batch = {
    'tokens': np.ones((8, 16), np.int32),
    'documents': np.ones((8, 16), np.int32),
    'branches': np.zeros((8, 16), np.int32),
    'positions': np.tile(np.arange(16, dtype=np.int32), (8, 1)),
    'image_slots': np.full((8, 16), -1, np.int32),
    'targets': np.zeros((8, 16), np.int32),
    'weights': np.zeros((8, 16), np.float32),
    'pixel_values': np.zeros((8, 0, 3, 48, 48), np.float32),
  }
  with jax.set_mesh(mesh):
    batch = sharding.place(batch, mesh, 8)
    last = np.full((8, 1), 15, np.int32)
    prefill = jax.jit(model.prefill, static_argnums=3)
    logits, cache = prefill(split, batch, last, 24)
  rows, heads = 8 // sharding.row_parts(mesh), 2 // mesh.shape['tensor']
  shard = cache.keys.addressable_shards[0].data.shape
  assert shard == (2, rows, 24, heads, 8)
  vocabulary = len(encoder.processor.tokenizer)
  parts = mesh.shape['tensor'] if not vocabulary % mesh.shape['tensor'] else 1
  shard = logits.addressable_shards[0].data.shape
  assert shard == (rows, 1, vocabulary // parts)
  with jax.set_mesh(mesh):
    answers = decoding.greedy(
      split, batch, model=model, max_new_tokens=3, stop_ids=(0,)
    )
  assert answers.is_fully_replicated  # so that every process can read them
