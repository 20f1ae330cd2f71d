"""Files appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from maskcls.errors import DataError
from maskcls.files import append_line, read_csv, replacing, whole_lines, write_atomically, write_csv


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
    assert whole_lines(file) == []
    append_line(file, "one")
    append_line(file, "zwei: ü")
    assert whole_lines(file) == ["one", "zwei: ü"]


@pytest.mark.parametrize("torn", [b"thr", b"\x00\x00\x00", "ü".encode()[:1]])
def test_a_line_that_was_cut_short_is_none_and_gives_way_to_the_next(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"one\ntwo\n" + torn)
    assert whole_lines(file) == ["one", "two"]
    append_line(file, "three")
    assert whole_lines(file) == ["one", "two", "three"]


def test_a_full_disk_names_the_file_that_should_have_grown() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        append_line(Path("/dev/full"), "one")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    write_csv(file, ("key", "text"), [("ü,1", 'said "no"'), (2, "two\nlines")])
    assert file.read_bytes() == 'key,text\n"ü,1","said ""no"""\n2,"two\nlines"\n'.encode()
    table = read_csv(file)
    assert table.columns == ("key", "text")
    assert table.rows == [(2, {"key": "ü,1", "text": 'said "no"'}), (4, {"key": "2", "text": "two\nlines"})]


def test_a_table_may_have_a_byte_order_mark_blanks_and_cells_too_few_or_too_many(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"\xef\xbb\xbfid , age\r\n 1 ,\r\n\r\n2\r\n3,4,5\r\n")
    assert read_csv(file).rows == [
        (2, {"id": "1", "age": ""}),
        (4, {"id": "2", "age": ""}),
        (5, {"id": "3", "age": "4"}),
    ]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("id,age\n")
    read_csv(file).require(["age"])
    with pytest.raises(
        DataError, match=r"a\.csv lacks the columns sex, race; it has id, age\. Expected id, sex, race\."
    ):
        read_csv(file).require(["id", "sex", "race"])


@pytest.mark.parametrize("content", [b"id\n\xff\n", b"id\n" + b"x" * 200_000], ids=["not UTF-8", "an endless cell"])
def test_what_is_no_table_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"a\.csv can't be read as a table \(.*\)\. Expected comma-separated text in UTF-8"
    ):
        read_csv(file)
