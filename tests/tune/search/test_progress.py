"""What a search shows: a table that fits into 80 columns, and a leaderboard."""

from __future__ import annotations

import errno
import io
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from ray.tune.error import TuneError
from rich.console import Console

from tests.tune.searches import make_plan, new_run, table
from tune.durations import duration
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import DUPLICATE, ORIGIN, STATE, Record, open_study, records
from tune.search import summary as handover
from tune.search.progress import Progress
from tune.states import TrialState


def began_search(tmp_path: Path) -> tuple[SearchRun, optuna.Study]:
    """A study of three trials: the preset, a better one, and one that failed at once."""
    run = new_run(tmp_path)
    study = open_study(run)
    for origin, values, state in (
        ("preset", (0.5, 0.6), "complete"),
        ("sampled", (0.7, 0.7), "complete"),
        ("sampled", (), "failed"),
    ):
        trial = study.ask()
        trial.set_user_attr(ORIGIN, origin)
        for epoch, value in enumerate(values, start=1):
            trial.report(value, epoch)
        trial.set_user_attr(STATE, state)
        study.tell(
            trial,
            values[-1] if values else None,
            state=optuna.trial.TrialState.COMPLETE if values else optuna.trial.TrialState.FAIL,
        )
    return run, study


def ray_trial_of(number: int) -> SimpleNamespace:
    """As much of Ray's trial as a callback looks at."""
    return SimpleNamespace(config={"trial": f"{number:04d}", "recipe": {"epochs": 12}}, last_result=None)


def complete_trial(study: optuna.Study, value: float) -> int:
    """A trial that ends with that F1 after an epoch, in the study; its number."""
    trial = study.ask()
    trial.report(value, 1)
    study.tell(trial, value)
    return trial.number


def test_the_table_fits_into_80_columns(tmp_path: Path) -> None:
    run, study = began_search(tmp_path)
    progress = Progress(make_plan(40), run, study, plain=False)
    for number in range(30):
        if number >= 3:
            study.ask()
        ray_trial = ray_trial_of(number)
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


def stopped_search(tmp_path: Path) -> tuple[Progress, SearchRun]:
    """A search with one trial at work, and another one that was stopped behind three of four others."""
    run = new_run(tmp_path)
    study = open_study(run)
    progress = Progress(make_plan(40), run, study, plain=False)
    for number, value in enumerate((0.5, 0.6, 0.7, 0.2, 0.3, 0.65)):
        assert complete_trial(study, value) == number if number < 4 else study.ask().number == number
        ray_trial = ray_trial_of(number)
        progress.on_trial_start(0, [], ray_trial)
        result = {"epoch": 1, "validation_f1": value, "best_f1": value, "photos_per_second": 9e4, "saved_s": 410.0}
        progress.on_trial_result(0, [], ray_trial, result)
        if number < 4:
            progress.on_trial_complete(0, [], ray_trial)
    trial = optuna.Trial(study, 4)
    trial.report(0.3, 1)
    trial.set_user_attr(STATE, "stopped early")
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    progress.on_trial_complete(0, [], ray_trial_of(4))
    return progress, run


def screen_of(progress: Progress, width: int) -> list[str]:
    screen = io.StringIO()
    progress.console = Console(file=screen, width=width, force_terminal=False)
    progress.console.print(progress.picture())
    return screen.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_why_a_trial_stopped_and_what_is_expected_are_shown_at_any_width(tmp_path: Path, width: int) -> None:
    progress, _ = stopped_search(tmp_path)
    progress._people = 70
    lines = screen_of(progress, width)
    assert max(len(line.rstrip()) for line in lines) <= width
    header, rows = lines[0].split(), {line.split()[0]: line for line in lines[1:7]}
    assert header == [
        "trial",
        "state",
        "epoch",
        "F1",
        "best",
        *["photos/s"] * (width >= 70),
        "left",
        *["why"] * (width > 99),
    ]
    assert "0.3000  0.3000" in rows["0004"]
    assert ("behind 4 of 5 at epoch 1" in rows["0004"]) == (width == 200)
    assert ("0004 stopped early: behind 4 of 5 at epoch 1" in lines[7]) == (width < 200)
    remark = next(line for line in lines if line.startswith("expected optimism"))
    scores = np.array([0.5, 0.6, 0.7, 0.2, 0.3])
    optimism = 0.7 * 0.3 / 70 / scores.var(ddof=1) * (0.7 - scores.mean())
    assert remark.strip() == f"expected optimism of the best {optimism:.3f} · saved 41 min"
    assert "5 of 40 trials · best 0.7000 (trial 0002)" in "\n".join(lines)


def test_the_last_frame_of_a_search_that_is_aborted_shows_nobody_at_work(tmp_path: Path) -> None:
    progress, _ = stopped_search(tmp_path)
    screen = io.StringIO()
    progress.console = Console(file=screen, width=80, force_terminal=True, color_system=None)

    def abort() -> None:
        with progress:
            progress.say("Stopping: what is done is kept.")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        abort()
    frames = screen.getvalue().split("trial  state")
    assert "0005   running" in frames[1]
    assert "about" in frames[1]
    last = frames[-1]
    assert "0005   unfinished" in last
    assert "running" not in last
    assert "left" not in last.partition("\n")[2], "nothing is left to be waited for"
    assert last.count("5 of 40 trials") == 1
    assert last.endswith("\n\x1b[?25h"), "the cursor is shown again, below the picture"


def test_a_line_of_a_log_says_why_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, study = began_search(tmp_path)
    progress = Progress(make_plan(40), run, study, plain=True)
    trial = study.ask()
    progress.on_trial_start(0, [], ray_trial_of(3))
    progress.on_trial_result(0, [], ray_trial_of(3), {"epoch": 1, "validation_f1": 0.4, "best_f1": 0.4, "saved_s": 5.0})
    trial.report(0.4, 1)
    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    progress.on_trial_complete(0, [], ray_trial_of(3))
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("0003 stopped early (behind 2 of 2 at epoch 1), best F1 0.4000 at epoch 1; 4 of 40 trials")
    assert line.endswith(" · saved 5 s")


def test_of_many_trials_the_table_shows_the_best_and_the_latest(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    study = open_study(run)
    progress = Progress(make_plan(200), run, study, plain=False)
    for number in range(100):
        value = 0.9 - abs(number - 20) / 200
        assert complete_trial(study, value) == number
        ray_trial = ray_trial_of(number)
        progress.on_trial_start(0, [], ray_trial)
        progress.on_trial_result(0, [], ray_trial, {"epoch": 1, "validation_f1": value, "best_f1": value})
        progress.on_trial_complete(0, [], ray_trial)
    study.ask()
    progress.on_trial_start(0, [], ray_trial_of(100))
    screen = io.StringIO()
    Console(file=screen, width=80, force_terminal=False).print(progress.picture())
    lines = screen.getvalue().splitlines()
    shown = [line.split()[0] for line in lines[1:-1]]
    assert shown == ["0018", "0019", "0020", "0021", "0022", "0094", "0095", "0096", "0097", "0098", "0099", "0100"]
    assert lines[-1].startswith("100 of 200 trials · best 0.9000 (trial 0020) · about")


def test_where_a_search_stands_is_what_the_whole_study_says(tmp_path: Path) -> None:
    run, study = began_search(tmp_path)
    standing = leaderboard.LiveRanking(study)

    def agrees() -> bool:
        whole = records(run)
        ended = sum(record.state != TrialState.UNFINISHED for record in whole)
        return (
            sorted(standing.records(), key=lambda record: record.trial_id),
            standing.best,
            standing.preset,
            standing.ended,
        ) == (
            whole,
            leaderboard.best(whole),
            leaderboard.preset(whole),
            ended,
        )

    assert agrees()
    trial = study.ask()
    standing.update("0003")
    assert agrees(), "a trial that was begun and has no epoch"
    for epoch, value in enumerate((0.6, 0.7, 0.71), start=1):  # below the best, its equal but later, above it
        trial.report(value, epoch)
        assert standing.update("0003").f1 == value
        assert agrees()
    assert standing.best is not None
    assert standing.best.trial_id == "0003"
    study.tell(trial, 0.71)
    standing.update("0003")
    standing.update("0003")
    assert agrees(), "its end counts once"
    study.ask().set_user_attr(DUPLICATE, True)
    assert agrees(), "what is no trial of the run is not looked at"
    assert leaderboard.LiveRanking(study).records() == records(run)


def test_a_leaderboard_that_costs_too_much_waits_and_loses_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    study = open_study(run)
    progress = Progress(make_plan(4), run, study, plain=False)

    def end(value: float) -> None:
        ray_trial = ray_trial_of(complete_trial(study, value))
        progress.on_trial_start(0, [], ray_trial)
        progress.on_trial_complete(0, [], ray_trial)

    end(0.5)
    end(0.6)
    progress.on_step_end(0, [])
    assert len(table(run)) in (1, 2), "the second rewriting may be due already"
    monkeypatch.setattr("tune.search.progress.WRITING_SHARE", 1e-9)
    later = time.monotonic() + 60
    monkeypatch.setattr("tune.search.progress.time.monotonic", lambda: later)
    progress.on_step_end(0, [])
    assert [row["trial"] for row in table(run)] == ["0001", "0000"]
    run.leaderboard.unlink()
    progress.on_step_end(0, [])
    assert not run.leaderboard.exists(), "nothing ended since"


def test_a_leaderboard_that_cannot_be_written_raises_rays_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    study = open_study(run)
    progress = Progress(make_plan(4), run, study, plain=False)
    run.leaderboard.mkdir()
    ray_trial = ray_trial_of(complete_trial(study, 0.5))
    with pytest.raises(OSError, match=r"leaderboard\.csv"):
        progress.on_trial_complete(0, [], ray_trial)
    with pytest.raises(TuneError, match=r"leaderboard\.csv") as error:
        progress.on_step_end(0, [])
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.EISDIR


def test_the_leaderboard_holds_every_trial_once_best_first(tmp_path: Path) -> None:
    run, _ = began_search(tmp_path)
    leaderboard.write(run, records(run))
    rows = table(run)
    assert [
        (row["rank"], row["trial"], row["state"], row["best_validation_f1"], row["best_epoch"]) for row in rows
    ] == [
        ("1", "0001", "complete", "0.700000", "1"),
        ("2", "0000", "complete", "0.600000", "2"),
        ("", "0002", "failed", "", ""),
    ]


def test_the_summary_tells_the_gain_over_the_preset(tmp_path: Path) -> None:
    run, _ = began_search(tmp_path)
    complete_trial = handover.summary(run, records(run), Outcome(Reason.FINISHED, 0), reported=False)
    assert complete_trial[0].startswith("Search finished. Trials: 2 complete, 1 failed.")
    assert "Best: trial 0001, validation macro F1 0.7000 at epoch 1 of 2." in complete_trial
    assert "Gain over the preset (trial 0000, 0.6000): +0.1000 by validation, so too high." in complete_trial
    none: list[Record] = []
    without = handover.summary(run, none, Outcome(Reason.INTERRUPTED, 1), reported=False)
    assert without[0] == "Search interrupted before any trial gave a model. Trials: none."


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (89, "89 s"), (720, "12 min"), (12000, "3 h 20 min")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text
