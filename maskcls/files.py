"""Files that are written whole or not at all, files that grow by whole lines, and CSV files."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from maskcls.errors import DataError
from maskcls.text import plural


@contextmanager
def replacing(file: Path, *, wait: bool = True) -> Iterator[IO[bytes]]:
    """Yield a stream whose content replaces `file` in one step when the block ends without an error.

    Until then, and after an error, `file` stays as it was, whatever interrupts the writing (a kill, a full disk).

    Args:
        wait: wait for the disk. Without it a failing machine may leave the file empty; a killed process does not.

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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table by `replacing`."""
    write_atomically(file, csv_text(columns, rows))


@dataclass(frozen=True)
class CsvTable:
    """A CSV file as it was read: for each row the line where it ends, and its values by column, stripped."""

    file: Path
    columns: tuple[str, ...]
    rows: list[tuple[int, dict[str, str]]]
    """Lines are counted from 1, the heading's; a missing cell is empty."""

    def lacking(self, expected: Sequence[str]) -> str:
        """Return which expected columns are missing, as a message that follows the file's name; empty if none is."""
        missing = [name for name in expected if name not in self.columns]
        if not missing:
            return ""
        has = ", ".join(self.columns) or "nothing"
        return (
            f"lacks the {plural(len(missing), 'column')} {', '.join(missing)}; it has {has}. "
            f"Expected {', '.join(expected)}. Rename or add what is missing."
        )

    def require(self, expected: Sequence[str]) -> None:
        """Raise DataError where one of these columns is missing."""
        message = self.lacking(expected)
        if message:
            raise DataError(f"{self.file} {message}")


def read_csv(file: Path) -> CsvTable:
    """Read comma-separated text in UTF-8, with or without a byte order mark; the first line names the columns.

    Raises DataError where the file holds something else.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, restval="")
            reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = [
                (reader.line_num, {name: value.strip() for name, value in row.items() if name})  # None: cells too many
                for row in reader
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{file} can't be read as a table ({error}). Expected comma-separated text in UTF-8. Save it as such."
        ) from None
    return CsvTable(file, tuple(reader.fieldnames), rows)
