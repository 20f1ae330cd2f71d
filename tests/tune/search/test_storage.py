"""A search that is kept in an S3, as its photos are, goes on from there when the driver's disk is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskcls.storage.store import Store
from tests import commands
from tests.maskcls.storage.test_mirror import put
from tests.s3 import S3
from tests.tune.search.test_command import call
from tests.tune.search.test_events import TINY
from tests.tune.searches import reported
from tune.fitting.request import RECIPE
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.__main__ import main
from tune.selection.record import read_choice

WORDS = ("--epochs", "2", "--repeats", "1", "--keep", "1")
OF_THE_END = ("--trials", "2", "--finalists", "1", "--repeat-by", "seeds")


def winner(run: SearchRun) -> tuple[object, ...]:
    """The trial that was chosen, and the scores of its repeats."""
    chosen = read_choice(run.record())
    assert chosen is not None
    assert chosen.winner is not None
    return chosen.winner.trial, *(repeat.f1 for repeat in chosen.winner.repeats)


def begun_and_lost(s3: S3, tmp_path: Path, few_faces: tuple[str, ...]) -> tuple[str, ...]:
    """A search of one trial on photos at an address, whose folder is gone.

    Returns the words by which another machine finds it in the storage.
    """
    _, faces, *others = few_faces
    put(Path(faces), Store(s3.address(f"{tmp_path.name}-faces")))
    there: tuple[str, ...] = ("--name", "one", "--storage", s3.address(tmp_path.name))
    there += ("--data", s3.address(f"{tmp_path.name}-faces"), *others)
    call(*TINY, *WORDS, "--trials", "1", "--finalists", "0", *there, "--runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    return (*there, "--runs", str(tmp_path / "other machine"))


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_another_machine_goes_on_from_the_storage(s3: S3, tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    there = begun_and_lost(s3, tmp_path, few_faces)
    said = call(*TINY, *WORDS, "--trials", "2", "--finalists", "0", *there, "--begin-or-resume")
    assert f"Fetching the run one from s3://bucket/{tmp_path.name}/one." in said
    one = SearchRun(tmp_path / "other machine" / "one")
    assert [(trial.trial_id, trial.state.ended) for trial in records(one)] == [("0000", True), ("0001", True)]
    assert computed_by_the_second(one) == ["0001"]
    assert (one.best / "bundle.json").exists()


def computed_by_the_second(run: SearchRun) -> list[str]:
    """Trials that were begun after the run was fetched, by the times of their files, which fetching keeps."""
    fetched = (run.data / "split.json").stat().st_ctime
    return [folder.name for folder in sorted(run.trials.iterdir()) if (folder / RECIPE).stat().st_mtime > fetched]


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_it_finds_what_an_unbroken_search_finds(s3: S3, tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    there = begun_and_lost(s3, tmp_path, few_faces)
    call(*TINY, *WORDS, *OF_THE_END, *there, "--begin-or-resume")
    call(*TINY, *WORDS, *OF_THE_END, "--name", "unbroken", "--runs", tmp_path / "runs", *few_faces)
    one, unbroken = SearchRun(tmp_path / "other machine" / "one"), SearchRun(tmp_path / "runs" / "unbroken")
    assert reported(one) == reported(unbroken)
    assert winner(one) == winner(unbroken)

    shutil.rmtree(one.path)
    last = commands.call(main, "--resume", "one", *there[2:4], *there[-2:])
    assert last.status == 0, last.err
    assert "Nothing is left to do: one has 2 trials, and 2 are wanted." in last.out
    assert {file.name for file in one.best.iterdir()} == {file.name for file in unbroken.best.iterdir()}
    weights = {file.parent.name for file in one.trials.glob("*/best-*")}
    assert weights == {file.parent.name for file in unbroken.trials.glob("*/best-*")}


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_slow_storage_that_fails_each_tenth_time_changes_nothing(
    s3: S3, tmp_path: Path, few_faces: tuple[str, ...]
) -> None:
    faults = [fault for fault in ("500", "cut", "expired") * 100 for fault in (*[""] * 9, fault)]
    words = (*TINY, *WORDS, *OF_THE_END, *few_faces, "--runs", tmp_path / "runs")
    s3.latency_s, s3.faults[:] = 0.05, faults
    call(*words, "--name", "one", "--storage", s3.address(tmp_path.name))
    assert 100 < len(faults) - len(s3.faults) < len(faults), "ten requests and more have failed"
    s3.faults.clear()
    call(*words, "--name", "unbroken")
    one, unbroken = (SearchRun(tmp_path / "runs" / name) for name in ("one", "unbroken"))
    assert reported(one) == reported(unbroken)
    assert winner(one) == winner(unbroken)
    kept = Store(s3.address(tmp_path.name), "one/best").sizes()
    assert {file.name for file in one.best.iterdir()} <= kept.keys()


def test_a_bucket_out_of_reach_is_one_message_and_nothing_is_begun(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    address = "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:1"
    said = commands.call(main, *TINY, "--storage", address, "--name", "one", "--runs", tmp_path / "runs", *few_faces)
    assert said.status == 1
    *tried_again, error = said.err.splitlines()
    assert all(line.startswith("The storage s3://bucket/runs/one is out of reach (") for line in tried_again)
    assert error.startswith("Error: The storage s3://bucket/runs/one is out of reach (")
    assert error.endswith("Check the address, and this machine's network. Nothing was begun.")
    assert not (tmp_path / "runs").exists()
