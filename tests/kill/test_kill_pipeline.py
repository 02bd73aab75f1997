"""The short form of kill_pipeline.py: a kill in each part of a job."""

import pytest

import kill_pipeline

pytestmark = pytest.mark.scale


@pytest.mark.parametrize('processes, kills', [(1, 5), (2, 2)])
def test_a_job_killed_again_and_again_ends_with_the_same_bytes(
    processes, kills
):
  assert not kill_pipeline.main(
      [f'--kills={kills}', f'--processes={processes}']
  )
