"""A Ray that is started here keeps its files where only its user can look, wherever temporary files and home are."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskcls.errors import RunError
from tune.runs.local_ray import place
from tune.runs.local_ray.place import find_place, temp_folder, token_command


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A home of its own, and no folder beyond those that a test names."""
    for name in (*place._TEMP_VARIABLES, "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(place, "_FOLDERS", ())
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    place._chosen.cache_clear()
    yield
    place._chosen.cache_clear()


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files by a short way, as pytest's own are long."""
    (tmp_path / "t").mkdir()
    link = Path(f"/tmp/t{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "t")
    yield link
    link.unlink()


def test_folder_and_token_are_the_users_alone(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(place, "_SHARED_MEMORY", tmp_path)
    found = find_place()
    assert mode(found.folder) == 0o700
    assert found.folder.stat().st_uid == os.getuid()
    token = tmp_path / "home" / ".ray" / "auth_token"
    assert found.token == token
    assert mode(token) == 0o600
    assert mode(token.parent) == 0o700
    assert len(token.read_text()) == 64
    assert (found.variables, token_command()) == ({}, "ray get-auth-token")
    assert found.settings == {"_temp_dir": str(found.folder / "ray"), "object_store_memory": place.STORE_BYTES}
    assert temp_folder() == found.temp
    before = token.read_text()
    token.chmod(0o644)  # as Ray writes it
    assert find_place().token == token
    assert (mode(token), token.read_text()) == (0o600, before)


def test_without_a_home_that_can_be_written_the_token_lies_beside_rays_files(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    for home in ("", str(tmp_path / "nowhere"), "/proc"):
        monkeypatch.setenv("HOME", home)
        found = find_place()
        assert found.token == found.folder / "auth_token"
        assert found.variables == {"RAY_AUTH_TOKEN_PATH": str(found.token)}
        assert mode(found.token) == 0o600
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/mine")
    assert (find_place().token, token_command()) == (None, "cat /mine")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/my token")
    assert token_command() == "cat '/my token'"


def test_a_path_that_is_too_long_for_a_socket_is_passed_over(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("long" * 20)))
    monkeypatch.setattr(place, "_FOLDERS", (str(short),))
    assert find_place().folder == short / f"maskcls-{os.getuid()}"
    socket = f"{find_place().temp}/session_2026-11-29_14-03-11_947280_29199/sockets/plasma_store"
    assert len(socket) <= 107


def test_somebody_elses_folder_of_the_name_is_not_taken(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    (short / f"maskcls-{os.getuid()}").symlink_to(tmp_path / "home")
    found = find_place()
    assert found.folder.name.startswith(f"maskcls-{os.getuid()}-")
    assert mode(found.folder) == 0o700
    assert find_place() == found, "not another one each time"


def test_where_there_is_none_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")
    with pytest.raises(RunError, match=r"no folder .*\(/proc: .*\)\. Name one with RAY_TMPDIR .* at most \d\d bytes"):
        find_place()


def test_a_nearly_full_dev_shm_is_not_used(short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(short))
    monkeypatch.setattr(place, "_SHARED_MEMORY", tmp_path / "missing")
    found = find_place()
    assert found.settings["_plasma_directory"] == str(found.folder)
