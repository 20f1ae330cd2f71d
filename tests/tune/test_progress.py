"""What a search shows: a table that fits into 80 columns, and a leaderboard."""

import io
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from rich.console import Console
from searches import make_plan, new_run, table

from tune import leaderboard, session
from tune.progress import Progress, duration
from tune.run_dir import RunDir
from tune.study import ORIGIN, STATE, Record, open_study, records


def began_search(tmp_path: Path) -> tuple[RunDir, optuna.Study]:
    """A study of three trials: the preset, a better one, and one that failed at once."""
    run = new_run(tmp_path)
    study = open_study(run)
    for origin, values, state in (("preset", (0.5, 0.6), "complete"), ("sampled", (0.7, 0.7), "complete"), ("sampled", (), "failed")):
        trial = study.ask()
        trial.set_user_attr(ORIGIN, origin)
        for epoch, value in enumerate(values, start=1):
            trial.report(value, epoch)
        trial.set_user_attr(STATE, state)
        study.tell(
            trial, values[-1] if values else None, state=optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL
        )
    return run, study


def test_the_table_fits_into_80_columns(tmp_path: Path) -> None:
    run, study = began_search(tmp_path)
    progress = Progress(make_plan(40), run, study, plain=False)
    for number in range(30):
        ray_trial = SimpleNamespace(config={"trial": f"{number:04d}", "recipe": {"epochs": 12}})
        progress.on_trial_start(0, [], ray_trial)
        result = {"epoch": 11, "validation_f1": 0.61 + number / 1000, "best_f1": 0.65, "photos_per_second": 12345.6}
        progress.on_trial_result(0, [], ray_trial, result)
        if number < 3:
            progress.on_trial_complete(0, [], ray_trial)
    screen = io.StringIO()
    Console(file=screen, width=80, force_terminal=False).print(progress.picture())
    lines = screen.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert len(lines) <= 20
    assert lines[0].split() == ["trial", "state", "epoch", "F1", "best", "photos/s", "left"]
    assert "0029   running        11/12  0.6390  0.6500    12,346" in screen.getvalue()
    assert "3 of 40 trials · best 0.7000 (trial 0001) · preset 0.6000" in lines[-1]


def test_the_leaderboard_holds_every_trial_once_best_first(tmp_path: Path) -> None:
    run, _ = began_search(tmp_path)
    leaderboard.write(run, records(run))
    rows = table(run)
    assert [(row["rank"], row["trial"], row["state"], row["best_validation_f1"], row["best_epoch"]) for row in rows] == [
        ("1", "0001", "complete", "0.700000", "1"),
        ("2", "0000", "complete", "0.600000", "2"),
        ("", "0002", "failed", "", ""),
    ]


def test_the_summary_tells_the_gain_over_the_preset(tmp_path: Path) -> None:
    run, _ = began_search(tmp_path)
    told = session.summary(run, records(run), "finished", exported=True, reported=False)
    assert told[0].startswith("Search finished. Trials: 2 complete, 1 failed.")
    assert "Best: trial 0001, validation macro F1 0.7000 at epoch 1 of 2." in told
    assert "Gain over the preset (trial 0000, 0.6000): +0.1000." in told
    assert told[-1].endswith(f"python -m maskcls.predict --bundle {run.best} --images DIR --out submission.csv")
    none: list[Record] = []
    assert session.summary(run, none, "interrupted", False, False)[-1] == "No trial has finished an epoch, so there is no best one."


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (89, "89 s"), (720, "12 min"), (12000, "3 h 20 min")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
