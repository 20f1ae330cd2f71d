"""Files appear whole or not at all, and what is read again is what was written."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import pytest

from maskcls.errors import CallError, Damaged, Missing
from maskcls.files import (
    FileKind,
    append_line,
    as_it_was,
    expanded,
    no_formulas,
    parse_object,
    replacing,
    set_aside,
    write_atomically,
    write_csv,
)

LINES = FileKind("lines of text", "Remove {file}.")


def test_a_home_is_written_out_and_an_unknown_one_is_a_wrong_call() -> None:
    assert expanded("~/runs") == Path.home() / "runs"
    assert expanded(Path("runs/~x")) == Path("runs/~x")
    with pytest.raises(CallError, match=r"^~nosuchuser/x: no home of ~nosuchuser is known\. Give the whole path\.$"):
        expanded("~nosuchuser/x")


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "old")
    with replacing(file) as stream:
        stream.write("neu: ü".encode())
        assert file.read_text() == "old"
    assert file.read_text(encoding="utf-8") == "neu: ü"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("wrapped", [False, True], ids=["OSError", "as torch wraps it"])
def test_a_full_disk_names_the_file_and_leaves_it_as_it_was(tmp_path: Path, wrapped: bool) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "old")

    def write() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            if not wrapped:
                raise
            raise RuntimeError("unexpected pos 768 vs 662")  # noqa: B904 - what torch.save does

    with pytest.raises(OSError, match="No space left") as caught, replacing(file):
        write()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(file))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_other_errors_pass_and_leave_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_atomically(file, "old")
    with pytest.raises(RuntimeError, match="shapes differ"), replacing(file) as stream:
        raise RuntimeError(f"shapes differ after {stream.write(b'half')} bytes")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_grows_by_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    assert LINES.whole_lines(file) == []
    append_line(file, "one")
    append_line(file, "zwei: ü")
    assert LINES.whole_lines(file) == [b"one", "zwei: ü".encode()]


@pytest.mark.parametrize("torn", [b"thr", b"\x00\x00\x00", "ü".encode()[:1]])
def test_a_line_that_was_cut_short_is_none_and_gives_way_to_the_next(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\ntwo\n" + torn)
    assert LINES.whole_lines(file) == [b"one", b"two"]
    append_line(file, "three")
    assert LINES.whole_lines(file) == [b"one", b"two", b"three"]


def test_a_full_disk_names_the_file_that_should_have_grown() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        append_line(Path("/dev/full"), "one")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 250 + ".csv")
    write_atomically(file, "whole")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [(file.name, "whole")]


RECORD = FileKind("a record: a JSON object", "Remove {file} in {folder}.", most_bytes=2000)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1, 2.5, null, "\\ud800"], "b": {"c": true}}')
    assert RECORD.read_object(file) == {"a": [1, 2.5, None, "\ud800"], "b": {"c": True}}


@pytest.mark.parametrize(
    ("content", "said"),
    {
        "cut": ('{"a": [1', "Expecting"),
        "no object": ("[1]", "it holds list, no object"),
        "not UTF-8": (b'{"a": "\xff"}', "utf-8"),
        "nan": ('{"a": NaN}', "NaN is no finite number"),
        "too large for a float": ('{"a": 1e999}', "1e999 is no finite number"),
        "digits": ('{"a": ' + "9" * 50 + "}", "a number has 50 digits"),
        "deep": ('{"a": ' + "[" * 50 + "]" * 50 + "}", "it is nested too deeply"),
        "deeper than the stack": ("[" * 1900, "nested too deeply"),
        "large": (" " * 3000, r"it has 3,000 bytes, and 2,000 at most can be right"),
        "empty": ("", "Expecting value"),
    }.values(),
)
def test_what_was_not_written_is_named_with_what_to_do(tmp_path: Path, content: str | bytes, said: str) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(
        Damaged, match=rf"a\.json can't be read: .*{said}.* Expected a record: .* Remove .*a\.json in {tmp_path}\."
    ):
        RECORD.read_object(file)


def test_what_is_no_regular_file_is_not_opened_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    for name, said in (
        ("pipe", "no regular file"),
        ("zeros", "no regular file"),
        (".", "no regular file"),
        ("loop", "symbolic links"),
    ):
        with pytest.raises(Damaged, match=said):
            RECORD.read_bytes(tmp_path / name)
    with pytest.raises(Missing, match="it is missing"):
        RECORD.read_bytes(tmp_path / "nothing")
    assert RECORD.whole_lines(tmp_path / "nothing") == []


def test_a_line_that_is_no_record_is_named_by_its_number(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(Damaged, match=r"a\.jsonl can't be read: line 2: Expecting value"):
        RECORD.read_lines(file, parse_object)


def test_what_is_damaged_is_set_aside_under_names_that_are_free(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / "a").write_text(content)
        set_aside(tmp_path / "a")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"a.1": "one", "a.2": "two"}


FORMULAS = ("=1+1", "+SUM(A1)", "-2+3", "@x", "\t=1", "\r=1", "\n=1")
NO_FORMULAS = ("a=1", "", "-0.25", "+1e-3", "-12", "'quoted", "12", "-.5%")


def test_texts_that_a_spreadsheet_would_run_are_quoted_where_people_open_the_table(tmp_path: Path) -> None:
    cells = (*FORMULAS, *NO_FORMULAS, -1, 2.5, None)
    (safe,) = no_formulas([cells])
    assert safe == (*(f"'{cell}" for cell in FORMULAS), *NO_FORMULAS, -1, 2.5, None)
    assert [as_it_was(cell) for cell in safe if isinstance(cell, str)] == [*FORMULAS, *NO_FORMULAS]
    write_csv(tmp_path / "read-again.csv", ["file"], [[cell] for cell in FORMULAS])
    with (tmp_path / "read-again.csv").open(newline="") as file:
        assert [row["file"] for row in csv.DictReader(file)] == list(FORMULAS), "a table that is read again"
