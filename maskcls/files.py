"""Files that are whole or not there, whatever interrupts the writing (a kill, a full disk), and files that grow by whole lines."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(file: Path, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """A stream whose content becomes `file`, in one step and on the disk, when the block ends well; else `file` stays as it was.

    Args:
        wait: for the disk. Without it a machine that fails may leave the file empty; a kill may not.

    Raises OSError naming the file, errno kept, where it cannot be written.
    """
    passing = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with passing.open("wb") as stream:
            yield stream
            stream.flush()
            if wait:
                os.fsync(stream.fileno())
        passing.replace(file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch makes a RuntimeError of it
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(file)) from error
    finally:
        passing.unlink(missing_ok=True)


def write_atomically(file: Path, text: str, *, wait: bool = True) -> None:
    """Write UTF-8 text by `replacing`."""
    with replacing(file, wait=wait) as stream:
        stream.write(text.encode())


def append_line(file: Path, line: str) -> None:
    """Let the file grow by a line, without waiting for the disk. What stands behind its last whole line is cut off first.

    Raises OSError naming the file, errno kept, where it cannot be written.
    """
    try:
        with file.open("a+b") as stream:
            size = stream.tell()
            stream.seek(0)
            content = stream.read(size)
            if content and not content.endswith(b"\n"):
                stream.truncate(content.rfind(b"\n") + 1)
            stream.write(f"{line}\n".encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


def whole_lines(file: Path) -> list[str]:
    """The file's lines without their ends, none where there is no file; a last one that was cut short is left out."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []
