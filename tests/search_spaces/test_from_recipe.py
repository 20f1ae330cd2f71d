"""A space knows every trial and every preset whose recipe it could have drawn, whichever space they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import search_spaces
from maskcls.recipe import MEMBERS, Recipe
from maskcls.training.equivalence import differing_keys
from maskcls.training.presets import PRESETS, preset
from search_spaces import Setting, Space, Suggest
from tests.search_spaces.draws import drawn
from tune.search.plan import SearchPlan
from tune.search.warm_start import place_recipe

SCALES = ("cpu", "gpu")
N_DRAWS = 25
INTO = {
    "backbones": ("everything",),
    "freezing": ("backbones", "everything"),
    "task_split": ("everything",),
    "augmentation": ("everything",),
    "imbalance": ("everything",),
    "everything": (),
}
"""The wider spaces, which draw every parameter of a narrower one, and from the same values."""
STRENGTHS = ("cpu",)
"""Scales at which `augmentation` and `everything` ask for the same: the GPU scale's draws each strength by itself."""


def plan_of(name: str, scale: str, base: Recipe | None = None) -> SearchPlan:
    return SearchPlan(search_spaces.get(name), Setting(scale), base or preset("contest-2021", scale))  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", search_spaces.names())
def test_a_spaces_draws_are_known_to_it_and_to_every_wider_space(name: str, scale: str) -> None:
    space, setting = search_spaces.get(name), Setting(scale)  # type: ignore[arg-type]
    names = set(space.parameters(setting))
    wider = [other for other in search_spaces.names() if names <= set(search_spaces.get(other).parameters(setting))]
    into = INTO[name] if scale in STRENGTHS or name != "augmentation" else ()
    assert sorted(wider) == sorted((name, *into))
    plans = {other: plan_of(other, scale) for other in wider}
    for params, recipe in drawn(space, setting, N_DRAWS):
        for other, plan in plans.items():
            found = place_recipe(plan, recipe)
            assert found.point is not None, (other, params, found.differs)
            assert differing_keys(Recipe.model_validate(plan.recipe(found.point.overrides)), recipe) == ()
            shared = {key: value for key, value in params.items() if isinstance(value, str | int)}
            if params.get("augmentation") != "none":  # a strength drawn as 0 is none
                assert shared.items() <= found.point.params.items()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("chosen", PRESETS)
@pytest.mark.parametrize("name", search_spaces.names())
def test_every_preset_is_known_to_every_space(name: str, chosen: str, scale: str) -> None:
    base = preset(chosen, scale)
    found = place_recipe(plan_of(name, scale, base), base)
    assert found.point is not None, found.differs


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", search_spaces.names())
def test_a_parameter_that_is_no_recipe_key_is_found_in_a_recipe(name: str, scale: str) -> None:
    space, setting = search_spaces.get(name), Setting(scale)  # type: ignore[arg-type]
    no_keys = {
        key for key in space.parameters(setting) if key not in Recipe.model_fields and not key.startswith(f"{MEMBERS}.")
    }
    assert no_keys <= set(space.from_recipe(preset("contest-2021", scale).flat(), setting))


@pytest.mark.parametrize(
    "pins",
    [
        {"augment_rotate_degrees": 3.0},
        {"augment_flip": 0.5},
        {"augment_flip": 0.5, "augment_probability": 0.5},
        {"augmentation": "geometry"},
        {"augmentation": "both", "augment_colour": 0.5},
    ],
)
def test_a_pinned_spaces_draws_are_known_to_it(pins: Mapping[str, Any]) -> None:
    setting = Setting("cpu")
    space = search_spaces.get("augmentation").pinned(pins)
    explicit = {key: value for key, value in pins.items() if key in Recipe.model_fields}
    plan = SearchPlan(space, setting, preset("contest-2021", "cpu").override(explicit), explicit)
    for params, overrides in drawn(space, setting, N_DRAWS):
        found = place_recipe(plan, plan.base.override({**overrides.model_dump(), **explicit}))
        assert found.point is not None, (params, found.differs)


def test_a_recipe_that_a_space_cannot_make_is_none_of_its_points() -> None:
    base = preset("contest-2021", "cpu")
    plan = plan_of("augmentation", "cpu")
    uneven = base.override({"augment_rotate_degrees": 30.0})
    assert place_recipe(plan, uneven).differs == ("augment_geometry",)
    strong = base.override({key: 3 * value for key, value in base.model_dump().items() if key == "augment_noise"})
    assert place_recipe(plan, strong).differs == ("augment_colour",)
    assert place_recipe(plan, base.override({"sampler": "weighted", "lr_head": 0.1})).differs == ("sampler", "lr_head")


def numbered(trial: Suggest, setting: Setting) -> dict[str, Any]:
    return {"lr_head": 10.0 ** -trial.suggest_int("lr_step", 1, 5)}


def test_a_trials_own_parameters_are_asked_before_its_recipe() -> None:
    """A user's space that cannot find its parameters in a recipe still knows its own trials."""
    base = preset("contest-2021", "cpu")
    plan = SearchPlan(Space("numbered", "?", numbered), Setting("cpu"), base)
    recipe = base.override({"lr_head": 1e-2})
    own = place_recipe(plan, recipe, {"lr_step": 2}).point
    assert own is not None
    assert own.params == {"lr_step": 2}
    assert place_recipe(plan, recipe).differs == ("lr_step",)
    assert place_recipe(plan, recipe, {"lr_step": 3}).differs == ("lr_step",)


def test_a_parameter_of_the_same_name_in_another_space_does_not_mislead() -> None:
    def drops(trial: Suggest, setting: Setting) -> dict[str, Any]:
        return {"head_dropout": trial.suggest_float("head_dropout", 0.0, 0.7)}

    base = preset("contest-2021", "cpu")
    found = place_recipe(SearchPlan(Space("drops", "?", drops), Setting("cpu"), base), base, {"head_dropout": 0.1})
    assert found.point is not None
    assert found.point.params == {"head_dropout": base.head_dropout}
