"""A search that is kept in an S3 goes on from there when the driver's disk is gone, and finds what it would have."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import commands
from tests.s3 import S3
from tests.tune.search.test_command import call
from tests.tune.search.test_events import TINY
from tests.tune.searches import reported
from tune.runs.folder import SearchRun
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


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_search_goes_on_from_its_storage_as_if_unbroken(s3: S3, tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    storage = s3.address(tmp_path.name)
    runs, other_runs = tmp_path / "runs", tmp_path / "other machine"
    there = ("--name", "one", "--storage", storage)
    call(*TINY, *WORDS, "--trials", "1", "--finalists", "0", *there, "--runs", runs, *few_faces)
    shutil.rmtree(runs)
    said = call(*TINY, *WORDS, *OF_THE_END, *there, "--runs", other_runs, *few_faces, "--begin-or-resume")
    assert f"Fetching the run one from s3://bucket/{tmp_path.name}/one." in said

    call(*TINY, *WORDS, *OF_THE_END, "--name", "unbroken", "--runs", runs, *few_faces)
    one, unbroken = SearchRun(other_runs / "one"), SearchRun(runs / "unbroken")
    assert reported(one) == reported(unbroken)
    assert winner(one) == winner(unbroken)

    shutil.rmtree(other_runs)
    last = commands.call(main, "--resume", "one", "--storage", storage, "--runs", other_runs)
    assert last.status == 0, last.err
    assert "Nothing is left to do: one has 2 trials, and 2 are wanted." in last.out
    assert {file.name for file in one.best.iterdir()} == {file.name for file in unbroken.best.iterdir()}
    weights = {file.parent.name for file in one.trials.glob("*/best-*")}
    assert weights == {file.parent.name for file in unbroken.trials.glob("*/best-*")}


def test_a_bucket_out_of_reach_is_one_message_and_nothing_is_begun(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    address = "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:1"
    said = commands.call(main, *TINY, "--storage", address, "--name", "one", "--runs", tmp_path / "runs", *few_faces)
    assert said.status == 1
    assert said.err.startswith("Error: The storage s3://bucket/runs/one is out of reach (")
    assert said.err.endswith("Check the address, and this machine's network. Nothing was begun.\n")
    assert not (tmp_path / "runs").exists()
