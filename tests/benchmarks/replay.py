"""A search replayed on a recorded table: its own searcher and scheduler, called as Ray calls them, without Ray.

Nothing is trained: a trial's epochs are read from the table, and take as long as the table says. Trials that run at
the same time are interleaved as their epochs end, so a trial is suggested, or stopped, by what was known then. Random
search needs no searcher of its own here: it takes the table's recipes in a random order (`Shuffled`), which is quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import accumulate, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from tests.benchmarks.recorded_table import SETTING, Recorded, Table
from tune.runs import study
from tune.runs.folder import SearchRun
from tune.search import schedulers
from tune.search.first_trials import enqueue_initial_trials
from tune.search.plan import SearchPlan
from tune.search.schedulers import EpochASHA, EpochScheduler
from tune.search.searcher import StudySearch
from tune.states import FIDELITY, METRIC, TrialState

Cost = Callable[[Recorded], float]
"""What an epoch of a recipe takes."""


def in_epochs(recorded: Recorded) -> float:
    """All epochs take equally long."""
    return 1.0


def in_seconds(recorded: Recorded) -> float:
    """An epoch takes the CPU seconds that it took when the table was recorded."""
    return recorded.cpu_s


@dataclass(frozen=True)
class Report:
    """An epoch as a trial reports it."""

    spent: float
    """What all workers have spent until now, in epochs or in CPU seconds."""
    trial: int
    epoch: int
    best_f1: float
    """The trial's running best."""


@dataclass
class _Running:
    """A trial at work."""

    key: str
    trial: SimpleNamespace
    """As a scheduler asks for it."""
    bests: Sequence[float]
    takes: float
    row: dict[str, Any] = field(default_factory=dict)


class Searcher(Protocol):
    """What a replay asks of a searcher: what Ray asks of `StudySearch`."""

    def suggest(self, trial_id: str) -> Mapping[str, Any] | str | None: ...

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None: ...

    def on_trial_complete(self, trial_id: str, result: dict[str, Any]) -> None: ...


class Shuffled:
    """Random search without a study: trial 0, then all other recipes in a random order."""

    def __init__(self, table: Table, seed: int) -> None:
        first = table.key(table.base_recipe().override(table.first).model_dump())
        rest = [recipe for recipe in table.every_recipe() if table.key(recipe) != first]
        order = np.random.default_rng(seed).permutation(len(rest))
        self._recipes = [dict(table.first), *(rest[at] for at in order)]

    def suggest(self, trial_id: str) -> Mapping[str, Any] | None:
        number = int(trial_id)
        if number >= len(self._recipes):
            return None
        return {"trial": study.trial_id(number), "recipe": self._recipes[number]}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learns nothing."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any]) -> None:
        """Learns nothing."""


def plan_of(table: Table, trials: int, seed: int, **values: Any) -> SearchPlan:
    """The plan of a search over the table's space; all other values are the defaults, or as stated."""
    return SearchPlan(table.space, SETTING, table.base_recipe().override(table.first), {}, trials, seed, **values)


def replay_plan(table: Table, plan: SearchPlan, folder: Path) -> Iterator[Report]:
    """Search as the plan says, all epochs taking equally long. `folder` must have no run of this seed yet."""
    scheduler = schedulers.create(plan.scheduler, plan.base.epochs)
    return replay(table, searcher_of(plan, folder), scheduler, trials=plan.trials, parallel=plan.parallel)


def searcher_of(plan: SearchPlan, folder: Path) -> StudySearch:
    """The search's own searcher, with a study in a new run under the folder."""
    searcher = StudySearch(plan, SearchRun.create(folder, f"seed-{plan.seed}"))
    enqueue_initial_trials(searcher.study, plan)
    return searcher


def replay(
    table: Table,
    searcher: Searcher,
    scheduler: EpochScheduler,
    *,
    trials: int,
    parallel: int = 1,
    cost: Cost = in_epochs,
) -> Iterator[Report]:
    """Search, and yield what the trials report, in the order of time, until all of them have ended."""
    events: list[tuple[float, int, _Running]] = []  # when a trial's next epoch ends; the order among equal times
    order, numbers = count(), iter(range(trials))

    def begin(now: float) -> None:
        number = next(numbers, None)
        config = None if number is None else searcher.suggest(str(number))
        if not isinstance(config, Mapping):  # enough trials, or every recipe was tried
            return
        recorded, trial = table.rows[table.key(config["recipe"])], SimpleNamespace(config=config)
        scheduler.on_trial_add(None, trial)
        running = _Running(str(number), trial, list(accumulate(recorded.f1, max)), cost(recorded))
        heappush(events, (now + running.takes, next(order), running))

    for _ in range(parallel):
        begin(0.0)
    while events:
        now, _, running = heappop(events)
        epoch = running.row.get(FIDELITY, 0) + 1
        best = running.bests[epoch - 1]
        yield Report(now * parallel, int(running.key), epoch, best)
        if _goes_on(searcher, scheduler, running, epoch, best):
            heappush(events, (now + running.takes, next(order), running))
        else:
            begin(now)


def _goes_on(searcher: Searcher, scheduler: EpochScheduler, running: _Running, epoch: int, best: float) -> bool:
    """Report a trial's epoch as Ray does, and whether the trial trains another one."""
    row = running.row = {FIDELITY: epoch, METRIC: best, "seconds": epoch * running.takes, "state": TrialState.RUNNING}
    if epoch == len(running.bests):
        row["state"] = TrialState.COMPLETE
    else:
        searcher.on_trial_result(running.key, row)
        if scheduler.on_trial_result(None, running.trial, row) != EpochASHA.STOP:
            return True
    searcher.on_trial_complete(running.key, row)
    scheduler.on_trial_complete(None, running.trial, row)
    return False
