"""What the search takes for granted of Ray's schedulers, a test a fact.

As in test_ray.py. Checked with ray 2.60.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from tune.search.schedulers import RunTrial

CONTINUE, STOP, PAUSE = TrialScheduler.CONTINUE, TrialScheduler.STOP, TrialScheduler.PAUSE


def ray_trial(name: str) -> Trial:
    return Trial("made", config={"trial": name}, trial_id=name, stub=True)


def asha(**values: Any) -> ASHAScheduler:
    return ASHAScheduler(
        **{"time_attr": "epoch", "metric": "f1", "mode": "max", "max_t": 4, "reduction_factor": 2, **values}
    )


def test_asha_asks_for_a_trials_id_alone_and_keeps_what_it_reported_under_that() -> None:
    """Leans: EpochASHA, which passes its base a RunTrial instead of Ray's trial, and replays a study through the public
    methods; tests/tune/rungs.py, which reads `_brackets` and `_rungs` for tests.

    If it fails: see what else of a trial the base asks for, and give it to RunTrial.
    """
    scheduler, known = asha(), SimpleNamespace(trial_id="0007")
    scheduler.on_trial_add(None, known)
    for epoch in (1, 2, 3):
        scheduler.on_trial_result(None, known, {"epoch": epoch, "f1": epoch / 10})
    scheduler.on_trial_remove(None, known)
    same = SimpleNamespace(trial_id="0007")
    scheduler.on_trial_add(None, same)
    scheduler.on_trial_complete(None, same, {"epoch": 4, "f1": 0.4})
    (bracket,) = scheduler._brackets
    assert [(float(at), recorded) for at, recorded in bracket._rungs] == [
        (4.0, {"0007": 0.4}),
        (2.0, {"0007": 0.2}),
        (1.0, {"0007": 0.1}),
    ]


def test_asha_records_a_value_only_the_first_time() -> None:
    """Leans: EpochASHA; a trial that is taken up again, or retried, reports its epochs again.

    If it fails: pass those over, as EpochMedian.on_trial_result does.
    """
    scheduler = asha(stop_last_trials=False)
    scheduler.on_trial_add(None, ray_trial("a"))
    for value in (0.5, 0.1):
        for epoch in (1, 2):
            assert scheduler.on_trial_result(None, ray_trial("a"), {"epoch": epoch, "f1": value}) == CONTINUE
    assert [list(recorded.values()) for _, recorded in scheduler._brackets[0]._rungs] == [[], [0.5], [0.5]]


@pytest.mark.parametrize(("stop_last_trials", "decision"), [(True, STOP), (False, CONTINUE)])
def test_asha_stops_at_max_t_unless_an_option_says_otherwise(stop_last_trials: bool, decision: str) -> None:
    """Leans: EpochASHA, which says stop_last_trials=False, since a space may vary the epochs.

    If it fails: a recipe of more epochs than the base would be cut at the base's, and recorded as stopped early.
    """
    scheduler = asha(stop_last_trials=stop_last_trials)
    scheduler.on_trial_add(None, ray_trial("a"))
    said = [scheduler.on_trial_result(None, ray_trial("a"), {"epoch": epoch, "f1": 0.5}) for epoch in (3, 4, 5, 9)]
    assert said == [CONTINUE, decision, decision, decision]


def test_asha_places_trials_by_numpys_global_generator_only_among_several_brackets() -> None:
    """Leans: EpochASHA, which says brackets=1.

    If it fails: the same seed no longer gives the same leaderboard; seed what it draws from, or place trials ourselves.
    """

    def placed(brackets: int) -> list[int]:
        scheduler = asha(brackets=brackets, max_t=16)
        for at in range(20):
            scheduler.on_trial_add(None, ray_trial(str(at)))
        return [scheduler._brackets.index(scheduler._trial_info[str(at)]) for at in range(20)]

    before = np.random.get_state()
    try:
        assert placed(1) == placed(1) == [0] * 20
        assert placed(3) != placed(3), "if this one fails alone, brackets=1 is needed no more"
    finally:
        np.random.set_state(before)


ALONE = SimpleNamespace(get_live_trials=list)
"""Ray's controller while no other trial waits."""


def median(**values: Any) -> MedianStoppingRule:
    return MedianStoppingRule(
        time_attr="epoch", metric="f1", mode="max", grace_period=1, min_samples_required=3, **values
    )


def test_the_median_rule_tells_trials_apart_by_equality_and_decides_nothing_at_their_ends() -> None:
    """Leans: EpochMedian, which passes its base RunTrials, equal by their ids, and replays each epoch of a study as a
    trial's end.

    If it fails: a resumed search has to put the study's values into the rule in another way.
    """
    rule = median()
    for name, value in (("0001", 0.5), ("0002", 0.6), ("0003", 0.7), ("0004", 0.1)):
        for epoch in (1, 2):
            rule.on_trial_complete(None, RunTrial(name), {"epoch": epoch, "f1": value})
    assert rule.on_trial_result(ALONE, RunTrial("0004"), {"epoch": 3, "f1": 0.6}) == CONTINUE, "nobody else is as far"
    assert rule.on_trial_result(None, RunTrial("good"), {"epoch": 2, "f1": 0.61}) == CONTINUE
    assert rule.on_trial_result(None, RunTrial("bad"), {"epoch": 2, "f1": 0.5}) == STOP


def test_the_median_rule_counts_a_result_again_when_the_trial_ends_with_it() -> None:
    """Leans: EpochMedian.on_trial_complete, which passes over an epoch that was reported before.

    If it fails because it counts once: that guard is needed no more.
    """
    once, twice = median(), median()
    for rule in (once, twice):
        for name in ("a", "b", "c"):  # of (0.2, 0.8) the mean is 0.5; with the last epoch counted twice, 0.6
            rule.on_trial_result(ALONE, RunTrial(name), {"epoch": 1, "f1": 0.2})
            rule.on_trial_result(ALONE, RunTrial(name), {"epoch": 2, "f1": 0.8})
    for name in ("a", "b", "c"):
        twice.on_trial_complete(ALONE, RunTrial(name), {"epoch": 2, "f1": 0.8})
    assert once.on_trial_result(ALONE, RunTrial("d"), {"epoch": 2, "f1": 0.55}) == CONTINUE
    assert twice.on_trial_result(ALONE, RunTrial("d"), {"epoch": 2, "f1": 0.55}) == STOP


def test_the_median_rule_pauses_where_it_knows_too_little_unless_the_time_slice_is_endless() -> None:
    """Leans: EpochMedian (min_time_slice), which never pauses: a paused trial has no checkpoint of Ray's to go on from.

    If it fails: find the new option, or trials are paused and start over.
    """
    waits = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status=Trial.PENDING)])
    assert median().on_trial_result(waits, ray_trial("a"), {"epoch": 1, "f1": 0.5}) == PAUSE
    never = median(min_time_slice=math.inf)
    assert [never.on_trial_result(waits, ray_trial("a"), {"epoch": at, "f1": 0.5}) for at in (1, 9)] == [CONTINUE] * 2


def test_the_fifo_scheduler_lets_every_trial_run_and_has_the_hooks_that_we_extend() -> None:
    """Leans: NoEarlyStopping, and _ReportsErrors, which calls its base's on_trial_error.

    If it fails: extend what Ray calls instead.
    """
    scheduler = FIFOScheduler()
    scheduler.on_trial_add(None, ray_trial("a"))
    assert scheduler.on_trial_result(None, ray_trial("a"), {"epoch": 1}) == CONTINUE
    for base in (ASHAScheduler, MedianStoppingRule, FIFOScheduler):
        assert {"on_trial_error", "on_trial_add", "on_trial_result", "on_trial_complete"} <= set(dir(base))
    scheduler.on_trial_error(None, ray_trial("a"))
