"""The starting points of the CPU scale are those that the command chooses from the recorded table."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces.portfolio import PORTFOLIO
from tests.benchmarks.portfolio import NEAR_PRESET, candidates, chosen, drawn_until, starts


def test_the_package_has_what_the_command_chooses() -> None:
    assert PORTFOLIO["cpu"] == starts()
    assert NEAR_PRESET in candidates()


def test_the_next_point_is_the_one_that_adds_most_to_those_given() -> None:
    """The second point is best on average, but only the third is good where the first one is bad."""
    scores = np.array([[0.9, 0.1], [0.85, 0.15], [0.2, 0.8]])
    assert chosen(scores, 1, [0]) == [2]
    assert chosen(scores, 2, [0])[0] == 2


def test_drawing_at_random_takes_as_long_as_the_share_of_good_points_says() -> None:
    scores = np.arange(9.0)
    assert drawn_until(scores, 0.0) == 1.0
    assert drawn_until(scores, 8.0) == pytest.approx(5.0, abs=0.2)
