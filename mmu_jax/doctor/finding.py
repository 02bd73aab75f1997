"""What a check found, in words."""

from typing import NamedTuple

OK, WARN, FAIL = 'OK', 'WARN', 'FAIL'


class Finding(NamedTuple):
  """One line of a report.

  Attributes:
    state: 'OK', 'WARN' (a job runs, but not as it could) or 'FAIL'.
    what: which check.
    message: what was found.
    fix: what to do; '' if it is fine.
  """

  state: str
  what: str
  message: str
  fix: str = ''
