"""A space is tried out before anything is begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maskcls.errors import CallError
from maskcls.training.presets import preset
from search_spaces import Setting, Space
from tune.search.plan import SearchPlan, vet


def plan(suggest: Callable[..., Any]) -> SearchPlan:
    return SearchPlan(
        Space("mine", "Does it work?", suggest, lambda setting: []), Setting("cpu"), preset("contest-2021", "cpu")
    )


def wrong_key(trial: Any, setting: Setting) -> dict[str, Any]:
    return {"lr_hed": trial.suggest_float("lr_hed", 1e-4, 1e-2)}


def out_of_range(trial: Any, setting: Setting) -> dict[str, Any]:
    return {"frozen_stages": trial.suggest_int("frozen_stages", 3, 9)}


def no_return(trial: Any, setting: Setting) -> None:
    trial.suggest_float("lr_head", 1e-4, 1e-2)


def broken(trial: Any, setting: Setting) -> dict[str, Any]:
    return {"lr_head": 1 / 0}


@pytest.mark.parametrize(
    ("suggest", "message"),
    [
        (wrong_key, "Space mine gives an invalid recipe.*no key 'lr_hed'. Did you mean lr_head"),
        (out_of_range, "Space mine gives an invalid recipe.*frozen_stages: .*less than or equal to 5, but got"),
        (no_return, "Space mine's suggest must return a dict of recipe values, but it returned None"),
        (broken, "Space mine cannot draw a trial: ZeroDivisionError: division by zero"),
    ],
)
def test_a_space_that_gives_no_recipe_is_refused(suggest: Callable[..., Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        vet(plan(suggest))
