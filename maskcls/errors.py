"""Everything that may go wrong, as exceptions whose text is a message for the user, each with its exit status; and
what SIGTERM and SIGHUP raise.

A message names what is wrong and where (file, row, option), what was expected, and what to do.
"""

from __future__ import annotations

from maskcls.text import printable

_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")


class MaskclsError(Exception):
    """An error that users see as a message instead of a traceback; commands print it and exit with `exit_status`."""

    exit_status = 1

    def __str__(self) -> str:
        """Return the message, whatever names stand in it, as text that any stream takes."""
        return printable(super().__str__())


class CallError(MaskclsError):
    """The call is wrong: an option, a name, a value. Nothing was started."""

    exit_status = 2


class DataError(MaskclsError):
    """The input cannot be used: a folder, a file, a row."""


class NoSuchPath(DataError):  # noqa: N818 - says what the path is
    """A path that the call names does not exist: nothing was begun."""

    exit_status = 2


class FolderError(DataError):
    """A folder of photos has problems, which the message lists."""


class OutOfReach(DataError):  # noqa: N818 - says what the data is
    """Photos, or a run's own files, that are to be read and cannot be: a disk that is gone, a folder that was moved."""


class RunError(MaskclsError):
    """The work was started and failed: a full disk, a fit that diverged, weights out of reach."""


class Damaged(DataError, RunError):  # noqa: N818 - what is wrong, as Diverged is
    """A file that this project wrote does not hold what was written: input that is wrong, or work that was lost."""


class Missing(Damaged):
    """A file that this project wrote is not there."""


class NoRoomYet(RunError):  # noqa: N818 - a state of the cache, and not always an error: a fit waits
    """A cache has no room while others use what it holds, and will have some once they have ended."""


class Diverged(RunError):  # noqa: N818 - the name of a trial's state
    """A loss, a probability or a score of a fit is not finite."""


class OutOfMemory(RunError):  # noqa: N818 - the name of a trial's state
    """A fit needs more memory than it was given."""


class Terminated(KeyboardInterrupt):
    """SIGTERM ended the work, as Ctrl-C does; only the exit status is another one."""


class HungUp(KeyboardInterrupt):
    """SIGHUP ended the work, as Ctrl-C does: the terminal was closed, or the connection to the machine ended."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of this project, Python, torch or Ray says that memory was short."""
    # torch's and Ray's errors by the class's name: neither has to be imported to ask.
    if isinstance(error, OutOfMemory | MemoryError) or any(
        kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__
    ):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_TEXTS)
