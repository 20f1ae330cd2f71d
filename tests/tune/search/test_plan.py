"""A space is tried out before anything is begun, and a plan says how many trials a model will suggest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskcls.errors import CallError
from maskcls.training.presets import preset
from search_spaces import Setting, Space
from tests.tune.asked import ask, begin, plan_of, report
from tests.tune.searches import new_run
from tests.tune.synthetic import SPACE
from tests.tune.two_spaces import ended_every_way
from tune.runs.study import records
from tune.search.dry_run import sampler_line
from tune.search.plan import GP, RANDOM, TPE, SearchPlan, modelled, vet
from tune.search.warm_start import n_importable
from tune.states import TrialState


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


def no_steps(recipe: Any, setting: Setting) -> dict[str, Any]:
    return {"steps": recipe["head_widht"]}


def nothing(recipe: Any, setting: Setting) -> None:
    pass


@pytest.mark.parametrize(("from_recipe", "error"), [(no_steps, "KeyError: 'head_widht'"), (nothing, "TypeError: .*")])
def test_a_space_that_cannot_read_a_recipe_is_refused(from_recipe: Callable[..., Any], error: str) -> None:
    def steps(trial: Any, setting: Setting) -> dict[str, Any]:
        return {"head_width": 2 ** trial.suggest_int("steps", 3, 6)}

    space = Space("mine", "Does it work?", steps, from_recipe=from_recipe)
    message = rf"^Space mine cannot find its parameters in a recipe: {error}\. Its from_recipe must return a dict of"
    with pytest.raises(CallError, match=message):
        vet(plan_of(space, 2))


def suggested(plan: SearchPlan, folder: Path) -> list[dict[str, Any]]:
    """Parameters of a whole search, `plan.parallel` trials at a time, which all take equally long."""
    run = new_run(folder, f"{plan.sampler}-{plan.parallel}")
    searcher, running = begin(plan, run), list[dict[str, Any]]()
    for number in range(plan.trials + plan.parallel - 1):
        if number < plan.trials:
            config = ask(searcher)
            assert config is not None
            running.append(config)
        if number >= plan.parallel - 1:
            config = running.pop(0)
            last = report(searcher, config, range(1, 5))
            searcher.on_trial_complete(config["trial"], {**last, "state": TrialState.COMPLETE})
    return [record.params for record in records(run)]


@pytest.mark.parametrize(
    ("parallel", "random_start", "n"), [(1, 10, 2), (4, 10, 0), (1, None, 8), (4, None, 5), (1, 5, 7)]
)
def test_a_plan_knows_how_many_trials_the_model_suggests(
    tmp_path: Path, parallel: int, random_start: int | None, n: int
) -> None:
    """Those that are not what the same search draws at random. The preset and the space's point are tried first."""
    values: dict[str, Any] = {"parallel": parallel, "random_start": random_start}
    by_tpe, at_random = (suggested(plan_of(SPACE, 12, sampler=s, **values), tmp_path) for s in (TPE, RANDOM))
    differing = sum(one != other for one, other in zip(by_tpe, at_random, strict=True))
    assert differing == modelled(plan_of(SPACE, 12, sampler=TPE, **values), ahead=2) == n
    assert modelled(plan_of(SPACE, 12, sampler=RANDOM, **values), ahead=2) == 0


def test_known_trials_count_for_the_model(tmp_path: Path) -> None:
    old = ended_every_way(tmp_path)
    plan = plan_of(SPACE, 12, learn_from=(old.path,), random_start=10)
    assert n_importable(plan) == 15
    assert modelled(plan, ahead=2, known=15) == 10
    assert modelled(plan, ahead=2, known=5) == 7
    assert modelled(plan, ahead=2, unknown=1) == 1, "a preset that is none of the space's points teaches it nothing"
    assert modelled(plan, ahead=0, known=8, begun=8) == 2


def test_the_plan_says_who_suggests() -> None:
    assert sampler_line(plan_of(SPACE, 12, sampler=RANDOM), 12, 0, 0) == "Suggested by random."
    said = sampler_line(plan_of(SPACE, 12, sampler=TPE, random_start=10), 12, 0, 0)
    assert said == (
        "Suggested by tpe: its model needs 10 trials with a score, 0 of which are there. So 2 of 12 trials are "
        "suggested by the model, 8 at random; 2 are the preset and known points."
    )
    assert sampler_line(plan_of(SPACE, 12, sampler=GP), None, 0, 4) == (
        "Suggested by gp: its model needs 10 trials with a score, 4 of which are there."
    )
