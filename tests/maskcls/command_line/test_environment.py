"""What a command mends of its environment: home, the user's name, proxies before this machine itself."""

from __future__ import annotations

import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from maskcls.command_line import environment
from maskcls.command_line.environment import mend

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment without proxies, with temporary files of its own; it is as before after the test."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in (*PROXIES, *map(str.upper, PROXIES), *environment._USER_VARIABLES):
        os.environ.pop(name, None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def unknown(uid: int) -> pwd.struct_passwd:
    raise KeyError(f"getpwuid(): uid not found: {uid}")


@pytest.mark.parametrize("home", [None, "", "/nowhere"])
def test_a_user_without_an_entry_gets_a_home_and_a_name(
    home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    os.environ.pop("HOME", None)
    if home is not None:
        os.environ["HOME"] = home
    mend()
    assert Path.home() == tmp_path / f"maskcls-{os.getuid()}"
    assert Path.home().stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"user{os.getuid()}"


def test_a_home_that_the_system_knows_is_taken_and_one_that_is_there_stays(tmp_path: Path) -> None:
    os.environ.pop("HOME", None)
    mend()
    assert os.environ["HOME"] == pwd.getpwuid(os.getuid()).pw_dir
    os.environ["HOME"] = str(tmp_path)
    mend()
    assert os.environ["HOME"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_proxies_are_not_asked_for_this_machine() -> None:
    mend()
    assert not {"no_proxy", "NO_PROXY"} & os.environ.keys(), "no proxy, nothing to except"
    os.environ.update(HTTP_PROXY="http://proxy:3128", no_proxy="example.org")
    mend()
    mend()
    assert os.environ["no_proxy"] == "example.org,127.0.0.1,localhost,::1"
    assert os.environ["NO_PROXY"] == "127.0.0.1,localhost,::1"
    os.environ["no_proxy"] = "*"
    mend()
    assert os.environ["no_proxy"] == "*"
