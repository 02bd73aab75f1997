"""The short form of kill_pipeline.py: a kill in some parts of a job."""

import kill_pipeline
import pytest

pytestmark = pytest.mark.scale


def test_a_job_killed_again_and_again_ends_with_the_same_bytes():
  assert not kill_pipeline.main(['--kills=5'])
