"""Streams of a job draw the rows that its config names, whole on the mesh."""

import numpy as np
import pytest

from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax.data.batches import batching
from mmu_jax.stages.budgets import streams


@pytest.fixture
def config():
  return recipes.load('people:fast')


@pytest.mark.parametrize('micro_batches, num_rows', [(1, 3), (2, 4)])
def test_a_batch_is_the_one_of_its_rows_alone_filled_for_micro_batches(
  config, tmp_path, micro_batches, num_rows
):
  config.micro_batches = micro_batches
  config.mesh = ''
  job = stages.open_job(config, tmp_path)
  parts = [recipes.part('vqa:forget', size=3, questions=2)]
  placed = streams.make_stream(job, streams.draw_from(job, parts), 'forget')
  alone = batching.Stream(
    streams.draw_from(job, parts), job.encoder, seed=config.seed, name='forget'
  )
  assert placed.keys(5) == alone.keys(5)
  got, want = placed(5), alone(5)
  assert got['tokens'].shape[0] == num_rows
  for name, array in want.items():
    np.testing.assert_array_equal(got[name][:3], array[:3])
  assert not np.any(got['weights'][3:])


def test_a_split_left_out_is_left_out_of_roles_too(config, tmp_path):
  job = stages.open_job(config, tmp_path)
  parts = [recipes.part('vqa:everybody', size=2)]
  everybody = streams.make_stream(job, streams.draw_from(job, parts), 'train')
  others = streams.make_stream(
    job, streams.draw_from(job, parts, ['vqa/forget']), 'train'
  )
  forget = {row.key for row in job.data.train['vqa/forget']}
  drawn = lambda stream: {k for step in range(80) for k in stream.keys(step)}
  assert drawn(everybody) & forget
  assert not drawn(others) & forget


@pytest.mark.parametrize(
  'splits, without, message',
  [
    (['vqa/nobody'], [], "unknown split 'vqa/nobody'"),
    (['vqa:nobody'], [], "'vqa:nobody' has an unknown role"),
    (['vqa/forget'], ['vqa/forgot'], "unknown split 'vqa/forgot'"),
  ],
)
def test_an_unknown_split_is_an_error(
  config, tmp_path, splits, without, message
):
  job = stages.open_job(config, tmp_path)
  with pytest.raises(ValueError, match=message):
    drawn = streams.draw_from(job, [recipes.part(*splits, size=1)], without)
    streams.make_stream(job, drawn, 'train')
