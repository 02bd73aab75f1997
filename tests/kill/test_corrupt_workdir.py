"""The short form of corrupt_workdir.py: some of its corruptions."""

import corrupt_workdir
import pytest

pytestmark = pytest.mark.scale


def test_no_damage_leads_to_a_wrong_report_without_a_word():
  assert not corrupt_workdir.main(['--number=15'])
