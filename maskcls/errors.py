"""Everything that may go wrong, as exceptions whose text is a message for the user, each with its exit status; and
what SIGTERM raises.

A message names what is wrong and where (file, row, option), what was expected, and what to do.
"""

from __future__ import annotations


class MaskclsError(Exception):
    """An error that users see as a message instead of a traceback; commands print it and exit with `exit_status`."""

    exit_status = 1


class CallError(MaskclsError):
    """The call is wrong: an option, a name, a value. Nothing was started."""

    exit_status = 2


class DataError(MaskclsError):
    """The input cannot be used: a folder, a file, a row."""


class RunError(MaskclsError):
    """The work was started and failed: a full disk, a fit that diverged, weights out of reach."""


class Diverged(RunError):  # noqa: N818 - the name of a trial's state
    """A loss, a probability or a score of a fit is not finite."""


class OutOfMemory(RunError):  # noqa: N818 - the name of a trial's state
    """A fit needs more memory than it was given."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the work, as Ctrl-C does; only the exit status is another one."""
