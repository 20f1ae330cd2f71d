"""What is known is not forgotten: another run's trials for the sampler to know (`--learn-from`), and a run's own under a wider space.

A trial is placed in a space by asking the space once more and answering from the trial: its parameters, else its recipe's values. So
a parameter that the old space did not vary is known, too: it had the recipe's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from maskcls.recipe import Recipe
from search_spaces import Setting, Space
from tune.runs.folder import SearchRun
from tune.runs.study import COPYING, IMPORTED, RECIPE, is_own, trial_id, trials_of
from tune.search.plan import SearchPlan

SPACE = "space"
"""Attribute of a study: which space its parameters are of."""
_LEARNT_STATES = (OptunaState.COMPLETE, OptunaState.PRUNED)


class _OutsideError(Exception):
    """There is no value for a parameter, or one outside its domain."""


@dataclass
class SpacePoint:
    """A point of a space, and the distributions it is of. A Suggest that answers from values, and raises where it can't."""

    values: Mapping[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._answer(
            name, name in self.values and self.values[name] in choices, CategoricalDistribution(choices)
        )

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, self._within(name, low, high), FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        whole = self._within(name, low, high) and int(self.values[name]) == self.values[name]
        return int(self._answer(name, whole, IntDistribution(low, high)))

    def _within(self, name: str, low: float, high: float) -> bool:
        value = self.values.get(name)
        return isinstance(value, int | float) and low <= value <= high

    def _answer(self, name: str, inside: bool, distribution: BaseDistribution) -> Any:
        if not inside:
            raise _OutsideError(name)
        self.params[name], self.distributions[name] = self.values[name], distribution
        return self.values[name]


def place(space: Space, setting: Setting, values: Mapping[str, Any]) -> SpacePoint | None:
    """The values as a point of the space; None where they are none.

    All parameters or none: a trial with some of them would make TPE's grouping model the others apart from these.
    """
    placed = SpacePoint(values)
    try:
        space.suggest(placed, setting)
    except _OutsideError:
        return None
    return placed


@dataclass(frozen=True)
class Learnt:
    """What was learnt from another run."""

    run: str
    trials: int
    """Of its trials with a score, those that are points of this space."""
    of: int
    differs: tuple[str, ...]
    """What its scores hang on and is otherwise here, as in `image_size 64, here 112`."""

    def __str__(self) -> str:
        told = f"Learnt from {self.run}: {self.trials} of {self.of} trials with a score are points of this space."
        return f"{told} Its scores are of another kind: {'; '.join(self.differs)}." if self.differs else told


def learn(study: optuna.Study, plan: SearchPlan, sources: Sequence[Path], own: Mapping[str, Any]) -> list[Learnt]:
    """Put other runs' trials into the study, each once, for the sampler alone: they count as no trials of this run.

    Args:
        own: this run's search.json.
    """
    had = {trial.user_attrs[IMPORTED] for trial in study.get_trials(deepcopy=False) if IMPORTED in trial.user_attrs}
    told = []
    for source in sources:
        run = SearchRun(source)
        if not run.record_file.exists():  # taken away since; what was learnt from it is kept
            continue
        scored = [t for t in trials_of(run) if is_own(t) and t.state in _LEARNT_STATES and _scored(t)]
        placed = 0
        for trial in scored:
            origin = f"{run.path}/{trial_id(trial.number)}"
            point = _place_trial(plan, trial)
            placed += point is not None
            if point is not None and origin not in had:
                study.add_trial(_copy(trial, point, {IMPORTED: origin, RECIPE: trial.user_attrs[RECIPE]}))
        told.append(Learnt(run.name, placed, len(scored), tuple(_differences(run.search(), own))))
    return told


def under(study: optuna.Study, plan: SearchPlan, fingerprint: str) -> optuna.Study:
    """The study under the plan's space: itself, or where it was begun under another one, a copy.

    Args:
        fingerprint: tells one space from another.
    """
    before = study.user_attrs.get(SPACE)
    if before is not None and before != fingerprint:
        study = widen(study, plan, fingerprint)
    elif before is None:
        study.set_user_attr(SPACE, fingerprint)
    return study


def widen(study: optuna.Study, plan: SearchPlan, fingerprint: str = "") -> optuna.Study:
    """A study of the same trials, under the same numbers, as points of the plan's space: Optuna lets no parameter change its choices.

    A trial that is no point of the new space keeps its number and its score, and tells the sampler nothing.
    """
    names = optuna.get_all_study_names(study._storage)
    wider = optuna.create_study(
        study_name=f"{names[0]}+{len(names)}", storage=study._storage, direction=study.direction
    )
    wider.set_user_attr(SPACE, fingerprint)
    for trial in study.get_trials(deepcopy=False):
        point = _place_trial(plan, trial) if RECIPE in trial.user_attrs else None
        wider.add_trial(_copy(trial, point, trial.user_attrs))
    wider.set_user_attr(COPYING, False)  # one that a killed driver leaves without is never taken for whole
    return wider


def _place_trial(plan: SearchPlan, trial: FrozenTrial) -> SpacePoint | None:
    recipe = Recipe.model_validate(trial.user_attrs[RECIPE])
    return place(plan.space, plan.setting, {**recipe.flat(), **trial.params})


def _scored(trial: FrozenTrial) -> bool:
    return bool(trial.intermediate_values) or bool(trial.constraints)


def _copy(trial: FrozenTrial, point: SpacePoint | None, user_attrs: Mapping[str, Any]) -> FrozenTrial:
    """The trial as another study may have it. What a sampler noted for itself stays behind."""
    kept = {
        key: value
        for key, value in trial.system_attrs.items()
        if key == "fixed_params" or key.startswith("constraints")
    }
    return create_trial(
        state=trial.state,
        value=trial.value,
        params=point.params if point else {},
        distributions=point.distributions if point else {},
        user_attrs=dict(user_attrs),
        system_attrs=kept,
        intermediate_values=trial.intermediate_values,
    )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """What makes scores of two runs incomparable: other people, or another base recipe."""
    told = []
    if theirs.get("data", {}).get("digest") != ours.get("data", {}).get("digest"):
        told.append("other photos")
    elif theirs.get("split_digest") != ours.get("split_digest"):
        told.append("other people in training and validation")
    base, own = theirs.get("base_recipe", {}), ours.get("base_recipe", {})
    told += [
        f"{key} {base[key]}, here {own[key]}"
        for key in ("image_size", "epochs")
        if key in base and base.get(key) != own.get(key)
    ]
    return told
