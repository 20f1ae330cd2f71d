"""The two ways in which a command may end badly, each with its exit status.

A message names what is wrong and where (file, row, option), what was expected, and what to do.
"""


class MaskclsError(Exception):
    """What the user is told instead of a traceback; doors print it and exit with `exit_status`."""

    exit_status = 1


class CallError(MaskclsError):
    """The call is wrong: an option, a name, a value. Nothing was begun."""

    exit_status = 2


class DataError(MaskclsError):
    """The input cannot be used: a folder, a file, a row."""


class RunError(MaskclsError):
    """The work was begun and failed: a full disk, a fit that diverged, weights out of reach."""
