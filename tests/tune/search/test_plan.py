"""A space is tried out before anything is begun, and a plan says how many trials a model will suggest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from optuna.trial import TrialState as OptunaState

from maskcls.data.augment import Augmenter
from maskcls.errors import CallError
from maskcls.recipe import N_STAGES, Recipe
from maskcls.training.presets import VIEWS, preset
from search_spaces import NAMES, Setting, Space, get
from tests.tune.asked import ask, begin, plan_of, report, search
from tests.tune.searches import new_run
from tests.tune.synthetic import SPACE
from tests.tune.two_spaces import ended_every_way
from tune.runs.study import POINT, SAMPLED, open_study, records
from tune.search.dry_run import sampler_line
from tune.search.first_trials import enqueue_initial_trials, initial_left
from tune.search.plan import GP, HAND_OVER_S, RANDOM, TPE, SearchPlan, modelled, pinned_space, vet
from tune.search.warm_start import n_importable, widen
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
    assert modelled(plan, ahead=2, unknown=1) == 1, "a preset outside the space teaches it nothing"
    assert modelled(plan, ahead=0, known=8, begun=8) == 2


def test_the_plan_says_who_suggests() -> None:
    ahead = initial_left((), plan_of(SPACE, 12))
    assert sampler_line(plan_of(SPACE, 12, sampler=RANDOM), 12, ahead, 0, 0) == "Suggested by random."
    said = sampler_line(plan_of(SPACE, 12, sampler=TPE, random_start=10), 12, ahead, 0, 0)
    assert said == (
        "Suggested by tpe: its model needs 10 trials with a score, and has 0. So 2 of 12 trials are "
        "suggested by the model, 8 at random; 2 are the preset and known points."
    )
    assert sampler_line(plan_of(SPACE, 12, sampler=GP), None, ahead, 0, 4) == (
        "Suggested by gp: its model needs 10 trials with a score, and has 4."
    )


def test_a_wider_space_tries_its_own_points_before_the_model_is_asked(tmp_path: Path) -> None:
    """And `--plan` of a resume says so: as many as the driver enqueues then, and the trials that were left running."""
    run = new_run(tmp_path)
    search(plan_of(get("freezing"), 6), run)
    study, wider = open_study(run), plan_of(get("everything"), 12)
    assert initial_left(study.trials, plan_of(get("freezing"), 12)) == []
    study.ask()
    ahead = initial_left(study.trials, wider)
    n = len(wider.space.points(wider.setting))
    assert ahead == [SAMPLED, *(f"{POINT} {number}" for number in range(1, n + 1))]
    widen(study, wider)
    enqueue_initial_trials(open_study(run), wider)
    assert len(initial_left(open_study(run).trials, wider)) == n + 1
    waiting = [trial for trial in open_study(run).trials if trial.state == OptunaState.WAITING]
    assert len(waiting) == n
    assert sampler_line(wider, 6, ahead, 6, 6) == (
        f"Suggested by tpe: its model needs 4 trials with a score, and has 6. So {5 - n} of 6 trials are "
        f"suggested by the model, 0 at random; {n + 1} are the preset and known points, or were begun before."
    )


def of_space(name: str, scale: Literal["cpu", "gpu"], explicit: dict[str, Any], **values: Any) -> SearchPlan:
    setting = Setting(scale)
    space, _ = pinned_space(get(name), explicit, setting)
    return SearchPlan(space, setting, preset("contest-2021", scale).override(explicit), explicit, **values)


@pytest.mark.parametrize("scale", ["cpu", "gpu"])
@pytest.mark.parametrize("name", NAMES)
def test_views_are_fixed_exactly_where_all_of_the_backbone_is_frozen(name: str, scale: Literal["cpu", "gpu"]) -> None:
    plan = of_space(name, scale, {})
    assert plan.recipe({})["views"] == VIEWS, "the preset's backbone is frozen"
    for recipe in map(Recipe.model_validate, vet(plan)):
        frozen = all(recipe.of_model(tasks).frozen_stages == N_STAGES for tasks in recipe.split.models)
        augmented = bool(Augmenter(recipe.augmentation, 0).transforms)
        assert recipe.views == (VIEWS if frozen and augmented and recipe.mix == "none" else 0), recipe


def test_views_that_no_other_trial_shares_are_fixed_where_the_fit_draws_them_repeatedly() -> None:
    """`augmentation` varies the augmentation, so every trial has views of its own."""
    found = [of_space("augmentation", "cpu", {"epochs": n}).recipe({})["views"] for n in (VIEWS, VIEWS + 1)]
    assert found == [0, VIEWS]
    assert of_space("imbalance", "cpu", {"epochs": 2}).recipe({})["views"] == VIEWS


def test_stated_views_win() -> None:
    for views in (0, 7):
        assert of_space("imbalance", "cpu", {"views": views}).recipe({})["views"] == views
    own = replace(of_space("imbalance", "cpu", {}), space=Space("mine", "?", lambda trial, setting: {}, lambda _: []))
    assert own.recipe({"views": 2})["views"] == 2


def test_a_run_from_before_the_rule_keeps_its_recipes() -> None:
    """There `freezing` had four views behind any frozen stage, and the other spaces none that are fixed."""
    before = of_space("freezing", "cpu", {}, fixes_views=False)
    assert [before.recipe({"frozen_stages": n})["views"] for n in (0, 1, 5)] == [0, VIEWS, VIEWS]
    assert before.recipe({})["views"] == 0, "the preset, trial 0"
    assert of_space("backbones", "cpu", {}, fixes_views=False).recipe({"frozen_stages": 5})["views"] == 0


@pytest.mark.parametrize(("took_s", "left_s"), [(0.0, 275.0), (40.0, 235.0), (125.0, 150.0), (1000.0, 150.0)])
def test_a_time_budget_begins_with_the_command_and_leaves_half_for_the_search(
    took_s: float, left_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert HAND_OVER_S == 25.0
    monkeypatch.setattr("tune.search.plan.time.monotonic", lambda: 5000.0 + took_s)
    assert plan_of(SPACE, 3, time_budget_s=300.0).after_preparation(called_at=5000.0).time_budget_s == left_s
    assert plan_of(SPACE, 3, time_budget_s=None).after_preparation(called_at=5000.0).time_budget_s is None
