"""The recorded tables, and searches that are replayed on them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import early_stopping
from tests.benchmarks.recorded_table import SPLITS, STAGES, Table, recorded_objective
from tests.benchmarks.replay import Cost, Report, Shuffled, in_epochs, in_seconds, plan_of, replay, replay_plan
from tune.runs.folder import SearchRun
from tune.runs.study import open_study
from tune.search.driver import run_search
from tune.search.plan import ASHA
from tune.search.schedulers import NoEarlyStopping


@pytest.mark.parametrize(("table", "n"), [(STAGES, 208), (SPLITS, 192)])
def test_a_table_holds_every_recipe_once_with_a_whole_curve(table: Table, n: int) -> None:
    keys = [table.key(overrides) for overrides in table.every_recipe()]
    assert len(set(keys)) == len(keys) == len(table.rows) == n
    assert set(keys) == set(table.rows)
    assert all(len(row.f1) == table.epochs and all(0 <= f1 <= 1 for f1 in row.f1) for row in table.rows.values())
    assert all(row.cpu_s > 0 for row in table.rows.values())
    assert table.key(table.base_recipe().override(table.first).model_dump()) in table.rows


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.timeout(300)
def test_a_replayed_search_is_the_drivers_own(tmp_path: Path) -> None:
    plan = plan_of(STAGES, 8, 0, scheduler=ASHA)
    made = SearchRun.create(tmp_path, "driven")
    run_search(plan, made, recorded_objective, plain=True)
    trials = open_study(made).get_trials(deepcopy=False)
    driven = [sorted(trial.intermediate_values.items()) for trial in trials]
    replayed = groupby(replay_plan(STAGES, plan, tmp_path / "replayed"), lambda report: report.trial)
    assert driven == [[(report.epoch, report.best_f1) for report in reports] for _, reports in replayed]
    assert {len(epochs) for epochs in driven} > {STAGES.epochs}, "some were stopped early"


def reports_of(table: Table, cost: Cost = in_epochs) -> list[Report]:
    """Of a random search of four whole trials, two at a time."""
    searcher, scheduler = Shuffled(table, 0), NoEarlyStopping(table.epochs)
    return list(replay(table, searcher, scheduler, trials=4, parallel=2, cost=cost))


def test_trials_at_the_same_time_are_interleaved_as_their_epochs_end() -> None:
    equal = reports_of(STAGES)
    assert [report.trial for report in equal[:4]] == [0, 1, 0, 1]
    assert equal[-1].spent == 4 * STAGES.epochs
    timed = reports_of(SPLITS, in_seconds)
    assert [report.spent for report in timed] == sorted(report.spent for report in timed)
    assert [sum(report.trial == trial for report in timed) for trial in range(4)] == [SPLITS.epochs] * 4
    taken = [report.spent for report in timed if report.trial == 0]
    assert np.allclose(np.diff(taken), 2 * SPLITS.rows[SPLITS.key({**SPLITS.shared, **SPLITS.first})].cpu_s)


def test_random_search_tries_every_recipe_once_after_trial_0() -> None:
    searchers = [Shuffled(STAGES, seed) for seed in (0, 0, 1)]
    suggested = [[one.suggest(str(number)) for number in range(208)] for one in searchers]
    tried = [[STAGES.key(config["recipe"]) for config in one if config] for one in suggested]
    assert tried[0] == tried[1] != tried[2]
    assert {len(set(keys)) for keys in tried} == {208}
    assert {keys[0] for keys in tried} == {STAGES.key(STAGES.first)}
    assert searchers[0].suggest("208") is None


@pytest.mark.parametrize("by_tpe", [False, True])
def test_the_best_within_a_budget_is_of_trials_that_had_reported_by_then(tmp_path: Path, by_tpe: bool) -> None:
    def reports(name: str, scheduler: str = early_stopping.NONE) -> Iterator[Report]:
        folder = tmp_path / name if by_tpe else None
        return early_stopping.search(STAGES, scheduler, 0, folder, parallel=1, cost=in_epochs)

    spend = early_stopping.budgets(STAGES, in_epochs, 24)
    assert spend == [96, 192]
    bests = [report.best_f1 for report in islice(reports("again"), 192)]
    assert early_stopping.best_within(reports("one"), spend) == [max(bests[:96]), max(bests)]
    stopped = list(islice(reports("stopped", early_stopping.ASHA), 192))
    assert stopped[-1].trial > 24


def test_a_budget_of_seconds_is_that_of_whole_mean_trials() -> None:
    (twelve,) = early_stopping.budgets(SPLITS, in_seconds, 12)
    rows = SPLITS.rows.values()
    assert twelve == pytest.approx(12 * SPLITS.epochs * sum(row.cpu_s for row in rows) / len(rows))


def test_a_difference_comes_with_its_standard_error() -> None:
    searches = {early_stopping.NONE: [[0.1], [0.2]], early_stopping.ASHA: [[0.1], [0.4]]}
    header, none, asha = early_stopping.lines(searches, 12).splitlines()
    assert header.split() == ["in", "the", "time", "of", "12", "n"]
    assert none.split() == [early_stopping.NONE, "0.1500", "(+0.0000", "+-", "0.0000)", "2"]
    assert asha.split() == [early_stopping.ASHA, "0.2500", "(+0.1000", "+-", "0.1000)", "2"]
