"""Files that are written whole or not at all, files that grow by whole lines, and why a file could not be read."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from zlib import crc32

from maskcls.errors import CallError
from maskcls.text import shown

_REMEDIES = {
    errno.EACCES: "Give yourself the right to read it (chmod u+rX)",
    errno.EPERM: "Give yourself the right to read it (chmod u+rX)",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "It is a folder: name a file",
    errno.ELOOP: "It is a link that leads to itself: remove it",
    errno.ENAMETOOLONG: "Give it a shorter name",
}


def unreadable(path: object, error: OSError) -> str:
    """Return the message that a file or folder could not be read: why, and what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, "Check the disk, or copy it again")
    return f"{shown(path)} cannot be read: {error.strerror or error}. {remedy}."


def check_writable_name(path: Path, option: str, more: str = "") -> None:
    """Raise CallError where no file or folder of this name could be made, to be asked before the work.

    Args:
        more: what the longest name that is made beside it has in addition.
    """
    longest = path.with_name(path.name + more)
    try:
        longest.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise CallError(f"{option} {shown(path)}: {error.strerror}. Give it a shorter name.") from None
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        raise CallError(
            f"{option} {shown(path)}: {shown(folder)} may not be written. Give yourself the right to write there, or "
            "name another folder."
        )


def refuse_address(value: object, option: str) -> None:
    """Raise CallError where an address, as in s3://bucket/faces, stands in place of a path on this machine."""
    # A Path has made one slash of two; one letter before the colon is a disk of Windows.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(value)):
        raise CallError(
            f"{option} {shown(value)} is an address. Expected a path of this machine's file system: copy the files "
            "there, or mount the storage as a folder."
        )


@contextmanager
def replacing(file: Path, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """Yield a stream whose content replaces `file` in one step when the block ends without an error.

    Until then, and after an error, `file` stays as it was, whatever interrupts the writing (a kill, a full disk).

    Args:
        wait: wait for the disk. Without it a failing machine may leave the file empty; a killed process does not.

    Raises OSError naming the file, errno kept, where it cannot be written.
    """
    # Short, so that the longest name that a folder takes can be written, too.
    passing = file.with_name(f".{crc32(os.fsencode(file.name)):08x}.{os.getpid()}.tmp")
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


def relative(path: Path) -> str:
    """Return the path below the current folder, where it is there; else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def append_line(file: Path, line: str) -> None:
    """Append a line to the file, without waiting for the disk; an incomplete last line is cut off first.

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
    """Return the file's lines without their ends, none if there is no file; an incomplete last line is left out."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except FileNotFoundError:
        return []


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as comma-separated text: a line of column names, then one line per row."""
    return csv_lines(itertools.chain([columns], rows))


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of comma-separated text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table by `replacing`."""
    write_atomically(file, csv_text(columns, rows))
