"""Fits under a time budget: what is close to its end comes to it, and the rest is left for the next call."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tune.works import Work, computed, make_requests
from tune.fitting.pool import run_fits
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.runs.stopping import Outcome, Reason

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.mark.slow
def test_a_time_budget_ends_it_and_leaves_the_rest(tmp_path: Path) -> None:
    first, *requests = make_requests(tmp_path, 5)
    run_fits([first], Work(), parallel=1)  # a worker has started
    outcome = run_fits(requests, Work(sleep_s=0.4), parallel=1, budget_s=3)
    assert outcome.reason == Reason.TIME_UP
    assert outcome.remaining == sum(FitResult.read(request.folder) is None for request in requests) > 0
    assert run_fits(requests, Work(), parallel=2) == Outcome(Reason.FINISHED, 0)
    assert [computed(request) for request in requests] == [[1, 2, 3, 4]] * 4, "no epoch twice"


def test_what_is_close_to_its_end_when_the_time_is_up_comes_to_it(tmp_path: Path) -> None:
    first, *requests = make_requests(tmp_path, 5)
    run_fits([first], Work(), parallel=1)  # a worker has started
    outcome = run_fits(requests, Work(sleep_s=0.4), parallel=1, budget_s=3, grace_s=30)
    begun = [request for request in requests if request.folder.exists()]
    assert 0 < len(begun) < 4
    assert outcome == Outcome(Reason.TIME_UP, 4 - len(begun))
    assert [computed(request) for request in begun] == [[1, 2, 3, 4]] * len(begun)


@pytest.mark.slow
def test_a_fit_that_only_writes_its_result_when_the_time_is_up_is_waited_for(tmp_path: Path) -> None:
    first, second, third = make_requests(tmp_path, 3)
    run_fits([first], Work(), parallel=1)  # a worker has started
    outcome = run_fits([second, third], Work(answer_s=8), parallel=1, budget_s=5)
    assert outcome == Outcome(Reason.TIME_UP, 1)
    assert FitResult.read(second.folder) is not None

    def has_more(asked: FitRequest, result: FitResult) -> bool:
        return "more" in result.settings

    wants_more = replace(second, settings={"more": True})
    outcome = run_fits([wants_more], Work(sleep_s=1.5), parallel=1, budget_s=1, is_done=has_more)
    assert outcome == Outcome(Reason.TIME_UP, 1)
    assert len(computed(second)) < 8, "one that is done again has all its epochs from before, and is not waited for"
