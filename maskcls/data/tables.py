"""Tables that people wrote: photos, train.csv, info.csv, answers, submissions, corrections, all read by one reader.

It is strict where a wrong reading would go unnoticed, and bears what spreadsheets leave: byte order marks, any line
ends, blank rows, spaces around cells. What is text but no table, as a split in JSON, is read by `read_text`.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maskcls.errors import DataError
from maskcls.files import unreadable
from maskcls.text import counted, plural, shown

EXPECTED = "comma-separated text"

# The longest first: a mark of UTF-32 begins with one of UTF-16.
_MARKS = ((b"\xff\xfe\0\0", "UTF-32"), (b"\0\0\xfe\xff", "UTF-32"), (b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"))
_UNSEEN = "\ufeff\u200b\u2060"
"""Characters without width at the ends of cells: marks of files that were put together, and what web pages leave."""
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What some programs write in place of commas."""

PARQUET = ".parquet"

Row = tuple[int, dict[str, str]]
"""Line of the file (row of a Parquet file), counted from 1, and the cells by column, stripped; a missing one is empty.
"""


@dataclass(frozen=True)
class Table:
    """A table as it was read, without its blank rows."""

    file: Path
    columns: tuple[str, ...]
    rows: list[Row]
    blank: int = 0
    """How many blank rows were passed over."""

    @property
    def note(self) -> str:
        """A sentence on the blank rows; empty if there were none."""
        if not self.blank:
            return ""
        are = "is" if self.blank == 1 else "are"
        return f"{counted(self.blank, 'blank row')} of {shown(self.file)} {are} passed over."

    def place(self, line: int) -> str:
        """Return where a row stands, as in `photos.csv, line 7`."""
        return f"{shown(self.file.name)}, {'row' if self.file.suffix.lower() == PARQUET else 'line'} {line}"

    def lacking(self, expected: Sequence[str]) -> str:
        """Return which expected columns are missing, as a message that follows the file's name; empty if none is."""
        missing = [name for name in expected if name not in self.columns]
        if not missing:
            return ""
        has = ", ".join(map(shown, self.columns)) or "nothing"
        remedy = "Rename or add what is missing."
        separator = next((sign for sign in _SEPARATORS if len(self.columns) == 1 and sign in self.columns[0]), "")
        if separator:
            remedy = f"Its cells are separated by {_SEPARATORS[separator]}: save it with commas."
        return (
            f"lacks the {plural(len(missing), 'column')} {', '.join(missing)}; it has {has}. "
            f"Expected {', '.join(expected)}. {remedy}"
        )

    def require(self, expected: Sequence[str]) -> None:
        """Raise DataError where one of these columns is missing."""
        message = self.lacking(expected)
        if message:
            raise DataError(f"{shown(self.file)} {message}")


def read_table(file: Path) -> Table:
    """Read comma-separated text in UTF-8, whose first line that is not blank names the columns; or a Parquet file.

    Columns without a name are ignored.

    Raises DataError where the file cannot be read, holds something else, names a column twice, has a quoted cell that
    runs on into another line (it would swallow that row), or a row with more cells than columns (they are shifted).
    """
    if file.suffix.lower() == PARQUET:
        return _read_parquet(file)
    columns: list[str] = []
    rows: list[Row] = []
    blank = 0
    too_long: dict[int, int] = {}  # line -> cells
    for line, cells in _lines(read_text(file, EXPECTED), file):
        cells = [_stripped(cell) for cell in cells]
        if not any(cells):
            blank += 1
        elif not columns:
            columns = cells
        else:
            if any(cells[len(columns) :]):
                too_long[line] = len(cells)
            cells += [""] * (len(columns) - len(cells))
            rows.append((line, {name: cell for name, cell in zip(columns, cells, strict=False) if name}))
    _refuse_repeated(columns, file)
    if too_long:
        line, n = next(iter(too_long.items()))
        more = f" ({counted(len(too_long), 'such row')})" if len(too_long) > 1 else ""
        raise DataError(
            f"{shown(file)}, line {line}: {n} cells, but {counted(len(columns), 'column')}{more}. "
            'Expected one cell per column. Put a cell that has a comma between quotes ("), or remove what is too much.'
        )
    return Table(file, tuple(name for name in columns if name), rows, blank)


def _refuse_repeated(columns: Sequence[str], file: Path) -> None:
    twice = [name for name, times in Counter(columns).items() if name and times > 1]
    if twice:
        raise DataError(
            f"{shown(file)} names the column {shown(twice[0])} more than once. Rename or remove one of them."
        )


def _read_parquet(file: Path) -> Table:
    """Read a Parquet file as if its values had been written as text; whole numbers have no decimal point."""
    import pyarrow
    import pyarrow.parquet

    try:
        with file.open("rb") as stream:
            found = pyarrow.parquet.read_table(stream)
        columns = [_stripped(str(name)) for name in found.column_names]
        cells = [list(map(_as_text, column.to_pylist())) for column in found.columns]
    except pyarrow.ArrowException as error:
        raise DataError(f"{shown(file)} can't be read as Parquet ({error}). Write it again, or as CSV.") from None
    except OSError as error:
        raise DataError(unreadable(file, error)) from None
    _refuse_repeated(columns, file)
    rows = [(line, dict(zip(columns, row, strict=True))) for line, row in enumerate(zip(*cells, strict=True), 1)]
    filled = [(line, {name: cell for name, cell in row.items() if name}) for line, row in rows if any(row.values())]
    return Table(file, tuple(filter(None, columns)), filled, len(rows) - len(filled))


def _as_text(value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bytes):
        return _stripped(value.decode(errors="backslashreplace"))
    return _stripped(str(value))


def _stripped(cell: str) -> str:
    return cell.strip().strip(_UNSEEN).strip()


def _lines(text: str, file: Path) -> list[tuple[int, list[str]]]:
    """Return the cells of each line, with its number. Raises DataError where a row is not one line."""
    # `newline=""`: \n, \r\n and \r end a line, and nothing else does, as the csv module wants it.
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    found: list[tuple[int, list[str]]] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return found
        except csv.Error as error:
            if "field limit" in str(error):
                raise refusal(file, f"line {line}: {error}", EXPECTED) from None
            what = "a quote is opened and not closed" if "end of data" in str(error) else "a quote ends inside a cell"
            raise DataError(
                f"{shown(file)}, line {line}: {what}. "
                'Expected quotes (") around whole cells alone, and one line per row. Correct the line.'
            ) from None
        if reader.line_num > line:
            raise DataError(
                f"{shown(file)}, line {line}: a quoted cell runs on into line {reader.line_num}, and swallows what "
                "stands between. Expected one line per row. Close the quote, or remove the line break."
            )
        found.append((line, cells))


def read_text(file: Path, expected: str) -> str:
    """Read a text file in UTF-8, with or without a byte order mark; line ends stay as they are.

    Args:
        expected: what the file should hold, for the message.

    Raises DataError where it cannot be read or holds something else, naming its encoding as far as it can be known.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(unreadable(file, error)) from None
    return as_text(data, file, expected)


def as_text(data: bytes, source: object, expected: str) -> str:
    """Return what was read from a source as text. Raises DataError as `read_text` does."""
    reason, codec = _not_utf8(data)
    if reason:
        raise refusal(source, reason, expected, codec)
    return data.decode("utf-8-sig")


def refusal(source: object, reason: str, expected: str, codec: str = "") -> DataError:
    """Return the error that a file holds something else than was expected, or that in another encoding."""
    convert = f", or convert it: iconv -f {codec} -t UTF-8 OLD > NEW" if codec else ""
    kind = "a table" if expected == EXPECTED else "text"
    return DataError(
        f"{shown(source)} can't be read as {kind} ({reason}). Expected {expected} in UTF-8. "
        f"Save it as such (in Excel: CSV UTF-8){convert}."
    )


def _not_utf8(data: bytes) -> tuple[str, str]:
    """Return why the bytes are not text in UTF-8, and iconv's name of what they seem to be; empty where they are."""
    for mark, codec in _MARKS:
        if data.startswith(mark):
            return f"it is in {codec}", codec
    if b"\0" in data:
        # Latin letters in UTF-16 have a zero as every second byte.
        half = len(data) // 2
        if max(data[::2].count(0), data[1::2].count(0)) > 0.5 * half:
            return "it is in UTF-16", "UTF-16LE" if data[1::2].count(0) > data[::2].count(0) else "UTF-16BE"
        return "it holds zero bytes", ""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        where = f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8"
        try:
            data.decode("cp949")
        except UnicodeDecodeError:
            return where, ""
        return f"{where}; it may be in cp949, as Korean Windows writes", "CP949"
    return "", ""
