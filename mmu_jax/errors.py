"""Errors that a user can mend: raised at once, or collected by a check."""

from typing import NamedTuple

OK, WARN, FAIL = 'OK', 'WARN', 'FAIL'
_COLOURS = {OK: 'green', WARN: 'yellow', FAIL: 'red'}


class UserError(ValueError):
  """An input that cannot be used.

  The message says the rule, the value received and the next step, so the
  command line prints it without a traceback.
  """


class MissingError(UserError, FileNotFoundError):
  """A file or folder that is needed and is not there."""


class DiskError(UserError, OSError):
  """A file or folder that cannot be written, or is there already."""


class LostError(UserError):
  """A workdir that another job has taken, while this one was silent."""


class DamageWarning(UserWarning):
  """A file that is damaged, and of which a part is used all the same.

  Reports repeat what these warnings say.
  """


class Collapse(ArithmeticError):
  """Raised when a retain loss exceeds its limit: the model lost too much."""


class Finding(NamedTuple):
  """One line of a report.

  Attributes:
    state: 'OK', 'WARN' (a job runs, but not as it could) or 'FAIL'.
    what: name of the check, or of the thing that was checked.
    message: sentence without a full stop.
    fix: next step, a sentence; '' if there is none.
  """

  state: str
  what: str
  message: str
  fix: str = ''

  def line(self) -> str:
    """Returns the finding as a line with the markup of rich.

    Example:
      >>> Finding(WARN, 'disk', '3 GB [free]', 'Free some.').line()
      '[yellow]WARN[/] disk: 3 GB \\\\[free]. Free some.'
    """
    from rich.markup import escape

    text = self.message
    if self.fix:
      text = f'{text.rstrip(".")}. {self.fix}'
    colour = _COLOURS[self.state]
    return f'[{colour}]{self.state:4}[/] {escape(f"{self.what}: {text}")}'
