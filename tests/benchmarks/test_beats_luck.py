"""Epochs until a search has found one of the recorded table's best recipes."""

from __future__ import annotations

import math
from pathlib import Path

from tests.benchmarks import beats_luck
from tests.benchmarks.recorded_table import STAGES
from tests.benchmarks.replay import plan_of, replay_plan
from tune.search.plan import NONE


def test_three_of_208_are_the_best_one_percent() -> None:
    best = [max(row.f1) for row in STAGES.rows.values()]
    assert sum(f1 >= beats_luck.threshold() for f1 in best) == 3


def test_a_search_has_found_one_of_the_best_when_a_trial_reports_it(tmp_path: Path) -> None:
    spent = beats_luck.epochs_to_best("TPE", 3, tmp_path)
    trials = math.ceil(spent / STAGES.epochs)
    reports = list(replay_plan(STAGES, plan_of(STAGES, trials, 3, scheduler=NONE), tmp_path / "again"))
    first = next(number for number, report in enumerate(reports, 1) if report.best_f1 >= beats_luck.threshold())
    assert first == spent


def test_a_search_that_never_found_one_counts_as_the_longest() -> None:
    text = beats_luck.table(
        {"random": [10.0, 20.0, 30.0], "TPE": [5.0, 10.0, 15.0], "TPE + ASHA": [2.0, 4.0, math.inf]}
    )
    assert [line.split()[-4:] for line in text.splitlines()[1:]] == [
        ["30", "1.00", "0", "3"],
        ["15", "0.50", "0", "3"],
        ["4", "0.20", "1", "3"],
    ]
