"""`maskcls runs`: runs are listed and shown with what they hold, pruned to what is needed, and repaired."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.commands import Said, call_module
from tests.tune.made_run import made_run
from tune.runs import leaderboard
from tune.runs.folder import ComparisonRun, SearchRun
from tune.runs.record import ComparisonRecord
from tune.runs.study import records


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    run = made_run(tmp_path_factory.mktemp("runs"), 8)
    leaderboard.write(run, records(run))
    for trial in records(run):
        folder = run.trial(trial.trial_id)
        (folder / "state.pt").write_bytes(b"s" * 1000)
        (folder / f"best-{trial.best_epoch}.safetensors").write_bytes(b"w" * 100)
    (run.experiment / "001").mkdir()
    (run.experiment / "001" / "result.json").write_text("{}")
    ComparisonRun.create(run.path.parent, "ask", ComparisonRecord(created="2030-01-01T00:00:00+0000"))
    return run


@pytest.fixture
def run(made: SearchRun, tmp_path: Path) -> SearchRun:
    shutil.copytree(made.path.parent, tmp_path / "runs")
    return SearchRun(tmp_path / "runs" / "made")


def call(run: SearchRun, *words: object) -> Said:
    return call_module("tune.upkeep.runs", *words, "--runs", run.path.parent)


def test_runs_of_both_kinds_are_listed_the_latest_first(run: SearchRun) -> None:
    said = call(run, "list")
    assert said.status == 0, said.err
    rows = [line.split("│")[1:-1] for line in said.out.splitlines() if "│" in line]
    assert [[cell.strip() for cell in row[:2]] for row in rows] == [["ask", "comparison"], ["made", "search"]]
    assert "8 trials" in rows[1][4]
    best = leaderboard.best(records(run))
    assert best is not None
    assert f"{best.f1:.4f}" in rows[1][5]


def test_a_damaged_run_is_listed_and_shown_with_what_is_wrong(run: SearchRun) -> None:
    run.record_file.write_text("{")
    (damaged,) = [line for line in call(run, "list").out.splitlines() if "made" in line]
    assert "damaged" in damaged
    assert "search.json can't be read" in call(run, "show", "made").out


def test_a_run_is_shown_with_what_fills_the_disk(run: SearchRun) -> None:
    said = call(run, "show", "made")
    assert said.out.startswith("made: search, complete;")
    assert "Best: trial 000" in said.out
    assert "kB  trials/\n" in said.out
    assert f"May go: 7 files, 3.3 kB, by python -m tune.upkeep.runs prune {run.path}\n" in said.out
    assert call(run, "show", "ask").out.startswith("ask: comparison")


def test_a_name_that_no_run_has_is_answered_with_those_there_are(run: SearchRun) -> None:
    said = call(run, "show", "mad")
    assert said.status != 0
    assert said.err.endswith(f"Expected a run's folder, or its name under {run.path.parent}. Runs there: ask, made.\n")


def files_of(run: SearchRun) -> set[Path]:
    return {file for file in run.path.rglob("*") if file.is_file() and file.name != ".driver.lock"}


def test_weights_of_all_but_the_best_go_and_nothing_else(run: SearchRun) -> None:
    run.write_record(run.record().changed(call={"finalists": 3}))
    files = files_of(run)
    said = call(run, "prune", "made", "--keep", 2, "--dry-run")
    assert said.out.startswith("Would remove 9 files of made: ")
    assert files_of(run) == files

    assert call(run, "prune", "made", "--keep", 2).out.startswith("Removed 9 files of made: ")
    gone = files - files_of(run)
    # As many as there are finalists, and the preset's.
    kept = {trial.trial_id for trial in leaderboard.ranked(records(run))[:3]} | {"0000"}
    weights = {file for file in files if file.name == "state.pt" or file.suffix == ".safetensors"}
    assert gone == {file for file in weights if file.parent.name not in kept} | {run.experiment / "001" / "result.json"}


def test_what_a_driver_works_on_is_not_pruned(run: SearchRun) -> None:
    with run.held():
        assert "Another driver is working" in call(run, "prune", "made").err


def test_a_lost_journal_is_made_again(run: SearchRun) -> None:
    assert call(run, "repair", "made").out == f"Nothing is wrong with {run.journal}.\n"
    run.write_record(run.record())
    run.journal.unlink()
    said = call(run, "repair", "made")
    assert said.status == 0, said.err
    assert said.out.startswith("study.journal is missing, and search.json notes that it held ")
    assert "It was made again: 8 trials ended, as before.\nTo go on:\n  python -m tune.search --resume " in said.out
