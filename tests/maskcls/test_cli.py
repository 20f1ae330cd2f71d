"""What all commands share: errors of the disk as one message that says whether a file was read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.cli import disk_message
from maskcls.errors import DataError
from maskcls.files import refuse_address, write_atomically
from maskcls.text import shown
from tests.commands import call_module


def message_of(call: object) -> str:
    with pytest.raises(OSError) as caught:
        call()  # type: ignore[operator]
    return disk_message(caught.value)


def test_a_file_that_may_not_be_read_is_not_said_to_be_unwritable(unprivileged: Path) -> None:
    file = unprivileged / "in/train.csv"
    file.parent.mkdir()
    file.write_text("id\n")
    file.chmod(0)
    remedy = "cannot be read: Permission denied. Give yourself the right to read it (chmod u+rX)."
    assert message_of(file.read_text) == f"{file} {remedy}"
    file.parent.chmod(0)
    assert message_of(lambda: list(file.parent.iterdir())) == f"{file.parent} {remedy}"
    assert message_of(file.read_text) == f"{file} {remedy}"
    below = file.parent / "folder" / "faces"
    assert message_of(below.exists) == f"{below} {remedy}", "behind a folder that may not be entered"
    file.parent.chmod(0o700)


def test_a_folder_that_may_not_be_written_says_so(unprivileged: Path) -> None:
    (unprivileged / "out").mkdir(mode=0o500)
    assert "could not be written: Permission denied. Give yourself the right to write there" in message_of(
        lambda: write_atomically(unprivileged / "out/a.csv", "")
    )
    (unprivileged / "out").chmod(0o700)
    assert "File name too long. Give it a shorter name." in message_of((unprivileged / ("a" * 300)).read_text)
    assert "Free some space or name another folder" in message_of(lambda: Path("/dev/full").write_text("a"))
    assert "no file can be made there. Name another folder." in message_of(Path("/proc/out").mkdir)
    assert message_of((unprivileged / "nowhere").read_text) == ""


def test_a_folder_in_a_files_place_is_to_be_moved_away(tmp_path: Path) -> None:
    (tmp_path / "leaderboard.csv").mkdir()
    remedy = "cannot be read or written: Is a directory. Move away what is in its place, then go on."
    assert (
        message_of(lambda: write_atomically(tmp_path / "leaderboard.csv", "")) == f"{tmp_path}/leaderboard.csv {remedy}"
    )
    (tmp_path / "file").write_text("")
    assert "Not a directory. Move away" in message_of(lambda: write_atomically(tmp_path / "file" / "a.csv", ""))


def test_a_message_can_be_written_whatever_names_stand_in_it() -> None:
    name = b"\xb1\xe8\n.jpg".decode("utf-8", "surrogateescape")
    assert shown(name) == r"\xb1\xe8\x0a.jpg"
    assert str(DataError(f"{name}\nis bad")).encode() == b"\\xb1\\xe8\n.jpg\nis bad"


@pytest.mark.parametrize(
    ("module", "option"),
    [
        ("maskcls.check", "--data"),
        ("maskcls.predict", "--images"),
        ("tune.audit", "--extra"),
        ("tune.search", "--runs"),
    ],
)
def test_an_address_in_place_of_a_path_is_refused_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    others = {"maskcls.predict": ("--bundle", "b"), "tune.audit": ("--run", "one")}.get(module, ())
    done = call_module(module, *others, option, "s3://bucket/faces")
    assert done.status == 2
    assert done.err.startswith(
        f"Error: {option} s3:/bucket/faces is an address. Expected a path of this machine's file"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_looks_a_little_like_an_address_is_none() -> None:
    for path in ("runs/a:b", "C:/faces", "./s3:/x", "a:b"):
        refuse_address(path, "--data")
