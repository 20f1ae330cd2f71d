"""Any table and any names: a right reading or one message, and what goes in is what comes out plus what is named."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcls.data.contest_folder import MASK_OF, scan
from maskcls.data.corrections import read_corrections
from maskcls.data.layouts import scan as layouts
from maskcls.data.names import match
from maskcls.data.photos import list_photos, read_photos, tabulate
from maskcls.data.splits import SIDES, read_split
from maskcls.data.tables import read_table
from maskcls.errors import DataError, MaskclsError
from maskcls.serving.submission import read_classes

# Code points as numbers: the strategies for text build tables of all of them first, which takes seconds.
_NAMES = st.lists(
    st.integers(1, 0x10FFFF) | st.sampled_from(tuple(map(ord, "00012. -aé\u0301가\udcb1"))), max_size=5
).map(lambda codes: "".join(map(chr, codes)))
_TEXT = _NAMES.map(lambda name: name.encode(errors="ignore").decode())
_CELLS = st.lists(st.lists(_TEXT | st.sampled_from(["", " ", '"', ",", "\n", "1"]), max_size=4), max_size=5)
# With other ends the module writes some line breaks without quotes, so that a row is two in the file as well.
_STYLES = st.sampled_from(((csv.QUOTE_MINIMAL, "\r\n"), (csv.QUOTE_ALL, "\n"), (csv.QUOTE_ALL, "\r")))
_ENCODINGS = st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "cp949"))
_BYTES = st.binary(max_size=60) | st.lists(st.sampled_from(tuple('a,b"\r\n \ufeff가'))).map(
    lambda one: "".join(one).encode()
)
_EDITS = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.integers(0, 3),
        st.sampled_from(("", ",", '"', "\n", "\r", " ", "0", "1", "a", "-", ".", "\ufeff", "\0", "가", "e\u0301", "{")),
    ),
    max_size=3,
)


def any_table(tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], style: Any, encoding: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=style[0], lineterminator=style[1])
    writer.writerow(["a", "b"])
    writer.writerows(rows)
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(text.getvalue().encode(encoding, "ignore"))
    try:
        table = read_table(file)
    except DataError:
        return
    if encoding == "cp949":
        rows = [[cell.encode("cp949", "ignore").decode() for cell in row] for row in rows]
    wanted = [[cell.strip().strip("\ufeff\u200b\u2060").strip() for cell in row] for row in rows]
    wanted = [row for row in wanted if any(row)]
    assert [[row["a"], row["b"]] for _, row in table.rows] == [[*row, "", ""][:2] for row in wanted]
    assert not any(any(row[2:]) for row in wanted)
    assert table.blank == len(rows) - len(wanted)


def any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "any.csv"
    file.write_bytes(b"a,b\n" + content)
    try:
        table = read_table(file)
    except DataError:
        return
    lines = content.decode().replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    assert len(table.rows) + table.blank == (len(lines) if content else 0)


def any_names(wanted: list[str], there: list[str]) -> None:
    found = match(wanted, there).found
    assert all(found[name] == name for name in set(wanted) & set(there))
    assert set(found) <= set(wanted)
    assert set(found.values()) <= set(there)
    assert len(set(found.values())) == len(found)
    folded = [unicodedata.normalize("NFC", name).strip() for name in there]
    for name in set(wanted) - set(found):
        same = unicodedata.normalize("NFC", name).strip()
        assert not same or folded.count(same) != 1 or [one for one in wanted if one in found or one != name]


PEOPLE = ("000001", "000020", "김")
TABLES = {
    "train.csv": "id,gender,race,age,path\n" + "".join(f"{one},male,Asian,25,{one}\n" for one in PEOPLE),
    "info.csv": "ImageID,ans\n" + "".join(f"{one}.jpg,{i}\n" for i, one in enumerate(PEOPLE)),
    "corrections.csv": "id,what,value\n000001,swap,\n000020,age,33\n김,gender,female\n",
    "photos.csv": "file,person,mask,gender,age,age_group,light\n"
    + "".join(f"images/{one}.jpg,{one},worn,male,25,under 30,{i}\n" for i, one in enumerate(PEOPLE)),
    "split.json": '{"train": ["000001"], "validation": ["000020"], "holdout": ["김"]}',
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("any")
    for one in PEOPLE:
        (folder / "train/images" / one).mkdir(parents=True)
        for name in MASK_OF:
            (folder / "train/images" / one / f"{name}.jpg").write_bytes(b"x")
        (folder / "images").mkdir(exist_ok=True)
        (folder / "images" / f"{one}.jpg").write_bytes(b"x")
    (folder / "train/train.csv").write_text(TABLES["train.csv"])
    return folder


def rows_of(text: str) -> int:
    """How many lines, apart from the heading, are not blank."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return sum(bool(line.replace(",", "").replace('"', "").strip(" \ufeff")) for line in lines) - 1


def read_any(data: Path, name: str, text: str) -> None:
    """Read one of TABLES with this text. What is in no result must be in a message."""
    file = data / name
    file.write_text(text, newline="")
    if name == "train.csv":
        (data / "train/train.csv").write_text(text, newline="")
        contents = scan(data)
        assert contents.problems or len(contents.photos) == 7 * rows_of(text)
        return
    if name == "photos.csv":
        contents = layouts.scan(file)
        assert contents.problems or len(contents.photos) == rows_of(text)
        assert len(tabulate(contents)) == len(contents.photos)
        return
    readers: dict[str, Callable[[], int]] = {
        "info.csv": lambda: len(list_photos(file)),
        "corrections.csv": lambda: len(read_corrections(str(file)).rows),
    }
    if name == "split.json":
        photos = read_photos(data)
        split = read_split(file, photos)
        assert {person for side in SIDES for person in split.side(side)} <= set(photos["person"])
        return
    assert readers[name]() == rows_of(text)
    if name == "info.csv":
        assert len(read_classes(file)) == rows_of(text)


def any_change(data: Path, name: str, edits: list[tuple[float, int, str]]) -> None:
    (data / "train/train.csv").write_text(TABLES["train.csv"])
    text = TABLES[name]
    for share, removed, put in edits:
        place = int(share * len(text))
        text = text[:place] + put + text[place + removed :]
    try:
        read_any(data, name, text)
    except MaskclsError as error:
        assert "\n" not in str(error) or "can't be understood" in str(error) or "problems" in str(error)  # noqa: PT017


ANY: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "table": (any_table, {"rows": _CELLS, "style": _STYLES, "encoding": _ENCODINGS}),
    "bytes": (any_bytes, {"content": _BYTES}),
    "names": (any_names, {"wanted": st.lists(_NAMES, max_size=5), "there": st.lists(_NAMES, max_size=5)}),
    "change": (any_change, {"name": st.sampled_from(tuple(TABLES)), "edits": _EDITS}),
}


def searched(name: str, examples: int) -> Callable[..., None]:
    """A test of so many examples."""
    body, strategies = ANY[name]
    return settings(max_examples=examples)(given(**strategies)(body))


test_any_table_is_read_right_or_refused = searched("table", 120)
test_any_bytes_are_a_table_or_refused = searched("bytes", 120)
test_any_names_match_at_most_one_and_what_is_there_is_found = searched("names", 80)
test_any_change_of_a_table_is_read_or_refused = searched("change", 60)
test_many_tables = pytest.mark.soak(searched("table", 5000))
test_many_bytes = pytest.mark.soak(searched("bytes", 5000))
test_many_names = pytest.mark.soak(searched("names", 5000))
test_many_changes = pytest.mark.soak(searched("change", 5000))
