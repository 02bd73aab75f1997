"""What is wrong with an input: raised at once, or collected by a check."""

from typing import NamedTuple

OK, WARN, FAIL = 'OK', 'WARN', 'FAIL'


class UserError(ValueError):
  """An input that cannot be used.

  The message says the rule, the value received and the next step, so the
  command line prints it without a traceback.
  """


class MissingError(UserError, FileNotFoundError):
  """A file or folder that is needed and is not there."""


class DiskError(UserError, OSError):
  """A file or folder that cannot be written, or is there already."""


class Collapse(ArithmeticError):
  """Raised when a retain loss exceeds its limit: the model lost too much."""


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
