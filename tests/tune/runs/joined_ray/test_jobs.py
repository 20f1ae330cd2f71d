"""What a run needs later does not lie in the folder that Ray removes after a job."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.errors import CallError
from tests.commands import read
from tune.runs.joined_ray.jobs import is_in_package
from tune.search.__main__ import main
from tune.search.options import SearchOptions


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder such as Ray unpacks a job's package into, which is the current one."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    (folder / "faces").mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def options(*words: object) -> SearchOptions:
    return read(main, SearchOptions.stated, "--space", "freezing", *words)


def test_a_relative_path_is_refused_and_an_absolute_one_is_taken(package: Path, tmp_path: Path) -> None:
    for option, words in (
        ("--runs", []),
        ("--data", ["--data", "faces", "--runs", tmp_path]),
        ("--extra", ["--extra", package / "faces", "--runs", tmp_path]),
        ("--cache", ["--cache", "cache", "--runs", tmp_path]),
    ):
        with pytest.raises(AssertionError, match=rf"Error: {option} .* lies in the folder into which Ray has unpacked"):
            options(*words)
    assert options("--runs", tmp_path, "--data", tmp_path).runs == tmp_path


def test_with_a_storage_the_runs_may_go_with_the_job(package: Path, tmp_path: Path) -> None:
    """The next job fetches the run from there."""
    assert options("--storage", "s3://bucket/runs").runs == Path("runs")
    with pytest.raises(AssertionError, match="Error: --storage .*/stored lies in the folder into which Ray"):
        options("--storage", "stored")


def test_a_resume_by_its_path_needs_no_folder_of_runs(package: Path, tmp_path: Path) -> None:
    assert options("--resume", tmp_path / "run").resume == str(tmp_path / "run")


def test_paths_elsewhere_are_in_no_package(tmp_path: Path, package: Path) -> None:
    assert is_in_package(Path("faces"))
    assert not is_in_package(tmp_path)
    assert not is_in_package(tmp_path / "_ray_pkg_1" / "working_dir_files")


def test_the_message_is_a_call_error(package: Path) -> None:
    with pytest.raises(CallError, match="which it removes after the job"):
        SearchOptions(space="freezing")
