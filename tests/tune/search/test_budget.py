"""A time budget: no trial begins after it, what is close to its end comes to it, and the rest is left for a resume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.tune.asked import ask, begin, plan_of
from tests.tune.searches import new_run
from tests.tune.synthetic import SPACE, f1
from tune.runs.stopping import Reason
from tune.runs.study import Record, records
from tune.search.driver import _Stop
from tune.search.plan import CLOSE
from tune.search.searcher import StudySearch
from tune.states import TrialState


class Clock:
    """The driver's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("tune.search.driver.time", made)
    return made


@dataclass
class Search:
    """A search that is asked by hand, and what would stop it."""

    searcher: StudySearch
    stop: _Stop

    def result(self, config: dict[str, Any], epochs: int, each_s: float) -> dict[str, Any]:
        """What a trial reports after so many epochs."""
        value = max(f1(config["recipe"], epoch) for epoch in range(1, epochs + 1))
        return {
            "epoch": epochs,
            "best_f1": value,
            "seconds": epochs * each_s,
            "state": TrialState.RUNNING,
            "config": config,
        }

    def left_after(self, config: dict[str, Any], epochs: int, each_s: float = 1.0) -> bool:
        """As Ray does with a result: it goes to the searcher, and if it stops the trial, as its end."""
        result = self.result(config, epochs, each_s)
        if not self.stop(config["trial"], result):
            self.searcher.on_trial_result(config["trial"], result)
            return False
        self.searcher.on_trial_complete(config["trial"], {**result, "done": True})
        return True

    def complete(self, config: dict[str, Any], each_s: float = 1.0) -> None:
        last = self.result(config, config["recipe"]["epochs"], each_s)
        self.searcher.on_trial_complete(config["trial"], {**last, "state": TrialState.COMPLETE, "done": True})


def begun(folder: Path, clock: Clock, **values: Any) -> Search:
    plan = plan_of(SPACE, values.pop("trials", 20), epochs=10, **{"time_budget_s": 100.0, **values})
    searcher = begin(plan, new_run(folder, f"run-{len(list(folder.glob('*')))}"))
    return Search(searcher, _Stop(searcher, plan))


def next_trial(search: Search) -> dict[str, Any]:
    """A trial that is asked for, and whose worker makes its folder and begins."""
    config = ask(search.searcher)
    assert config is not None
    search.searcher.run.trial(config["trial"]).mkdir(exist_ok=True)
    return config


def test_what_is_close_to_its_end_comes_to_it_and_the_rest_is_left(tmp_path: Path, clock: Clock) -> None:
    search = begun(tmp_path, clock)
    close, far = next_trial(search), next_trial(search)
    clock.now = 99.9
    assert not search.left_after(far, 1)
    assert not search.left_after(close, 7)
    assert not search.stop.stop_all()
    clock.now = 101.0
    assert not search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP
    assert ask(search.searcher) is None, "no trial begins"
    assert search.left_after(far, 5), "5 s to go, and 4 until it would be 5 % over"
    assert not search.left_after(close, 8), "2 s to go"
    clock.now = 103.0
    assert not search.left_after(close, 9)
    assert not search.stop.stop_all(), "it waits for the trial that is close"
    search.complete(close)
    assert search.stop.stop_all()
    found = records(search.searcher.run)
    assert [(record.state, record.epochs) for record in found] == [
        (TrialState.COMPLETE, 10),
        (TrialState.UNFINISHED, 5),
    ], "an epoch that was computed is recorded"


@pytest.mark.parametrize(("each_s", "left"), [(1.0, False), (4.9, False), (5.1, True)])
def test_what_is_close_is_within_a_twentieth_of_the_budget(
    tmp_path: Path, clock: Clock, each_s: float, left: bool
) -> None:
    assert CLOSE == 0.05
    search = begun(tmp_path, clock)
    trial = next_trial(search)
    clock.now = 100.0
    assert search.left_after(trial, 9, each_s) == left


def test_a_trial_that_took_longer_than_expected_is_stopped_after_all(tmp_path: Path, clock: Clock) -> None:
    search = begun(tmp_path, clock)
    trial = next_trial(search)
    clock.now = 102.0
    assert not search.left_after(trial, 8)
    assert not search.stop.stop_all()
    clock.now = 104.9
    assert not search.stop.stop_all()
    clock.now = 105.1
    assert search.stop.stop_all()
    assert records(search.searcher.run)[0].state == TrialState.UNFINISHED


def test_a_trial_that_waits_for_room_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    search = begun(tmp_path, clock)
    search.complete(next_trial(search))
    assert ask(search.searcher) is not None
    clock.now = 100.1
    assert search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP


def test_an_end_of_a_trial_after_the_time_is_an_end(tmp_path: Path, clock: Clock) -> None:
    """Its last result says that it is done, whatever the clock says."""
    search = begun(tmp_path, clock)
    trial = next_trial(search)
    clock.now = 500.0
    last = {**search.result(trial, 3, 1.0), "state": "diverged", "done": True}
    assert not search.stop(trial["trial"], last)
    search.searcher.on_trial_complete(trial["trial"], last)
    assert records(search.searcher.run)[0].state == "diverged"


def test_without_a_budget_nothing_is_left(tmp_path: Path, clock: Clock) -> None:
    search = begun(tmp_path, clock, time_budget_s=None)
    trial = next_trial(search)
    clock.now = 1e9
    assert not search.left_after(trial, 1)
    assert not search.stop.stop_all()
    search.stop.asked.set()
    assert search.stop.stop_all()
    assert search.stop.reason == Reason.INTERRUPTED


def test_the_search_leaves_time_for_the_fits_after_it(tmp_path: Path, clock: Clock) -> None:
    """Six fits, two at a time: three turns of ten epochs at 0.8 s, and 5 s by which a trial may be over."""
    search = begun(tmp_path, clock, fits_after=6, parallel=2)
    clock.now = 68.0
    assert not search.stop.stop_all(), "nothing is known of the pace yet"
    search.complete(next_trial(search), each_s=0.8)
    trial = next_trial(search)
    assert not search.stop.stop_all()
    clock.now = 71.1
    assert not search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP
    assert ask(search.searcher) is None
    assert search.left_after(trial, 1)
    assert search.stop.stop_all()


def test_time_is_left_for_the_worker_of_the_fits_after_it_to_start(tmp_path: Path, clock: Clock) -> None:
    """Two turns of ten epochs at 1 s, 4 s as the trial's worker took, and 5 s by which a trial may be over."""
    search = begun(tmp_path, clock, fits_after=4, parallel=2)
    trial = next_trial(search)
    assert not search.stop.stop_all()  # sees the trial begin
    clock.now = 5.0
    assert not search.left_after(trial, 1)
    search.complete(trial)
    clock.now = 66.9  # of 71 s for trials, and 5 s more, a further one needs 9
    assert not search.stop.stop_all()
    clock.now = 67.1
    assert search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP


def test_the_fits_after_the_search_have_half_of_the_time_at_most(tmp_path: Path, clock: Clock) -> None:
    search = begun(tmp_path, clock, fits_after=100)
    search.complete(next_trial(search), each_s=3.0)
    clock.now = 27.9
    assert not search.stop.stop_all()
    assert search.stop.reason == Reason.FINISHED
    next_trial(search)
    assert not search.stop.stop_all()
    clock.now = 49.9
    assert not search.stop.stop_all(), "a trial is at work"
    clock.now = 55.1
    assert search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP


def test_fits_that_are_done_need_no_time_again(tmp_path: Path, clock: Clock) -> None:
    """A resumed search whose finalists were repeated leaves time for those fits alone that a new finalist needs."""
    search = begun(tmp_path, clock, fits_after=6)
    rooms: list[float] = []

    def left(trials: Sequence[Record], room: float) -> int:
        rooms.append(room)
        return 0 if len(trials) < 3 else 2

    search.stop = _Stop(search.searcher, search.searcher.plan, left)
    search.complete(next_trial(search), each_s=3.0)
    search.complete(next_trial(search), each_s=3.0)
    clock.now = 77.9
    assert not search.stop.stop_all(), "nothing is left to do of the choice"
    assert rooms == [1], "a third of the time, for fits of 30 s"
    clock.now = 27.9
    search.complete(next_trial(search), each_s=3.0)
    assert not search.stop.stop_all(), "two fits of 30 s, but half of the time at most"
    clock.now = 50.1
    assert search.stop.stop_all()
    assert search.stop.reason == Reason.TIME_UP


def test_no_trial_begins_that_would_not_end(tmp_path: Path, clock: Clock) -> None:
    """The median so far is 25 s, of which nine tenths have room until 82.5 s: the search may be over by 5 s."""
    search = begun(tmp_path, clock)
    search.complete(next_trial(search), each_s=3.0)
    search.complete(next_trial(search), each_s=2.0)
    trial = next_trial(search)
    assert not search.stop.stop_all()
    clock.now = 82.4
    assert not search.stop.stop_all()
    assert search.stop.reason == Reason.FINISHED
    clock.now = 82.6
    assert not search.stop.stop_all(), "the one at work goes on"
    assert search.stop.reason == Reason.TIME_UP
    assert ask(search.searcher) is None
    assert not search.left_after(trial, 2)
    search.complete(trial)
    assert search.stop.stop_all()


@pytest.mark.parametrize("fits_after", [0, 1])
def test_the_choice_begins_at_once_where_no_trial_at_work_would_end(
    tmp_path: Path, clock: Clock, fits_after: int
) -> None:
    """A trial began at 70 s, when trials took 20 s; at 80 s one has taken 60, so that the median is 40, of which nine
    tenths end at 106 s. The search may be over by 5 s."""
    search = begun(tmp_path, clock, fits_after=fits_after)
    search.stop = _Stop(search.searcher, search.searcher.plan, lambda trials, room: 0)
    search.complete(next_trial(search), each_s=2.0)
    slow = next_trial(search)
    clock.now = 70.0
    trial = next_trial(search)
    assert not search.stop.stop_all()
    assert search.stop.reason == Reason.FINISHED
    clock.now = 80.0
    search.complete(slow, each_s=6.0)
    assert search.stop.stop_all() == (fits_after > 0), "where nothing follows, no time is saved by ending it"
    assert search.stop.reason == Reason.TIME_UP
    assert not search.left_after(trial, 1, each_s=2.0)
    assert not search.stop.stop_all(), "by its pace it ends at 98 s"
    clock.now = 82.0
    assert not search.left_after(trial, 2, each_s=4.0)
    assert search.stop.stop_all() == (fits_after > 0), "by its pace it ends at 114 s"
    assert records(search.searcher.run)[2].state == TrialState.UNFINISHED


def test_a_trial_that_goes_on_is_expected_to_take_what_it_lacks(tmp_path: Path, clock: Clock) -> None:
    """Trials took 100 s, and one that a killed driver left has two of ten epochs to go: nine tenths of 20 s."""
    first = begun(tmp_path, clock, fits_after=1)
    first.complete(next_trial(first), each_s=10.0)
    assert not first.left_after(next_trial(first), 8, each_s=10.0)
    plan, run = replace(first.searcher.plan, time_budget_s=30.0), first.searcher.run
    searcher = begin(plan, run)
    again = Search(searcher, _Stop(searcher, plan, lambda trials, room: 0))
    next_trial(again)
    assert not again.stop.stop_all()
    assert again.stop.reason == Reason.TIME_UP, "no other one would end"
    clock.now = 31.6
    assert again.stop.stop_all()


def test_a_resumed_search_knows_the_pace_from_before(tmp_path: Path, clock: Clock) -> None:
    first = begun(tmp_path, clock, fits_after=6, parallel=2)
    first.complete(next_trial(first), each_s=0.8)
    plan, run = first.searcher.plan, first.searcher.run
    searcher = begin(plan, run)
    again = Search(searcher, _Stop(searcher, plan))
    next_trial(again)
    clock.now = 76.1
    again.stop.stop_all()
    assert again.stop.reason == Reason.TIME_UP
