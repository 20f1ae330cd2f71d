"""Searches that differ only in when the model begins to suggest."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import random_start


@pytest.mark.parametrize(("parallel", "same"), [(1, 3), (2, 4)])
def test_searches_are_the_same_until_the_model_suggests(tmp_path: Path, parallel: int, same: int) -> None:
    """With two at a time, the fourth trial is suggested when only two have ended."""
    found = [
        random_start.best_after(start, seed, parallel, 8, tmp_path) for start in ("random", "3") for seed in range(4)
    ]
    by_chance, by_model = found[:4], found[4:]
    assert [search[:same] for search in by_chance] == [search[:same] for search in by_model]
    assert by_chance != by_model
    assert all(search == sorted(search) for search in found)


def test_known_points_follow_trial_0(tmp_path: Path) -> None:
    plain, pointed = (random_start.best_after("4", 0, 1, 4, tmp_path / name, points=name == "b") for name in "ab")
    assert plain[0] == pointed[0]
    assert plain != pointed


def test_a_difference_comes_with_its_standard_error() -> None:
    searches = {"10": [[0.1] * 12, [0.2] * 12], "4": [[0.1] * 12, [0.4] * 12]}
    header, base, four = random_start.table(searches).splitlines()
    assert header.split() == ["after", "12", "n"]
    assert base.split() == ["10", "0.1500", "(+0.0000", "+-", "0.0000)", "2"]
    assert four.split() == ["4", "0.2500", "(+0.1000", "+-", "0.1000)", "2"]
