"""The recorded table, and searches that are replayed on it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.benchmarks import beats_luck
from tests.benchmarks.recorded_table import EPOCHS, base_recipe, every_recipe, read_table, row_key


def test_the_table_holds_every_recipe_once_with_a_whole_curve() -> None:
    table = read_table()
    keys = [row_key(overrides) for overrides in every_recipe()]
    assert len(set(keys)) == len(keys) == len(table) == 208
    assert set(keys) == set(table)
    assert all(len(curve) == EPOCHS and all(0 <= f1 <= 1 for f1 in curve) for curve in table.values())
    assert row_key(base_recipe("none").override(beats_luck.FIRST).model_dump()) in table


def test_three_of_208_are_the_best_one_percent() -> None:
    best = [max(curve) for curve in read_table().values()]
    assert sum(f1 >= beats_luck.threshold() for f1 in best) == 3


def test_a_search_has_found_one_of_the_best_when_a_trial_reports_it() -> None:
    found = beats_luck.Search((0.1, 0.3, 0.2, 0.4))
    assert [found.epochs_to(f1) for f1 in (0.1, 0.25, 0.4, 0.5)] == [1, 2, 4, math.inf]
    text = beats_luck.table(
        {"random": [10.0, 20.0, 30.0], "TPE": [5.0, 10.0, 15.0], "TPE + ASHA": [2.0, 4.0, math.inf]}
    )
    assert [line.split()[-4:] for line in text.splitlines()[1:]] == [
        ["30", "1.00", "0", "3"],
        ["15", "0.50", "0", "3"],
        ["4", "0.20", "1", "3"],
    ]


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_a_replayed_search_is_the_drivers_own_over_real_curves(tmp_path: Path) -> None:
    plain, stopped = (beats_luck.search(method, 0, tmp_path, trials=8) for method in ("TPE", "TPE + ASHA"))
    assert len(plain.reported) == 8 * EPOCHS
    assert len(stopped.reported) < len(plain.reported)
    curves = {max(curve) for curve in read_table().values()}
    assert {max(plain.reported[start : start + EPOCHS]) for start in range(0, 8 * EPOCHS, EPOCHS)} <= curves
