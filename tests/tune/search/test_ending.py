"""A search's end: who is handed over, that every figure is of that model, and what it says to do next."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.serving.export import note_scores
from tests.commands import call
from tests.conftest import ROOT
from tests.tune.answered_run import let_answer, one_knows
from tests.tune.asked import plan_of
from tests.tune.selection.small_run import add_trial, small_run, write_end
from tests.tune.synthetic import SPACE
from tune.report.choice import sections
from tune.report.page import write_report
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import HoldoutScore
from tune.runs.record import MANY, SearchRecord, now
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import PRESET, records
from tune.search import __main__ as search
from tune.search import ending, summary
from tune.search.options import SearchOptions
from tune.selection import choice
from tune.selection.finalists import Design, repeat_requests
from tune.selection.record import ChoiceRecord, read_choice
from tune.states import TrialState

DESIGN = Design(2, 2)
STOPPED = TrialState.STOPPED_EARLY


@pytest.fixture
def run_and_faces(tmp_path: Path, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    """A run without a trial, and its people."""
    return small_run(tmp_path, demo_cache)


def choose(run: SearchRun, faces: FaceDataset, design: Design = DESIGN) -> choice.Choice:
    """All fits are done, so that no Ray is needed."""
    assert choice.fits_to_do(run, records(run), faces, design) == []
    return choice.choose(run, records(run), faces, design, parallel=1, cpus=1, gpus=0.0, cache=faces.cache)


def the_choice(run: SearchRun) -> ChoiceRecord:
    made = read_choice(run.record())
    assert made is not None
    return made


def score_on_holdout(run: SearchRun, f1: float) -> ChoiceRecord:
    """The choice as `confirm` leaves it."""
    score = HoldoutScore("trial", "2030-01-01", f1, f1 - 0.1, f1 + 0.1, 6, 42, "0" * 12)
    choice.write_choice(run, replace(the_choice(run), holdout=score))
    return the_choice(run)


def test_the_next_finalist_is_handed_over_where_the_winner_diverges(
    run_and_faces: tuple[SearchRun, FaceDataset],
) -> None:
    run, faces = run_and_faces
    add_trial(run, [0.3, 0.5], {"lr_head": 1e-2})
    stopped = add_trial(run, [0.4], {"lr_head": 1e-3}, state=STOPPED)
    let_answer(run, faces, DESIGN, (0, 1), one_knows)
    write_end(run, stopped, None)
    chosen = choose(run, faces)
    assert chosen.winner is not None
    assert (chosen.winner.trial_id, chosen.is_final) == ("0000", True), "trial 0001 has the higher mean"
    assert ending.SearchOutcome(Outcome(Reason.FINISHED, 0), chosen).goes_on
    note = "Trial 0001, stopped early, then trained to its end: diverged. loss is nan"
    assert note in choice.summary(run)
    assert note in "".join(sections(the_choice(run)))


def test_where_every_finalist_diverges_there_is_no_winner(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    for f1, lr in ((0.5, 1e-2), (0.4, 1e-3)):
        write_end(run, add_trial(run, [f1], {"lr_head": lr}, state=STOPPED), None)
    let_answer(run, faces, DESIGN, (0, 1), one_knows)
    assert choose(run, faces).winner is None
    expected = (
        "Every finalist with complete repeats diverged when it was trained to its end, so the best trial is chosen"
    )
    assert choice.summary(run)[0].startswith(expected)


def test_optimism_is_of_the_model_that_is_handed_over(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    add_trial(run, [0.3, 0.5], {"lr_head": 1e-2})
    stopped = add_trial(run, [0.25], {"lr_head": 1e-3}, state=STOPPED)
    write_end(run, stopped, 0.625)
    let_answer(run, faces, DESIGN, (0, 1), one_knows)  # candidate 1 knows all
    chosen = choose(run, faces)
    assert chosen.winner is not None
    assert (chosen.winner.trial_id, chosen.winner.validation_f1, chosen.winner.model_f1) == ("0001", 0.25, 0.625)
    made = score_on_holdout(run, 0.5)
    assert made.optimism == 0.125, "not 0.25 - 0.5, which compares two models"
    content = run.record().choice
    assert content is not None
    assert [content[key] for key in ("validation_f1", "model_validation_f1", "optimism")] == [0.25, 0.625, 0.125]
    said = choice.summary(run)
    assert said[0].endswith("(validation 0.6250).")
    assert "The search stopped it at 0.2500; 0.6250 is its validation at its end." in said
    assert "The search's best score: 0.5000, trial 0000." in said
    assert "Optimism of the search: +0.1250 (the winner's validation minus holdout)." in said
    assert all(len(line) <= 80 for line in said)
    write_report(run)
    page = run.report.read_text()
    assert "<b>0.6250</b><span>trial 0001, test_resnet, epoch 2 of 2</span>" in page
    assert "<b>+0.1250</b><span>the winner&#39;s validation minus holdout</span>" in page
    assert "stopped the winner early, at a validation score of 0.2500" in page
    assert "The search&#39;s best validation score is 0.5000, of trial 0000." in page


def test_the_gain_is_of_the_repeats_of_both(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    add_trial(run, [0.2], {}, origin=PRESET)
    add_trial(run, [0.5], {"lr_head": 1e-2})
    add_trial(run, [0.4], {"lr_head": 3e-3})

    def answer(candidate: int, truth: np.ndarray) -> np.ndarray:
        """The preset, which is the third by its score, errs in every fourth photo, the others in every second."""
        errs = np.arange(len(truth)) % (4 if candidate == 2 else 2) == 0
        return np.eye(18)[np.where(errs, (truth + 1) % 18, truth)]

    let_answer(run, faces, Design(3, 2), (0, 1, 2), answer)
    chosen = choose(run, faces)
    assert [one.trial_id for one in chosen.finalists] == ["0001", "0002"]
    made = the_choice(run)
    assert made.preset is not None
    assert made.gain is not None
    assert made.winner is not None
    assert (made.preset.trial, len(made.preset.repeats), made.gain.n) == ("0000", 2, 2)
    assert made.gain.mean == pytest.approx(made.winner.mean - made.preset.mean)
    assert made.gain.low < made.gain.mean < made.gain.high < 0
    assert made.gain.verdict == "worse", "by the search's own scores it is 0.3 better"
    expected = f"Gain over the preset, 2 repeats: {made.gain.mean:+.4f} [{made.gain.low:+.4f}, {made.gain.high:+.4f}]"
    lines = summary.summary(run, records(run), Outcome(Reason.FINISHED, 0), reported=False)
    assert f"{expected}, worse." in lines
    assert not any("too high" in line for line in lines)
    page = "".join(sections(made))
    assert "the preset, not a finalist" in page
    assert "The preset&#39;s recipe was repeated in the same way." in page

    (also,) = {one.trial_id for one in choose(run, faces, Design(3, 2)).finalists if one.trial_id == "0000"}
    assert also == the_choice(run).winner_id
    lines = summary.summary(run, records(run), Outcome(Reason.FINISHED, 0), reported=False)
    assert "The winner is the preset's own recipe." in lines


def test_what_runs_beside_the_repeats(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    add_trial(run, [0.2], {"lr_head": 1e-4}, origin=PRESET)
    add_trial(run, [0.3, 0.5], {"lr_head": 1e-2})
    add_trial(run, [0.4], {"lr_head": 1e-3}, state=STOPPED)

    def labels(design: Design) -> list[str]:
        return [request.label for request in choice.fits_to_do(run, records(run), faces, design)]

    repeats = [f"trial {trial}, repeat {number} of 2" for number in (1, 2) for trial in ("0001", "0002")]
    of_preset = [f"preset, trial 0000, repeat {number} of 2" for number in (1, 2)]
    assert labels(DESIGN) == [*repeats, "trial 0002, to its end", *of_preset]
    assert labels(Design(1, 2)) == [repeats[0], repeats[2], *of_preset]
    assert "to its end" in labels(Design(3, 2))[-1], "a finalist's repeats are the preset's"


def test_time_is_left_for_the_fits_that_are_not_done(run_and_faces: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = run_and_faces
    plan = plan_of(SPACE, 9)
    options = SearchOptions(space="freezing", finalists=2, repeats=2)
    counts = ending.fits_left(run, options, plan)

    def left(room: float = math.inf) -> int:
        return counts(records(run), room)

    assert [left(), left(5), left(1)] == [2 * (2 + 1), 3, 3], "two finalists, each perhaps stopped early, or one"
    add_trial(run, [0.5], {"lr_head": 1e-2})
    assert [left(), left(5), left(4)] == [2 + 3, 2 + 3, 2], "the repeats of one, and another finalist if there is room"
    add_trial(run, [0.4], {"lr_head": 1e-3}, state=STOPPED)
    assert [left(), left(5), left(4)] == [5, 5, 2], "the second one is trained to its end as well"
    assert choice.affordable(run, records(run), faces, DESIGN, 4) == (Design(1, 2), 2)
    three = Design(2, 3)
    assert choice.affordable(run, records(run), faces, three, 3) == (Design(1, 3), 3)
    assert choice.affordable(run, records(run), faces, three, 2) == (Design(1, 2, folds=3), 2), "two of three folds"
    assert choice.affordable(run, records(run), faces, three, 0) == (Design(1, 2, folds=3), 2), "two in any case"
    assert choice.affordable(run, records(run), faces, three, 9) == (three, 7), "and a finalist's training to the end"
    let_answer(run, faces, DESIGN, (0, 1), one_knows)
    assert [left(), left(0)] == [1, 0], "that is left"
    on_all = ending.fits_left(run, options.model_copy(update={"retrain_on_all": True}), plan)
    assert on_all(records(run), math.inf) == 2
    add_trial(run, [0.6], {"lr_head": 1e-1})
    assert left() == 2, "the repeats of the new best one"
    nobody = ending.fits_left(run, options.model_copy(update={"finalists": 0}), plan)
    assert nobody(records(run), math.inf) == plan.fits_after


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("repeats", [2, 1])
def test_where_no_time_is_left_for_the_last_repeat_the_choice_is_by_those_that_are_done(
    run_and_faces: tuple[SearchRun, FaceDataset], repeats: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """If they are enough for one: with a single repeat nothing is known of their spread, and the choice stays open."""
    run, faces = run_and_faces
    add_trial(run, [0.5], {"lr_head": 1e-2}, seconds=1e4)
    let_answer(run, faces, Design(1, 3), (0,), one_knows)
    for request in repeat_requests(run, records(run), faces, Design(1, 3), cpus=1, gpus=0.0)[repeats:]:
        shutil.rmtree(request.folder)
    options = SearchOptions(space="freezing", finalists=1, repeats=3, time_budget="5m", cache=faces.cache.path)
    chosen = ending.choose(run, options, plan_of(SPACE, 9), left_s=30.0)
    assert chosen is not None
    assert chosen.is_final == (repeats == 2)
    assert [len(one.repeats) for one in chosen.finalists] == [repeats]
    assert the_choice(run).design == Design(1, 2, folds=3)
    said = "The time has no room for the fits that are left. The choice is by 2 repeats of 1 finalist, which are done."
    assert (said in " ".join(capsys.readouterr().err.split())) == (repeats == 2)


@pytest.mark.slow
def test_what_the_end_needs_is_imported_beside_the_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from tune.search.ending import import_meanwhile; there = sys.modules.keys(); "
        "print('torch' in there); import_meanwhile().join(); "
        "print(there >= {'torch', 'matplotlib', 'tune.report.page'})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"
    unhandled: list[object] = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    monkeypatch.setitem(sys.modules, "tune.report.page", None)  # an import that fails
    ending.import_meanwhile().join(timeout=60)
    assert not unhandled, "whoever needs it will say it"


def test_fits_beside_the_choice_that_were_interrupted_are_the_outcome() -> None:
    left = Outcome(Reason.INTERRUPTED, 1, 15)
    outcome = ending.SearchOutcome(
        Outcome(Reason.FINISHED, 0), choice.Choice(Outcome(Reason.FINISHED, 0), left, (), None)
    )
    assert (outcome.reason, outcome.ended.exit_status, outcome.goes_on) == (Reason.INTERRUPTED, 143, False)
    assert outcome.remaining == 1
    timed = replace(outcome, searched=Outcome(Reason.TIME_UP, 0))
    assert (timed.reason, timed.ended.exit_status, timed.goes_on) == (Reason.INTERRUPTED, 143, False)
    assert not timed.may_average, "the time that was up before hides no signal"


def test_a_signal_after_the_last_trial_leaves_what_follows(tmp_path: Path) -> None:
    run = SearchRun.create(tmp_path, "one", SearchRecord(created=now()))
    outcome = ending.SearchOutcome(Outcome(Reason.INTERRUPTED, 0, 15))
    assert (outcome.goes_on, outcome.ended.exit_status) == (False, 143)
    (line,) = summary.what_is_left(run, outcome)
    assert line.startswith("What follows is left to do (interrupted). To go on:")


def test_a_bundle_on_all_people_is_of_the_trial_that_was_chosen(
    run_and_faces: tuple[SearchRun, FaceDataset], random_bundle: Callable[[str], Path]
) -> None:
    run, _ = run_and_faces
    options = SearchOptions(finalists=0, retrain_on_all=True)
    add_trial(run, [0.5], {"lr_head": 1e-2})
    for folder in (run.best, run.best_on_all):
        note_scores(Path(shutil.copytree(random_bundle("single"), folder)), {"trial": "0000"})
    run.report.touch()
    assert ending.handed_over(run, options)
    add_trial(run, [0.6], {"lr_head": 1e-3})
    (run.best / "bundle.json").touch()
    run.report.touch()
    assert not ending.handed_over(run, options), "best-on-all/ is of the trial that was the best before"
    run.write_record(run.record().changed(call=options.to_record()))
    assert ending.handed_over(run, options, time_is_up=True)
    other = options.model_copy(update={"finalists": 2})
    assert not ending.handed_over(run, other, time_is_up=True), "finalists are wanted that were not"


def test_a_plan_of_enough_trials_says_whether_what_follows_them_is_done(
    run_and_faces: tuple[SearchRun, FaceDataset], random_bundle: Callable[[str], Path]
) -> None:
    run, _ = run_and_faces
    add_trial(run, [0.5], {"lr_head": 1e-2})
    run.write_record(run.record().changed(call=SearchOptions(finalists=0, trials=1).to_record()))
    words = ("--resume", run.path, "--trials", 1, "--plan")
    enough = f"to do: {run.name} has 1 trials, and 1 are wanted. More with --trials N.\n"
    said = call(search.main, *words)
    assert (said.status, said.out) == (0, f"What follows the trials is left {enough}"), said.err
    shutil.copytree(random_bundle("single"), run.best, copy_function=shutil.copyfile)  # newer than the trial
    run.report.touch()
    assert call(search.main, *words).out == f"Nothing is left {enough}"
    assert call(search.main, *words, "--retrain-on-all").out == f"What follows the trials is left {enough}"


def test_the_end_says_what_to_do_next_and_names_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, where = SearchRun.create(tmp_path / "a b", "one", SearchRecord(call={})), f"'{tmp_path}/a b/one/best'"
    monkeypatch.setattr(sys, "prefix", "/elsewhere")
    demo, own = (SearchOptions(space="freezing", data=data, weights="none") for data in (None, tmp_path))
    lines = summary.what_next(run, demo, exported=True, reported=True)
    assert [line.strip() for line in lines if line.startswith("  ")] == [
        f"python -m webbrowser file://{tmp_path}/a%20b/one/report.html",
        f"python -m tune.dashboard '{tmp_path}/a b/one'",
        f"python -m maskcls.serve --bundle {where}",
        f"python -m maskcls.predict --bundle {where} --images DIR --out submission.csv",
        "python -m tune.search --space freezing --data DIR",
    ]
    assert all(len(line) <= summary.WIDTH for line in lines if not line.startswith("  "))
    assert summary.what_next(run, own, exported=True, reported=True) == lines[:-2]
    assert summary.what_next(run, own, exported=False, reported=True) == lines[:4]
    assert summary.what_next(run, demo, exported=False, reported=False) == []


def test_an_environment_in_this_folder_that_is_not_active_is_to_be_activated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = SearchRun.create(tmp_path, "one", SearchRecord(call={}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))

    def first_command() -> str:
        return summary.what_next(run, SearchOptions(space="freezing"), exported=True, reported=False)[1]

    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / ".venv"))
    assert first_command().startswith("  python -m maskcls.serve")
    monkeypatch.delenv("VIRTUAL_ENV")
    assert first_command().startswith("  python -m maskcls.serve"), "there is nothing to activate"
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert first_command() == "  source .venv/bin/activate"
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert first_command() == f"  source {tmp_path}/.venv/bin/activate"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "another"))
    assert first_command() == f"  source {tmp_path}/.venv/bin/activate", "another environment does not have it"
    monkeypatch.setenv("PATH", f"{tmp_path}/.venv/bin:{os.environ['PATH']}")
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    assert first_command().startswith("  python -m maskcls.serve"), "its commands are found"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (Reason.TIME_UP, "The time is up. To go on:"),
        (Reason.INTERRUPTED, "The search ended before its time was up (interrupted). To go on:"),
    ],
)
def test_a_search_that_only_the_time_bounds_says_why_it_ended(tmp_path: Path, reason: Reason, said: str) -> None:
    run = SearchRun.create(tmp_path, "timed", SearchRecord(created=now()))
    outcome = ending.SearchOutcome(Outcome(reason, MANY - 2))
    (line,) = summary.what_is_left(run, outcome)
    assert line.splitlines()[0] == said
