"""Files that are written whole or not at all, files that grow by whole lines, why a file could not be read, and the one
way to read files that this project wrote: `FileKind`."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import math
import os
import re
import shlex
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar
from zlib import crc32

from maskcls.errors import CallError, Damaged, MaskclsError, Missing
from maskcls.text import shown

FULL = (errno.ENOSPC, errno.EDQUOT)
"""A disk, or a user's share of it, has no room."""
_REMEDIES = {
    errno.EACCES: "Give yourself the right to read it (chmod u+rX)",
    errno.EPERM: "Give yourself the right to read it (chmod u+rX)",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "It is a folder: name a file",
    errno.ELOOP: "It is a link that leads to itself: remove it",
    errno.ENAMETOOLONG: "Give it a shorter name",
}
MOST_BYTES = 64 << 20
"""Of a record: more than any that this project writes."""
MOST_DEPTH = 40
"""Of lists and mappings in each other, in a record: more than any that this project writes."""
MOST_DIGITS = 40
"""Of a whole number in a record; with many more, turning it into a float fails."""
_WRONG_CONTENT = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    EOFError,
    csv.Error,
)
"""What Python raises where content is not what the code that takes it expects."""
_MOST_SAID = 400
"""Characters of a message that may repeat what a damaged file holds."""
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?")
_Parsed = TypeVar("_Parsed")


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
    if not may_access(folder, os.W_OK | os.X_OK):
        raise CallError(
            f"{option} {shown(path)}: {shown(folder)} may not be written. Give yourself the right to write there, or "
            "name another folder."
        )


def may_access(path: str | Path, what: int) -> bool:
    """Whether this process may do that with the path: os.F_OK, R_OK, W_OK and X_OK, as its effective user."""
    return os.access(path, what, effective_ids=os.access in os.supports_effective_ids)


def temporary_home() -> Path:
    """Make this user's own folder among the temporary files, and return it. Raises OSError where none can be made."""
    return private_folder(Path(tempfile.gettempdir()) / f"maskcls-{os.getuid()}")


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can look into, and return it; or one beside it, if it is somebody else's.

    Raises OSError where none can be made or written.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        return Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))
    folder.chmod(0o700)
    with tempfile.TemporaryFile(dir=folder):  # a disk that is mounted read-only says so only now
        return folder


def address_of(value: object) -> str | None:
    """Return the address, as in s3://bucket/faces, that stands in place of a path; None of a path."""
    # A Path has made one slash of two; one letter before the colon is a disk of Windows.
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", str(value), re.DOTALL)
    if found is None:
        return None
    scheme, rest = found.groups()
    return f"{scheme}:///{rest}" if scheme == "file" else f"{scheme}://{rest}"


def expanded(path: str | Path) -> Path:
    """Return the path with its ~ or ~user written out. Raises CallError where no such home is known."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise CallError(f"{shown(path)}: no home of {Path(path).parts[0]} is known. Give the whole path.") from None


def refuse_address(value: object, option: str) -> None:
    """Raise CallError where an address, as in s3://bucket/faces, stands in place of a path on this machine."""
    if address_of(value) is not None:
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
    """Write UTF-8 text by `replacing`. What UTF-8 does not have, as of a file's name, is escaped."""
    with replacing(file, wait=wait) as stream:
        stream.write(text.encode(errors="backslashreplace"))


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


@dataclass(frozen=True)
class FileKind:
    """A kind of file that this project writes, and the one way to read it again.

    Nothing is taken on trust. Whatever is wrong with a file, the error is Damaged, or Missing where there is none: it
    is no regular file (opening a named pipe would wait for a writer), is too large, is no UTF-8 or JSON, is nested so
    deeply that Python's stack overflows, or has numbers that are not finite.
    """

    expected: str
    """What such a file holds, as in `a recipe: a JSON object`."""
    remedy: str
    """What to do about a damaged one, as sentences; {file} stands for the file, {folder} for its folder as a word of a
    command."""
    most_bytes: int = MOST_BYTES

    def error(self, file: Path, what: str, kind: type[Damaged] = Damaged) -> Damaged:
        """Return the error that a file is not as it should be; `what` says why."""
        remedy = self.remedy.replace("{file}", shown(file)).replace("{folder}", shlex.quote(shown(file.parent)))
        why = _short(" ".join(what.split())).rstrip(".")
        return kind(f"{shown(file)} can't be read: {why}. Expected {self.expected}. {remedy}")

    @contextmanager
    def reading(self, file: Path) -> Iterator[None]:
        """Let an error about the content, raised in the block, become Damaged."""
        try:
            yield
        except Damaged:
            raise
        except (*_WRONG_CONTENT, MaskclsError) as error:
            raise self.error(file, str(error) if isinstance(error, MaskclsError) else repr(error)) from None

    @contextmanager
    def opened(self, file: Path) -> Iterator[IO[bytes]]:
        """Yield a stream of the file's bytes, once it is known to be a regular file of a bounded size."""
        try:
            descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self.error(file, "it is missing", Missing) from None
        except (OSError, ValueError) as error:  # ValueError: a zero byte in its name
            raise self.error(file, getattr(error, "strerror", None) or str(error)) from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > self.most_bytes:
            os.close(descriptor)
            sizes = f"it has {found.st_size:,} bytes, and {self.most_bytes:,} at most can be right"
            raise self.error(file, sizes if stat.S_ISREG(found.st_mode) else "it is no regular file")
        with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor, which Path.open does not take
            try:
                yield stream
            except OSError as error:
                raise self.error(file, error.strerror or str(error)) from None

    def read_bytes(self, file: Path) -> bytes:
        """Return the file's content."""
        with self.opened(file) as stream:
            return stream.read()

    def read_text(self, file: Path) -> str:
        """Return the file's content as text."""
        with self.reading(file):
            return self.read_bytes(file).decode("utf-8")

    def read_json(self, file: Path) -> Any:
        """Return what the file holds as JSON."""
        with self.reading(file):
            return parse_json(self.read_bytes(file))

    def read_object(self, file: Path) -> dict[str, Any]:
        """Return the file's JSON object."""
        with self.reading(file):
            return parse_object(self.read_bytes(file))

    def whole_lines(self, file: Path) -> list[bytes]:
        """Return the file's lines without their ends, none without a file; an incomplete last line is left out."""
        try:
            return self.read_bytes(file).split(b"\n")[:-1]
        except Missing:
            return []

    def read_lines(self, file: Path, parsed: Callable[[bytes], _Parsed]) -> list[_Parsed]:
        """Return what `parsed` makes of each whole line."""
        found = []
        for number, line in enumerate(self.whole_lines(file), start=1):
            try:
                found.append(parsed(line))
            except _WRONG_CONTENT as error:
                raise self.error(file, f"line {number}: {error}") from None
        return found


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text holds. Raises ValueError also where a number is not finite or has too many digits, and
    where lists and mappings are nested too deeply.
    """
    try:
        found = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(found)
    return found


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object that a JSON text holds. Raises ValueError as `parse_json` does, and for no object."""
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError(f"it holds {type(found).__name__}, no object")
    return found


def number_of(value: object) -> float:
    """Return a finite number of a record. Raises ValueError where it is none; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{_short(repr(value))} is no finite number")
    return float(value)


def share_of(value: object) -> float:
    """Return a number of a record that lies in 0..1, as every F1 does. Raises ValueError where it does not."""
    number = number_of(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} is not within 0 and 1")
    return number


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _check_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in _inner(outer)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _inner(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}…"


def set_aside(file: Path) -> Path:
    """Rename a file that is damaged to the same name with the next free number, as in `state.pt.1`; return that."""
    numbers = itertools.count(1)
    aside = next(place for n in numbers if not os.path.lexists(place := file.with_name(f"{file.name}.{n}")))
    return file.rename(aside)


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as comma-separated text: a line of column names, then one line per row."""
    return csv_lines(itertools.chain([columns], rows))


def csv_lines(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as lines of comma-separated text."""
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        # Python quotes a carriage return only where it ends lines, but takes it for a line's end when it reads.
        has_return = any(isinstance(cell, str) and "\r" in cell for cell in row)
        (quoting if has_return else plain).writerow(row)
    return text.getvalue()


def write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table by `replacing`, with each cell as it is, so that a reader finds the same names and paths again."""
    write_atomically(file, csv_text(columns, rows))


def no_formulas(rows: Iterable[Sequence[object]]) -> Iterator[tuple[object, ...]]:
    """Yield rows of a table that people open: a spreadsheet would take some texts for formulas, and run them.

    Such a text gets an apostrophe before it (OWASP, CSV Injection). Numbers stay as they are, also those below 0. Not
    for tables that a program reads back, or joins with others by a name.
    """
    for row in rows:
        yield tuple(f"'{cell}" if isinstance(cell, str) and _is_formula(cell) else cell for cell in row)


def as_it_was(cell: str) -> str:
    """Return a cell of such a table as it was before `no_formulas`."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(cell: str) -> bool:
    return cell.startswith(_FORMULA_BEGINS) and _NUMBER.fullmatch(cell) is None
