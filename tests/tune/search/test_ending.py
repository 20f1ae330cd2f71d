"""A search's end: what it says to do next, and where the winner cannot be handed over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from maskcls.data.dataset import FaceDataset
from tests.tune.answered_run import let_answer, one_knows
from tests.tune.searches import make_plan
from tests.tune.selection.small_run import add_trial, small_run
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.study import records
from tune.search import ending
from tune.search.options import SearchOptions
from tune.search.report_choice import sections
from tune.selection import choice
from tune.selection.finalists import Design, Finalist
from tune.selection.finish import finish_request
from tune.selection.record import read_choice
from tune.states import TrialState

DESIGN = Design(2, 2)


@pytest.fixture
def run_and_faces(tmp_path: Path, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    """A run without a trial, and its people."""
    return small_run(tmp_path, demo_cache)


def choose(run: SearchRun, faces: FaceDataset) -> choice.Choice:
    """All repeats are done, so that no Ray is needed."""
    return choice.choose(run, records(run), faces, DESIGN, parallel=1, cpus=1, gpus=0.0, cache=faces.cache)


def diverged(run: SearchRun, winner: Finalist) -> None:
    """As the worker leaves a winner that was stopped early and diverged on its way to the end."""
    request = finish_request(run, winner, cpus=1, gpus=0.0)
    request.folder.mkdir(parents=True)
    FitResult(TrialState.DIVERGED, "loss is nan", 2, 1, 0.4, 1.0, 1, 0.0, request.settings, {}).write(request.folder)


def test_the_next_finalist_is_handed_over_where_the_winner_diverges(
    run_and_faces: tuple[SearchRun, FaceDataset], capsys: pytest.CaptureFixture[str]
) -> None:
    run, faces = run_and_faces
    add_trial(run, [0.3, 0.5], {"lr_head": 1e-2})
    add_trial(run, [0.4], {"lr_head": 1e-3}, state=TrialState.STOPPED_EARLY)
    let_answer(run, faces, DESIGN, (0, 1), one_knows)
    chosen = choose(run, faces)
    assert chosen.winner is not None
    assert chosen.winner.trial_id == "0001"
    diverged(run, chosen.winner)

    options = SearchOptions(space="freezing", finalists=2, repeats=2)
    chosen, finished = ending.finish(run, options, make_plan(), None, chosen)
    assert chosen.winner is not None
    assert (chosen.winner.trial_id, finished) == ("0000", None)
    said = "Trial 0001 diverged when it was trained to its end: trial 0000 wins instead. loss is nan"
    assert said in capsys.readouterr().out
    assert ending.SearchOutcome(chosen.outcome, chosen, finished).goes_on

    resumed = choose(run, faces)
    assert resumed.winner is not None
    assert (resumed.winner.trial_id, resumed.is_final) == ("0000", True)
    note = "Trial 0001, stopped early, then trained to its end: diverged. loss is nan"
    assert note in choice.summary(run.record())
    assert note in "".join(sections(read_choice(run.record())))


def test_where_every_finalist_diverges_there_is_no_winner(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    for f1, lr in ((0.5, 1e-2), (0.4, 1e-3)):
        add_trial(run, [f1], {"lr_head": lr}, state=TrialState.STOPPED_EARLY)
    let_answer(run, faces, DESIGN, (0, 1), one_knows)
    chosen = choose(run, faces)
    for finalist in chosen.finalists:
        diverged(run, finalist)
    options = SearchOptions(space="freezing", finalists=2, repeats=2)
    chosen, finished = ending.finish(run, options, make_plan(), None, chosen)
    assert (chosen.winner, finished) == (None, None)
    expected = (
        "Every finalist with complete repeats diverged when it was trained to its end, so the best trial is chosen"
    )
    assert choice.summary(run.record())[0].startswith(expected)


def test_the_end_says_what_to_do_next_and_names_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, where = SearchRun.create(tmp_path / "a b", "one", SearchRecord(call={})), f"'{tmp_path}/a b/one/best'"
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    demo, own = (SearchOptions(space="freezing", data=data, weights="none") for data in (None, tmp_path))
    lines = ending.what_next(run, demo, exported=True, reported=True)
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        f"python -m webbrowser file://{tmp_path}/a%20b/one/report.html",
        f"python -m maskcls.serve --bundle {where}",
        f"python -m maskcls.predict --bundle {where} --images DIR --out submission.csv",
        "python -m tune.search --space freezing --data DIR",
    ]
    assert all(len(line) <= ending.WIDTH for line in lines if not line.startswith("  "))
    assert ending.what_next(run, own, exported=True, reported=True) == lines[:-2]
    assert ending.what_next(run, own, exported=False, reported=True) == lines[:2]
    assert ending.what_next(run, demo, exported=False, reported=False) == []


def test_an_environment_in_this_folder_that_is_not_active_is_to_be_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SearchRun.create(tmp_path, "one", SearchRecord(call={}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))

    def first_command() -> str:
        return ending.what_next(run, SearchOptions(space="freezing"), exported=True, reported=False)[1]

    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / ".venv"))
    assert first_command().startswith("  python -m maskcls.serve")
    monkeypatch.delenv("VIRTUAL_ENV")
    assert first_command() == "  source .venv/bin/activate"
