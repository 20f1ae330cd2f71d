"""Who stops trials that lag, on recorded curves, and what a resumed search knows of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tests.tune.rungs import rungs_of
from tune.runs.study import trial_id
from tune.search import schedulers
from tune.search.plan import ASHA, MEDIAN, NONE, SCHEDULERS
from tune.search.schedulers import EpochASHA, EpochMedian, EpochScheduler, NoEarlyStopping, grace_period

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
TRIALS, EPOCHS = 14, 8
OTHERS_WAIT = SimpleNamespace(get_live_trials=lambda: [SimpleNamespace(status=Trial.PENDING)])
"""Ray's controller while another trial waits for room, which is when Ray's own rule pauses one."""


@dataclass
class Fed:
    """A scheduler that is fed as Ray feeds it: each epoch is a result; the last, or one that stops a trial, its end.

    Args:
        ray_ids: what Ray calls the trials: by another name each time that a driver starts.
    """

    scheduler: EpochScheduler
    ray_ids: str = "first"
    said: dict[tuple[int, int], str] = field(default_factory=dict)
    """What was decided at (trial, epoch)."""
    reported: dict[int, dict[int, float]] = field(default_factory=dict)
    stopped: set[int] = field(default_factory=set)
    _trials: dict[int, Trial] = field(default_factory=dict)

    def report(self, number: int, epoch: int, value: float, *, last: bool) -> str:
        if number not in self._trials:
            trial = Trial("made", config={"trial": trial_id(number)}, trial_id=f"{self.ray_ids}_{number}", stub=True)
            self._trials[number] = trial
            self.scheduler.on_trial_add(OTHERS_WAIT, trial)
        trial, result = self._trials[number], {"epoch": epoch, "best_f1": value}
        decision = CONTINUE if last else self.scheduler.on_trial_result(OTHERS_WAIT, trial, result)
        self.reported.setdefault(number, {})[epoch] = value
        if last or decision == STOP:
            self.scheduler.on_trial_complete(OTHERS_WAIT, trial, result)
        if decision == STOP:
            self.stopped.add(number)
        self.said[number, epoch] = decision
        return decision

    def study(self) -> list[FrozenTrial]:
        """What a study would hold of it."""
        trials = []
        for number, values in sorted(self.reported.items()):
            trials.append(create_trial(state=OptunaState.PRUNED, intermediate_values=values))
            trials[-1].number = number
        return trials


def curves(seed: int) -> np.ndarray[Any, Any]:
    """Running bests. shape: (trials, epochs)"""
    draw = np.random.default_rng(seed)
    heights, noise = draw.uniform(0.2, 0.9, (TRIALS, 1)), draw.normal(0, 0.05, (TRIALS, EPOCHS))
    bests: np.ndarray[Any, Any] = np.maximum.accumulate(heights * (1 - 0.6 ** np.arange(1, EPOCHS + 1)) + noise, axis=1)
    return bests


def interleaved(seed: int) -> list[tuple[int, int]]:
    """(trial, epoch), each trial's epochs in order, three trials at a time."""
    draw, waiting, running, order = (
        np.random.default_rng(seed),
        list(range(TRIALS)),
        dict[int, int](),
        list[tuple[int, int]](),
    )
    while waiting or running:
        while waiting and len(running) < 3:
            running[waiting.pop(0)] = 1
        number = int(draw.choice(sorted(running)))
        order.append((number, running[number]))
        running[number] += 1
        if running[number] > EPOCHS:
            del running[number]
    return order


def feed(fed: Fed, order: list[tuple[int, int]], values: np.ndarray[Any, Any]) -> None:
    """Each epoch of the order, but none of a trial after it was stopped."""
    for number, epoch in order:
        if number not in fed.stopped:
            fed.report(number, epoch, float(values[number, epoch - 1]), last=epoch == EPOCHS)


@pytest.mark.parametrize(
    ("epochs", "grace"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3), (8, 4), (47, 24), (100, 50)]
)
def test_every_trial_gets_half_of_the_epochs(epochs: int, grace: int) -> None:
    assert grace_period(epochs) == grace


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, [1]), (2, [2, 1]), (3, [2]), (4, [4, 2]), (5, [3]), (6, [6, 3]), (8, [8, 4]), (47, [24]), (100, [100, 50])],
)
def test_a_rung_lies_at_half_of_the_epochs_and_one_at_their_end(epochs: int, rungs: list[int]) -> None:
    assert [epoch for epoch, _ in rungs_of(EpochASHA(epochs))] == rungs


@pytest.mark.parametrize("epochs", [6, 8])
def test_asha_stops_what_lies_in_the_worse_half_of_a_rung(epochs: int) -> None:
    scheduler, grace = EpochASHA(epochs), grace_period(epochs)
    values = np.random.default_rng(0).permutation(np.linspace(0.1, 0.9, 30))
    fed = Fed(scheduler)
    for number, value in enumerate(values):
        for epoch in range(1, grace):
            assert fed.report(number, epoch, 0.0, last=False) == CONTINUE, "before the grace period nobody is stopped"
        decided = fed.report(number, grace, float(value), last=False)
        worse = number > 0 and value < np.quantile(values[:number], 1 / 2)
        assert decided == (STOP if worse else CONTINUE)
    assert 0 < len(fed.stopped) < 30


def test_asha_takes_no_recipes_last_epoch_for_another_trials_end() -> None:
    fed = Fed(EpochASHA(4))
    assert [fed.report(0, epoch, 0.5, last=False) for epoch in range(1, 12)] == [CONTINUE] * 11


def by_the_rule(number: int, epoch: int, known: dict[int, dict[int, float]]) -> str:
    """The median rule, written once more: Golovin et al., section 3.2.1, with means from the grace period on."""
    grace = grace_period(EPOCHS)
    if epoch < grace:
        return CONTINUE
    means = [
        np.mean([value for at, value in values.items() if grace <= at <= epoch])
        for other, values in known.items()
        if other != number and max(values) >= epoch
    ]
    if len(means) < 3:
        return CONTINUE
    return STOP if max(known[number].values()) < np.median(means) else CONTINUE


@pytest.mark.parametrize("seed", range(20))
def test_the_median_rule_decides_as_it_is_written(seed: int) -> None:
    fed, values, known = Fed(EpochMedian(EPOCHS)), curves(seed), dict[int, dict[int, float]]()
    for number, epoch in interleaved(seed):
        if number in fed.stopped:
            continue
        value, last = float(values[number, epoch - 1]), epoch == EPOCHS
        known.setdefault(number, {})[epoch] = value
        wanted = CONTINUE if last or number == 0 else by_the_rule(number, epoch, known)
        assert fed.report(number, epoch, value, last=last) == wanted
    assert 0 < len(fed.stopped) < TRIALS


def test_the_median_rule_needs_three_others_and_pauses_nobody() -> None:
    """Ray's own pauses a trial where it knows too little, if another one waits."""
    fed = Fed(EpochMedian(4))
    for number in range(3):
        assert [fed.report(number, epoch, 0.8, last=epoch == 4) for epoch in range(1, 5)] == [CONTINUE] * 4
    assert [fed.report(3, epoch, 0.7, last=False) for epoch in (1, 2)] == [CONTINUE, STOP]


def test_the_median_rule_counts_the_epoch_that_stopped_a_trial_once() -> None:
    """Ray tells it twice: as a result, and as the trial's end."""
    fed = Fed(EpochMedian(2))  # means from the first epoch on
    for number in (0, 1, 2):  # means to epoch 2: 0.5
        for epoch, value in enumerate((0.2, 0.8, 0.8, 0.8), start=1):
            fed.report(number, epoch, value, last=epoch == 4)
    for number in (3, 4, 5, 6):  # 0.35; with the last epoch counted twice, 0.37
        assert [fed.report(number, epoch, value, last=False) for epoch, value in ((1, 0.3), (2, 0.4))] == [
            CONTINUE,
            STOP,
        ]
    assert [fed.report(7, epoch, 0.36, last=False) for epoch in (1, 2)] == [CONTINUE, CONTINUE], "the median is 0.35"


@pytest.mark.parametrize("kind", [ASHA, MEDIAN])
@pytest.mark.parametrize("seed", range(20))
def test_what_is_given_back_decides_as_if_nothing_had_been_broken_off(kind: str, seed: int) -> None:
    """Killed at a random moment; what ran is taken up again under other ids of Ray's, and reports its epochs again."""
    values, order = curves(seed), interleaved(seed)
    unbroken, killed = Fed(schedulers.create(kind, EPOCHS)), Fed(schedulers.create(kind, EPOCHS))
    feed(unbroken, order, values)
    cut = int(np.random.default_rng(seed + 1000).integers(len(order)))
    feed(killed, order[:cut], values)
    resumed = Fed(schedulers.create(kind, EPOCHS), ray_ids="second", stopped=set(killed.stopped))
    resumed.scheduler.replay(killed.study())
    for number, known in killed.reported.items():
        if number not in killed.stopped and EPOCHS not in known:
            again = [resumed.report(number, epoch, known[epoch], last=False) for epoch in sorted(known)]
            assert set(again) == {CONTINUE}, "what its epochs decided is decided"
    feed(resumed, order[cut:], values)
    assert {**killed.said, **resumed.said} == unbroken.said
    assert resumed.stopped == unbroken.stopped != set()
    if isinstance(resumed.scheduler, EpochASHA) and isinstance(unbroken.scheduler, EpochASHA):
        assert rungs_of(resumed.scheduler) == rungs_of(unbroken.scheduler)


@pytest.mark.parametrize("kind", [ASHA, MEDIAN])
def test_epochs_that_a_replaced_worker_reports_again_change_nothing(kind: str) -> None:
    """Ray tries a trial again under the same id; the objective yields its epochs from the first on."""
    values, order = curves(3), interleaved(3)
    once, twice = Fed(schedulers.create(kind, EPOCHS)), Fed(schedulers.create(kind, EPOCHS))
    feed(once, order, values)
    for number, epoch in order:
        if number in twice.stopped:
            continue
        if epoch == 5:
            twice.scheduler.on_trial_error(OTHERS_WAIT, twice._trials[number])
            twice.scheduler.on_trial_add(OTHERS_WAIT, twice._trials[number])
            again = [twice.report(number, at, float(values[number, at - 1]), last=False) for at in range(1, 5)]
            assert set(again) == {CONTINUE}
        twice.report(number, epoch, float(values[number, epoch - 1]), last=epoch == EPOCHS)
    assert twice.said == once.said
    assert twice.stopped == once.stopped != set()


@pytest.mark.parametrize("kind", [ASHA, MEDIAN])
def test_the_presets_trial_is_never_stopped_but_others_are_by_its_epochs(kind: str) -> None:
    fed = Fed(schedulers.create(kind, 4))
    for number in range(1, 5):
        for epoch in range(1, 5):
            fed.report(number, epoch, 0.5, last=epoch == 4)
    assert [fed.report(0, epoch, 0.1, last=False) for epoch in range(1, 5)] == [CONTINUE] * 4
    assert [fed.report(5, epoch, 0.1, last=False) for epoch in (1, 2)] == [CONTINUE, STOP]


def test_nobody_stops_nobody() -> None:
    fed = Fed(NoEarlyStopping(4))
    fed.scheduler.replay(Fed(EpochASHA(4), reported={0: {1: 0.9}}).study())
    assert [
        fed.report(number, epoch, 0.9 - number / 10, last=False) for number in range(8) for epoch in range(1, 5)
    ] == [CONTINUE] * 32


def test_each_name_is_a_scheduler_of_its_own_that_tells_errors() -> None:
    made = {kind: schedulers.create(kind, 4, lambda trial: reported_by.append(trial.trial_id)) for kind in SCHEDULERS}
    reported_by: list[str] = []
    assert {kind: type(scheduler) for kind, scheduler in made.items()} == {
        ASHA: EpochASHA,
        MEDIAN: EpochMedian,
        NONE: NoEarlyStopping,
    }
    for kind, scheduler in made.items():
        trial = Trial("made", config={"trial": "0001"}, trial_id=kind, stub=True)
        scheduler.on_trial_add(OTHERS_WAIT, trial)
        scheduler.on_trial_error(OTHERS_WAIT, trial)
        schedulers.create(kind, 4).on_trial_error(OTHERS_WAIT, trial)  # nobody wants to know
    assert reported_by == list(SCHEDULERS)


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(ValueError, match="There is no scheduler 'hyperband'"):
        schedulers.create("hyperband", EPOCHS)
