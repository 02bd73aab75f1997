"""The short form of kill_pipeline.py: a kill in some parts of a job."""

import kill_pipeline
import pytest

pytestmark = pytest.mark.scale


def test_a_job_killed_again_and_again_ends_with_the_same_bytes(monkeypatch):
  monkeypatch.setenv('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')  # compiles fast
  assert not kill_pipeline.main(['--kills=3'])
