"""Files appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from maskcls.files import append_line, replacing, whole_lines, write_atomically


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


def test_the_longest_name_that_a_folder_takes_can_be_written(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 250 + ".csv")
    write_atomically(file, "whole")
    assert [(found.name, found.read_text()) for found in tmp_path.iterdir()] == [(file.name, "whole")]
