"""`python -m maskcls.explore`, as its user calls it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maskcls.explore import main
from tests.commands import call
from tests.maskcls.conftest import MakeContest


@pytest.mark.slow
def test_a_folder_becomes_a_page_and_an_earlier_one_is_only_replaced_when_reported(
    make_contest: MakeContest, tmp_path: Path
) -> None:
    data, out = make_contest(2), tmp_path / "look"
    next(data.glob("train/images/000001*/mask1.*")).write_bytes(b"no photo")
    out.mkdir()
    (out / "explore.html").write_text("an earlier one")
    refused = call(main, "--data", data, "--out", out)
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == f"Error: --out {out} holds an exploration already. Name a new folder, or give --overwrite.\n"

    said = call(main, "--data", data, "--out", out, "--overwrite")
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[:3] == [
        "2 people, 13 photos",
        "  gender      male: 2, female: 0",
        "  age group   under 30: 1, 30 to 59: 1, over 59: 0",
    ]
    assert lines[4] == "  problems    1, photos that can't be decoded 1"
    assert lines[-2].endswith(f" s: {out / 'explore.html'}")
    assert lines[-1] == "Beside it are its 17 pictures as PNG files."
    assert max(map(len, lines[:-2])) <= 80
    assert len(list(out.iterdir())) == 18


@pytest.mark.slow
def test_without_data_the_demo_faces_are_explored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maskcls.data.dataset.DEMO_PERSONS", 6)
    said = call(main, "--out", tmp_path / "look", "--cache", tmp_path / "cache")
    assert said.status == 0, said.err
    assert said.out.startswith("6 people, 42 photos\n")
    assert "Photos of drawn demo faces" in (tmp_path / "look/explore.html").read_text()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda out: out.write_text("mine"), "is a file. Name a new folder."),
        (
            lambda out: (out / "mine").mkdir(parents=True),
            "is not empty and holds no exploration (it has no explore.html). Name a new folder.",
        ),
    ],
)
def test_what_is_in_the_way_is_reported_and_stays(tmp_path: Path, make: object, message: str) -> None:
    out = tmp_path / "look"
    make(out)  # type: ignore[operator]
    for more in ((), ("--overwrite",)):
        said = call(main, "--data", tmp_path, "--out", out, *more)
        assert (said.status, said.err) == (2, f"Error: --out {out} {message}\n")
    assert out.is_file() or [file.name for file in out.iterdir()] == ["mine"]


def test_a_folder_under_a_file_is_a_wrong_call(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = call(main, "--out", tmp_path / "file/look")
    assert said.status == 2
    assert said.err.endswith(f"{tmp_path / 'file'} is a file, so no folder can be made under it. Name a new folder.\n")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    said = call(main, "--data", tmp_path / "nowhere", "--out", tmp_path / "look")
    assert said.status == 2
    assert said.err.startswith(f"Error: {tmp_path / 'nowhere'} does not exist. Expected the contest's layout")
    assert said.err.count("\n") == 1
    assert not (tmp_path / "look").exists()


@pytest.mark.parametrize("words", [(), ("--out",), ("--out", "x", "--dta", "y")])
def test_a_wrong_call_exits_with_2(words: tuple[str, ...]) -> None:
    said = call(main, *words)
    assert said.status == 2
    assert "Traceback" not in said.err
    assert "--out" in said.err or "--dta" in said.err


@pytest.mark.soak
def test_help_is_quick() -> None:
    durations = []
    for _ in range(3):
        start = time.perf_counter()
        command = [sys.executable, "-m", "maskcls.explore", "--help"]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"}, check=False
        )
        durations.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "--overwrite" in done.stdout
    assert min(durations) < 1.0, durations  # a third of a second on a machine with nothing else to do
