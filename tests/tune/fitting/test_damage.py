"""A fit that is taken up where its curve and its conditions are damaged: both are set aside, and it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.files import FileKind
from maskcls.recipe import Recipe
from maskcls.training.conditions import HARDWARE, segments
from tests.tune.synthetic import Synthetic
from tune.fitting.curve import CURVE, read_curve
from tune.fitting.failures import ENDED_NOTE
from tune.fitting.request import FitRequest
from tune.fitting.result import RESULT, FitResult, set_aside_damaged
from tune.fitting.worker import run_and_report
from tune.runs.folder import SearchRun
from tune.states import TrialState

ANSWERS = FileKind("answers: a JSON object", "Remove {file}.")


@pytest.fixture
def request_(tmp_path: Path) -> FitRequest:
    run = SearchRun.create(tmp_path, "one")
    recipe = Recipe(epochs=3, frozen_stages=2).model_dump()
    return FitRequest("0000", recipe, run.trial("0000"), run.path, cpus=1, gpus=0.0)


def test_a_damaged_curve_and_damaged_conditions_are_set_aside(request_: FitRequest) -> None:
    assert run_and_report(request_, Synthetic()).state == TrialState.COMPLETE
    curve = read_curve(request_.folder)
    (request_.folder / CURVE).write_bytes(bytes(300) + b"\n")
    request_.checkpoint_folder.mkdir()
    (request_.checkpoint_folder / HARDWARE).write_text('[{"from_epoch": "one"}]')
    assert run_and_report(request_, Synthetic()).state == TrialState.COMPLETE
    scores = [[(row["epoch"], row["best_f1"]) for row in rows] for rows in (curve, read_curve(request_.folder))]
    assert scores[0] == scores[1]
    assert (request_.folder / f"{CURVE}.1").read_bytes() == bytes(300) + b"\n"
    assert (request_.checkpoint_folder / f"{HARDWARE}.1").exists()
    assert segments(request_.checkpoint_folder) == []


def test_a_damaged_note_of_a_process_that_ended_itself_ends_the_fit_as_a_whole_one_does(request_: FitRequest) -> None:
    request_.folder.mkdir()
    (request_.folder / ENDED_NOTE).write_text('{"mess')
    outcome = run_and_report(request_, Synthetic())
    assert outcome.state == TrialState.FAILED
    assert outcome.message.startswith("The process before this one ended itself. ")
    assert f"{ENDED_NOTE} can't be read" in outcome.message


def test_results_that_cannot_be_read_are_set_aside_and_no_others(tmp_path: Path) -> None:
    def reads(folder: Path) -> None:
        ANSWERS.read_object(folder / "answers")

    whole = FitResult(TrialState.COMPLETE, "", 1, 1, 0.5, 1.0, 1, 0.0, {}, {})
    for name, answers in (("whole", "{}"), ("of answers", "{"), ("of itself", "{}"), ("without answers", None)):
        (tmp_path / name).mkdir()
        whole.write(tmp_path / name)
        if answers is not None:
            (tmp_path / name / "answers").write_text(answers)
    (tmp_path / "of itself" / RESULT).write_text('{"state": "complete"}')
    (tmp_path / "no fit").mkdir()
    said = set_aside_damaged(sorted(tmp_path.iterdir()), {"answers": reads})
    assert len(said) == 2
    assert all(line.endswith("It was set aside, and the fit is done again.") for line in said)
    left = {folder.name: sorted(file.name for file in folder.iterdir()) for folder in tmp_path.iterdir()}
    assert left == {
        "whole": ["answers", RESULT],
        "of answers": ["answers.1", f"{RESULT}.1"],
        "of itself": ["answers", f"{RESULT}.1"],
        "without answers": [RESULT],
        "no fit": [],
    }
