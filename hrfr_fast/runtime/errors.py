"""Errors for the user, each with the exit code of the command.

A message says what was wrong, where (file, record), and what to do about it. The command line prints the
message alone; a traceback is shown only for a bug in hrfr-fast itself.
"""

from typing import Any


class HrfrError(Exception):
    """Base of every error that a user can cause or mend. ``exit_code`` is the status of the command."""

    exit_code = 1


class UsageError(HrfrError):
    """The request itself is wrong: an unknown regime, a value out of range, a missing input."""

    exit_code = 2


class StrictRefusal(HrfrError):
    """``--strict`` was given and some input was rejected."""

    exit_code = 3


class IncompletePack(HrfrError):
    """Some files could not be read; everything else is packed, and ``summary`` describes it."""

    def __init__(self, message: str, summary: Any) -> None:
        super().__init__(message)
        self.summary = summary


class DamageFound(HrfrError):
    """Packed data no longer matches its checksums."""

    exit_code = 4


class CannotWrite(HrfrError):
    """The system refused to write: a full disk, a quota, a read-only file system.

    Args:
        what: which file, why, and how to mend that.
        then: what is kept, and how to go on.
    """

    def __init__(self, what: str, then: str = "") -> None:
        super().__init__(what, then)
        self.what, self.then = what, then

    def __str__(self) -> str:
        return f"{self.what}. {self.then}" if self.then else self.what


class Interrupted(HrfrError):
    """Ctrl-C or SIGTERM arrived; everything finished so far is on disk.

    ``exit_code`` follows the shell's convention of 128 + the signal's number.
    """

    def __init__(self, message: str, signal_number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class ReportedElsewhere(HrfrError):
    """Another rank of the job has told the user what is wrong; this one ends without a word, with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another rank says what is wrong")
        self.exit_code = exit_code
