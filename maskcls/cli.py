"""What all doors share: errors become one message and an exit status, never a traceback."""

from __future__ import annotations

import errno
import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

from maskcls.errors import MaskclsError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def new_app() -> typer.Typer:
    """A typer app with the doors' settings, for a door of several commands."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def run(main: Callable[..., Any] | typer.Typer) -> None:
    """Run a door's function or app as a command line: typer's own usage errors exit with 2, MaskclsErrors as they say."""
    if isinstance(main, typer.Typer):
        app = main
    else:
        app = new_app()
        app.command()(_interruptible(main))
    _tell_what_is_logged()
    try:
        app(standalone_mode=True)
    except MaskclsError as error:
        fail(str(error), error.exit_status)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS):
            raise
        fail(
            f"{error.filename or 'A file'} could not be written: {error.strerror}. Free some space or name another folder, then go on.",
            1,
        )


def _interruptible(main: Callable[..., Any]) -> Callable[..., Any]:
    """Ctrl-C ends a door with a word; left to typer it would end it without one."""

    @functools.wraps(main)
    def guarded(*arguments: Any, **options: Any) -> Any:
        try:
            return main(*arguments, **options)
        except KeyboardInterrupt:
            fail("Interrupted.", INTERRUPTED)

    return guarded


def _tell_what_is_logged() -> None:
    """What the package logs from INFO on goes to stderr, as plain lines."""
    logger = logging.getLogger("maskcls")
    if not logger.handlers:
        logger.addHandler(logging.StreamHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def fail(message: str, exit_status: int) -> NoReturn:
    """Print the message to stderr and exit."""
    sys.stdout.flush()
    print(f"Error: {message}", file=sys.stderr)
    sys.exit(exit_status)
