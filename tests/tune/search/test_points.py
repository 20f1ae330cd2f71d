"""Every point of a space once, in an order that only the seed decides."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution

from maskcls.errors import CallError
from search_spaces import Setting, Space, Suggest
from tests.tune.searches import SETTING
from tune.search import points

ROOT = Path(__file__).parents[3]


def space(suggest: Any) -> Space:
    return Space("made", "Which?", suggest)


def heads(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """A whole number depends on a choice; what follows depends on nothing."""
    chosen = {"head": trial.suggest_categorical("head", ("linear", "mlp"))}
    if chosen["head"] == "mlp":
        chosen["width"] = trial.suggest_int("width", 1, 3)
    chosen["flip"] = trial.suggest_categorical("flip", (False, True))
    return chosen


def ranges(trial: Suggest, setting: Setting) -> dict[str, Any]:
    return {
        "share": trial.suggest_float("share", 0.0, 1.0),
        "rate": trial.suggest_float("rate", 1e-4, 1e-2, log=True),
        "same": trial.suggest_float("same", 0.3, 0.3),
        "layers": trial.suggest_int("layers", 1, 5),
    }


def test_every_point_comes_once_the_last_choice_changed_first() -> None:
    found = points.all_points(space(heads), SETTING)
    linear = [{"head": "linear", "flip": flip} for flip in (False, True)]
    mlp = [{"head": "mlp", "width": width, "flip": flip} for width in (1, 2, 3) for flip in (False, True)]
    assert found == linear + mlp


TREES = st.recursive(
    st.just(()),
    lambda trees: st.lists(st.lists(trees, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    max_leaves=12,
)
"""A space as a tree: its parameters in order, each a tuple of branches, which are what is asked after that choice."""


def walk(tree: Any, trial: Suggest, path: str = "") -> None:
    for at, branches in enumerate(tree):
        name = f"{path}p{at}"
        taken = trial.suggest_int(name, 0, len(branches) - 1)
        walk(branches[taken], trial, f"{name}={taken}.")


def spelled_out(tree: Any, path: str = "") -> Iterator[dict[str, Any]]:
    """The points of a tree, by recursion instead of by asking again and again."""
    of_each = []
    for at, branches in enumerate(tree):
        name = f"{path}p{at}"
        of_each.append(
            [{name: n, **below} for n, branch in enumerate(branches) for below in spelled_out(branch, f"{name}={n}.")]
        )
    for parts in itertools.product(*of_each):
        yield {name: value for part in parts for name, value in part.items()}


@given(TREES)
def test_any_conditional_space_is_walked_whole(tree: Any) -> None:
    found = points.all_points(space(lambda trial, setting: walk(tree, trial)), SETTING)
    assert found == list(spelled_out(tree))


def test_a_name_that_is_asked_twice_is_one_choice() -> None:
    def twice(trial: Suggest, setting: Setting) -> dict[str, Any]:
        first, again = trial.suggest_int("n", 0, 2), trial.suggest_int("n", 0, 2)
        assert first == again
        return {}

    assert points.all_points(space(twice), SETTING) == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_a_range_of_real_numbers_makes_a_space_infinite_wherever_it_hangs() -> None:
    def deep(trial: Suggest, setting: Setting) -> dict[str, Any]:
        if trial.suggest_int("n", 0, 9) == 9:
            trial.suggest_float("rate", 0.0, 1.0)
        return {}

    assert points.all_points(space(ranges), SETTING) is None
    assert points.all_points(space(deep), SETTING) is None


def test_a_range_of_one_number_is_a_point() -> None:
    assert points.all_points(
        space(lambda trial, setting: {"rate": trial.suggest_float("rate", 0.5, 0.5)}), SETTING
    ) == [{"rate": 0.5}]


def test_more_points_than_can_be_listed_count_as_infinite_and_are_no_grid() -> None:
    def upto(n: int) -> Space:
        return space(lambda trial, setting: {"n": trial.suggest_int("n", 1, n)})

    most = points.all_points(upto(points.MAX_POINTS), SETTING)
    assert most is not None
    assert len(most) == points.MAX_POINTS
    assert points.all_points(upto(points.MAX_POINTS + 1), SETTING) is None
    with pytest.raises(
        CallError,
        match=r"--sampler grid: the grid of space made has more than 20,000 points\. "
        r"Fix some .* with --set, or use --sampler",
    ):
        points.grid(upto(points.MAX_POINTS + 1), SETTING)


def test_a_grid_takes_three_places_of_a_range_and_every_whole_number() -> None:
    found = points.grid(space(ranges), SETTING)
    values = {name: sorted({point[name] for point in found}) for name in found[0]}
    assert len(found) == 3 * 3 * 5
    assert values["share"] == [0.0, 0.5, 1.0]
    assert values["rate"] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert (values["rate"][0], values["rate"][-1]) == (1e-4, 1e-2), "ends are exact, or they would lie outside"
    assert all(FloatDistribution(1e-4, 1e-2, log=True)._contains(rate) for rate in values["rate"])
    assert values["same"] == [0.3]
    assert values["layers"] == [1, 2, 3, 4, 5]


def test_a_grids_order_depends_on_the_seed_alone() -> None:
    first, again, other = (points.grid(space(ranges), SETTING, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other

    def keys(found: list[dict[str, Any]]) -> list[str]:
        return sorted(map(json.dumps, found))

    assert keys(first) == keys(other) == keys(list(points.every_point(space(ranges), SETTING, points.GRID_PLACES)))
    # A search that ends early has seen all of its parts: the first tenth holds more than one value of each parameter
    # that varies.
    assert all(len({point[name] for point in first[:5]}) > 1 for name in ("share", "rate", "layers"))
    program = (  # as a driver of its own
        "import json; from tests.tune.search.test_points import *; "
        "print(json.dumps(points.grid(space(ranges), SETTING, 1)))"
    )
    paths = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    said = subprocess.run([sys.executable, "-c", paths + program], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == first
