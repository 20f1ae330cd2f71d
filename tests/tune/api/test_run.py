"""A run that the command made, or is still working on, as Python sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.errors import CallError
from tests.tune.made_run import add_choice, made_run
from tune import open_run
from tune.runs.folder import ComparisonRun
from tune.runs.leaderboard import COLUMNS
from tune.runs.study import open_study
from tune.selection.finalists import Design, RepeatBy


def test_a_run_that_is_going_on_is_read_again_each_time(tmp_path: Path) -> None:
    made = made_run(tmp_path, 8)
    run = open_run("made", tmp_path)
    before = run.leaderboard
    assert len(before) == 8
    with made.driving():  # as its driver does
        open_study(made).ask()
        now = run.leaderboard
    assert len(now) == 9
    assert now["state"].tolist().count("unfinished") == 1
    assert now["rank"].isna().sum() == 2, "the trial that failed, and the one that has no epoch yet"
    assert now["best_validation_f1"].dropna().is_monotonic_decreasing
    assert len(run.study.trials) == 9


def test_a_run_without_trials_is_empty(tmp_path: Path) -> None:
    made_run(tmp_path, 0).journal.unlink()
    run = open_run(tmp_path / "made")
    assert list(run.leaderboard) == list(COLUMNS)
    assert len(run.leaderboard) == 0
    assert run.study.trials == []
    assert run.choice is None
    assert run.holdout is None
    assert not (run.path / "study.journal").exists(), "reading writes nothing"


def test_before_the_holdout_the_choice_has_no_score_there(tmp_path: Path) -> None:
    made = made_run(tmp_path, 8)
    winner = add_choice(made, Design(3, 3, RepeatBy("folds")), confirmed=False)
    run = open_run(made.path)
    assert run.choice is not None
    assert run.choice.winner_id == winner
    assert run.holdout is None
    add_choice(made, Design(3, 3, RepeatBy("folds")))
    assert run.holdout is not None
    assert run.holdout.interval == f"[{run.holdout.low:.4f}, {run.holdout.high:.4f}]"


def test_a_run_says_how_to_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run(tmp_path, 1)
    assert repr(open_run("made", tmp_path)) == f"open_run({str(tmp_path / 'made')!r})"
    monkeypatch.chdir(tmp_path)
    assert repr(open_run("made", tmp_path)) == "open_run('made')"


def test_a_comparison_is_no_search(tmp_path: Path) -> None:
    ComparisonRun.create(tmp_path, "asked")
    with pytest.raises(CallError, match=r"asked is a comparison, not a search"):
        open_run("asked", tmp_path)


@pytest.mark.parametrize("place", [("~nosuchuser/x",), ("first", "~nosuchuser/runs")], ids=["run", "runs"])
def test_a_home_that_is_not_known_is_a_wrong_call(place: tuple[str, ...]) -> None:
    with pytest.raises(CallError, match="no home of ~nosuchuser is known"):
        open_run(*place)
