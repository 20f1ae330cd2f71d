"""A time budget in real searches, whose clock counts one second for each epoch that was recorded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from search_spaces import Setting, Space, Suggest
from tests.tune.asked import plan_of
from tests.tune.searches import computed, new_run, table
from tests.tune.synthetic import SPACE, InTurn, Second
from tune.runs.folder import SearchRun
from tune.runs.record import MANY
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import open_study, records
from tune.search.driver import run_search
from tune.search.plan import SearchPlan
from tune.states import TrialState

pytestmark = pytest.mark.usefixtures("ray_cluster")


class EpochClock:
    """Seconds: the epochs that the run's study has recorded."""

    def __init__(self, run: SearchRun) -> None:
        self._study = open_study(run)

    def monotonic(self) -> float:
        return float(sum(len(trial.intermediate_values) for trial in self._study.get_trials(deepcopy=False)))


def budget(
    run: SearchRun, trials: int, seconds: float | None, monkeypatch: pytest.MonkeyPatch, **values: Any
) -> SearchPlan:
    """Trials of 20 epochs by default, which nobody stops."""
    monkeypatch.setattr("tune.search.driver.time", EpochClock(run) if seconds else time)
    return plan_of(SPACE, trials, **{"epochs": 20, "scheduler": "none", "time_budget_s": seconds, **values})


@pytest.mark.parametrize(
    ("trials", "left"),
    [pytest.param(2, 0, marks=pytest.mark.slow), pytest.param(MANY, MANY - 2, marks=pytest.mark.soak)],
)
def test_a_trial_that_is_close_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trials: int, left: int
) -> None:
    """At 38 s a second of the second trial is left, and 1.9 s of the twentieth more; and after it none begins."""
    run = new_run(tmp_path)
    outcome = run_search(budget(run, trials, 37.5, monkeypatch), run, Second())
    assert outcome == Outcome(Reason.TIME_UP if left else Reason.FINISHED, left)
    assert [(record.state, record.epochs) for record in records(run)] == [(TrialState.COMPLETE, 20)] * 2
    assert sorted(folder.name for folder in run.trials.iterdir()) == ["0000", "0001"]


@pytest.mark.soak
def test_a_trial_that_is_not_close_is_left_and_a_resume_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 37 s two seconds of the second trial are left, and 1.7 s of the twentieth more."""
    run = new_run(tmp_path)
    assert run_search(budget(run, 3, 36.9, monkeypatch), run, Second()) == Outcome(Reason.TIME_UP, 2)
    assert [(record.state, record.epochs) for record in records(run)] == [
        (TrialState.COMPLETE, 20),
        (TrialState.UNFINISHED, 18),
    ]
    assert computed(run, "0001") == list(range(1, 19))
    assert {row["trial"]: (row["state"], row["epochs"]) for row in table(run)} == {
        "0000": (TrialState.COMPLETE, "20"),
        "0001": (TrialState.UNFINISHED, "18"),
    }
    before = records(run)
    assert run_search(budget(run, 3, None, monkeypatch), run, Second()) == Outcome(Reason.FINISHED, 0)
    after = records(run)
    assert [record.trial_id for record in after] == ["0000", "0001", "0002"]
    assert after[0] == before[0]
    assert after[1].recipe == before[1].recipe
    assert [computed(run, record.trial_id) for record in after] == [list(range(1, 21))] * 3, (
        "no epoch twice, and none is missing"
    )


@pytest.mark.soak
def test_a_trial_that_waits_for_room_when_the_time_is_up_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time are asked for, but each takes both of the machine's cores."""
    run = new_run(tmp_path)
    plan = budget(run, 2, 10.5, monkeypatch, parallel=2, cpus=2)
    assert run_search(plan, run, Second()) == Outcome(Reason.TIME_UP, 2)
    assert [folder.name for folder in run.trials.iterdir()] == ["0000"]
    assert records(run)[0].epochs == 12, "11 s, and the result that was the first after the time"
    assert run_search(budget(run, 2, None, monkeypatch), run, Second()) == Outcome(Reason.FINISHED, 0)
    assert [computed(run, record.trial_id) for record in records(run)] == [list(range(1, 21))] * 2


def long(trial: Suggest, setting: Setting) -> dict[str, Any]:
    return {"epochs": trial.suggest_categorical("epochs", (20, 60))}


@pytest.mark.soak
def test_of_two_at_a_time_the_close_one_is_finished_and_the_other_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up the first has one epoch to go, the second 38."""
    run = new_run(tmp_path)
    monkeypatch.setattr("tune.search.driver.time", EpochClock(run))
    space = Space("long", "?", long, lambda setting: [{"epochs": 60}])
    plan = plan_of(space, 3, epochs=20, scheduler="none", parallel=2, time_budget_s=39.5)
    assert run_search(plan, run, InTurn(until=22)) == Outcome(Reason.TIME_UP, 2)
    first, second = records(run)
    assert (first.state, first.epochs, second.state, second.epochs) == (
        TrialState.COMPLETE,
        20,
        TrialState.UNFINISHED,
        22,
    )
    monkeypatch.setattr("tune.search.driver.time", time)
    assert run_search(plan_of(space, 3, epochs=20, scheduler="none"), run, Second()) == Outcome(Reason.USED_UP, 1)
    assert [computed(run, record.trial_id) for record in records(run)] == [list(range(1, 21)), list(range(1, 61))]
