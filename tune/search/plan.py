"""SearchPlan: what a search will do, decided before anything is begun."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.training import presets
from search_spaces import Choices, Domain, Floats, Setting, Space, SpaceError, Suggest, Suggester

TPE: Final = "tpe"
RANDOM: Final = "random"
GP: Final = "gp"
CMAES: Final = "cmaes"
GRID: Final = "grid"
Sampler = Literal["tpe", "random", "gp", "cmaes", "grid"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)
ASHA: Final = "asha"
MEDIAN: Final = "median"
NONE: Final = "none"
Scheduler = Literal["asha", "median", "none"]
SCHEDULERS: tuple[Scheduler, ...] = get_args(Scheduler)
Logger = Literal["tensorboard", "mlflow", "wandb"]
LOGGERS: tuple[Logger, ...] = get_args(Logger)
MODEL_AFTER: Mapping[str, int] = {TPE: 4, GP: 10}
"""How many trials must have ended before a sampler's model suggests; until then it draws at random.

TPE's was measured (docs/luck.md): with four, searches of 12 trials find better recipes than with Optuna's ten, whether
one trial runs at a time or four do, and longer searches are no worse. So it need not depend on the number of trials,
and a search that is extended suggests what one search of all these trials would. GP has Optuna's own number.
"""
CLOSE = 0.05
"""By what share of the time budget a trial, or a fit of the choice, may exceed it, if it is expected to end by then."""
HAND_OVER_S = 25.0
"""What is kept of a time budget for the bundle, the holdout's score and the report, which took 30 to 40 s in
searches of 5 minutes on two cores (docs/anytime.md)."""
_DRAWS = 500


@dataclass(frozen=True)
class SearchPlan:
    """Args:
    space: what may vary, explicit values already pinned in it (`pinned_space`).
    setting: the scale, and which backbones have weights.
    base: preset x scale x explicit values: the recipe of trial 0, and of every trial where the space says nothing.
    explicit: the recipe's values that the call fixes; they win over the space's.
    trials: how many the run is to have in all.
    seed: the sampler's.
    parallel: trials at a time.
    cpus, gpus: of a trial.
    time_budget_s: no new trial after that many seconds; None: no bound.
    fits_after: that may follow the search (`options.fits_after`); a time budget leaves room for them.
    sampler, scheduler: what suggests trials, of SAMPLERS, and what stops those that fall behind, of SCHEDULERS.
    learn_from: runs whose trials the sampler is to know.
    random_start: how many trials must have ended before the sampler's model suggests; None: as in MODEL_AFTER.
    fits_epochs: nobody stated the epochs: a fit has fewer where the time budget is short (`tune.search.epochs`).
    fixes_views: whether photos have fixed views where that pays (`presets.fixed_views`) and nothing else says how many;
        not in a run that was begun before this was so.
    """

    space: Space
    setting: Setting
    base: Recipe
    explicit: Mapping[str, Any] = field(default_factory=dict)
    trials: int = 12
    seed: int = 0
    parallel: int = 1
    cpus: int = 1
    gpus: float = 0.0
    time_budget_s: float | None = None
    fits_after: int = 0
    sampler: str = TPE
    scheduler: str = ASHA
    learn_from: tuple[Path, ...] = ()
    random_start: int | None = None
    fits_epochs: bool = False
    fixes_views: bool = True

    @property
    def model_after(self) -> int:
        """How many trials with a score the sampler's model needs; 0 for a sampler that has none."""
        return MODEL_AFTER.get(self.sampler, 0) if self.random_start is None else self.random_start

    def left_s(self, since: float) -> float | None:
        """Seconds that are left of the time budget since a moment of the monotonic clock; None where there is none."""
        return None if self.time_budget_s is None else max(0.0, self.time_budget_s - (time.monotonic() - since))

    def after_preparation(self, called_at: float) -> SearchPlan:
        """The plan with what its time budget has left for trials and the choice, but at least half of it.

        What was prepared since the command was called, a moment of the monotonic clock, is taken off, and HAND_OVER_S.
        """
        if self.time_budget_s is None:
            return self
        left_s = self.time_budget_s - (time.monotonic() - called_at) - HAND_OVER_S
        return replace(self, time_budget_s=max(left_s, self.time_budget_s / 2))

    def draw(self, trial: Suggest) -> Mapping[str, Any]:
        """What the space suggests to a trial. Raises CallError naming the space where its code fails."""
        try:
            return self.space.suggest(trial, self.setting)
        except SpaceError as error:
            raise CallError(str(error)) from None
        except Exception as error:
            raise CallError(f"Space {self.space.name} cannot draw a trial: {type(error).__name__}: {error}.") from error

    def values_of(self, recipe: Recipe) -> dict[str, Any]:
        """Return a recipe's values by key, and the space's other parameters as they are found in it (`from_recipe`).

        Raises CallError naming the space where its code fails.
        """
        flat = recipe.flat()
        try:
            return {**flat, **self.space.from_recipe(flat, self.setting)}
        except Exception as error:
            raise CallError(
                f"Space {self.space.name} cannot find its parameters in a recipe: {type(error).__name__}: {error}. "
                "Its from_recipe must return a dict of them by name."
            ) from error

    @cached_property
    def shares_features(self) -> bool:
        """Whether trials with the same frozen stages use the same frozen features: the space varies no augmentation."""
        return not any("augment" in name for name in self.space.parameters(self.setting))

    def recipe(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """All values of a trial's recipe: base < space < explicit. Raises CallError that names the space."""
        if not isinstance(overrides, Mapping):
            raise CallError(
                f"Space {self.space.name}'s suggest must return a dict of recipe values, but it returned {overrides!r}."
            )
        try:
            recipe = self.base.override({**overrides, **self.explicit})
        except CallError as error:
            raise CallError(f"Space {self.space.name} gives an invalid recipe. {error}") from None
        if "views" in overrides or "views" in self.explicit:
            return recipe.model_dump()
        return recipe.model_copy(update={"views": self._views(recipe, overrides)}).model_dump()

    def _views(self, recipe: Recipe, overrides: Mapping[str, Any]) -> int:
        """How many views a photo has in a trial where neither the call nor the space says so."""
        if self.fixes_views:
            return presets.fixed_views(recipe, shared=self.shares_features)
        # Before there was a rule, the space freezing gave views together with the frozen stages that it drew.
        drew = self.space.name == "freezing" and "frozen_stages" in overrides
        return presets.VIEWS if drew and recipe.frozen_stages else self.base.views


def modelled(plan: SearchPlan, ahead: int, known: int = 0, begun: int = 0, unknown: int = 0) -> int:
    """Count the trials that the sampler's model will suggest, if none fails and all take equally long.

    A trial counts for the model once it has ended; of those that run at the same time, none knows the others' scores.

    Args:
        ahead: trials that are tried before any suggestion, as the preset and the space's points.
        known: trials that the sampler knows before the first one begins: other runs', and the run's own.
        begun: trials that the run has already.
        unknown: trials ahead that are no points of the space, so that no sampler learns from them.
    """
    if plan.sampler not in MODEL_AFTER:
        return 0
    ended = (max(0, place - (plan.parallel - 1)) for place in range(max(0, plan.trials - begun)))
    return sum(place >= ahead and known + n - min(unknown, n) >= plan.model_after for place, n in enumerate(ended))


def vet(plan: SearchPlan) -> list[dict[str, Any]]:
    """Draw from the space often, before anything is begun, and return the recipes' values.

    Raises CallError for the first draw that makes no valid recipe, and if the space fails at reading the preset's.
    """
    plan.values_of(plan.base)
    drawn = _Recorder()
    return [plan.recipe(plan.draw(drawn)) for _ in range(_DRAWS)]


def drawn_recipes(plan: SearchPlan) -> Iterator[Recipe]:
    """The preset's recipe, then those of many draws from the space. Draws nothing before it is asked for the first."""
    yield plan.base
    yield from map(Recipe.model_validate, vet(plan))


def geometries(plan: SearchPlan) -> set[tuple[int, str]]:
    """The kinds of decoded photos of all trials, preset and draws: image size in px and face crop."""
    drawn = _Recorder()
    base = {"image_size": plan.base.image_size, "face_crop": plan.base.face_crop}
    all_values = [base, *({**base, **plan.draw(drawn), **plan.explicit} for _ in range(_DRAWS))]
    return {(values["image_size"], values["face_crop"]) for values in all_values}


def size_of(plan: SearchPlan, backbone: str) -> int:
    """The size of the base's photos, px; of a backbone for which the space draws no size, the space's own."""
    drawn = _Recorder()
    overrides = plan.space.pinned({"backbone": backbone}).suggest(drawn, plan.setting)
    drawn_size = "image_size" in drawn.domains
    return plan.base.image_size if drawn_size else overrides.get("image_size", plan.base.image_size)


def pinned_space(space: Space, explicit: Mapping[str, Any], setting: Setting) -> tuple[Space, list[str]]:
    """The space with explicit values fixed, and which of its parameters that fixes.

    Raises CallError where nothing is left to vary.
    """
    try:
        varied = space.parameters(setting)
        pins = [name for name in varied if name in explicit]
        pinned = space.pinned(explicit) if pins else space
        left = pinned.parameters(setting)
    except SpaceError as error:
        raise CallError(str(error)) from None
    if not left:
        raise CallError(
            f"The call fixes all that space {space.name} would vary ({', '.join(pins)}). Leave one of them to the "
            "space."
        )
    unknown = {name for point in pinned.points(setting) for name in point} - set(left)
    if unknown:
        raise CallError(
            f"Space {space.name} wants points tried with parameters it never draws: {', '.join(sorted(unknown))}. "
            f"Drawn: {', '.join(left)}."
        )
    return pinned, pins


@dataclass
class Parameter:
    """A parameter as a space draws it, for people to read."""

    name: str
    domain: str
    always: bool = True
    categorical: bool = False


def parameters(space: Space, setting: Setting) -> list[Parameter]:
    """What the space draws and from where, in the order of drawing, found by drawing often.

    `always` is False for a parameter that depends on another.
    """
    drawn = _Recorder()
    for _ in range(_DRAWS):
        space.suggest(drawn, setting)
    return [
        Parameter(name, domain, drawn.times[name] >= _DRAWS, name in drawn.categorical)
        for name, domain in drawn.domains.items()
    ]


class _Recorder(Suggester):
    """Draws uniformly, always the same, and notes names and domains."""

    def __init__(self) -> None:
        self.domains: dict[str, str] = {}
        self.times: dict[str, int] = {}
        self.categorical: set[str] = set()
        self._random = random.Random(0)

    def answer(self, name: str, domain: Domain) -> Any:
        self.categorical |= {name} if isinstance(domain, Choices) and len(domain.values) > 1 else set()
        self.domains.setdefault(name, _described(domain))
        self.times[name] = self.times.get(name, 0) + 1
        return domain.draw(self._random)


def _described(domain: Domain) -> str:
    """The domain for people to read, as in `0.1 to 1, logarithmic`."""
    if isinstance(domain, Choices):
        return " | ".join(str(choice) or '""' for choice in domain.values)
    if isinstance(domain, Floats):
        return f"{domain.low:g} to {domain.high:g}{', logarithmic' if domain.log else ''}"
    return f"{domain.low} to {domain.high}"
