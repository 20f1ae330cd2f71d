"""A search starts from trials that exist: another run's (`--learn-from`), or the run's own if its space was changed.

A trial is placed in a space by asking the space once more and answering from the trial: its parameters, else its
recipe's values. So a parameter that the old space did not vary is known, too: it had the recipe's value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from maskcls.recipe import Recipe
from search_spaces import Choices, Domain, Floats, Setting, Space, Suggester
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.runs.record import SearchRecord
from tune.runs.study import COPYING, IMPORTED, RECIPE, is_own, trial_id, trials_of
from tune.search.plan import SearchPlan
from tune.search.samplers import distribution_of

SPACE = "space"
"""Attribute of a study: which space its parameters are of."""
_LATEST = 100
"""Trials enough to draw each parameter; a study may have thousands."""
_SCORED_STATES = (OptunaState.COMPLETE, OptunaState.PRUNED)


class _OutsideError(Exception):
    """There is no value for a parameter, or one outside its domain."""


@dataclass
class SpacePoint(Suggester):
    """A point of a space with its distributions. Answers from values, and raises if one does not fit."""

    values: Mapping[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)

    def answer(self, name: str, domain: Domain) -> Any:
        if name not in self.values or not _holds(domain, self.values[name]):
            raise _OutsideError(name)
        self.params[name], self.distributions[name] = self.values[name], distribution_of(domain)
        return self.values[name]


def _holds(domain: Domain, value: Any) -> bool:
    """Whether the domain has the value."""
    if isinstance(domain, Choices):
        return value in domain.values
    within = isinstance(value, int | float) and domain.low <= value <= domain.high
    return within and (isinstance(domain, Floats) or int(value) == value)


def place(space: Space, setting: Setting, values: Mapping[str, Any]) -> SpacePoint | None:
    """Return the values as a point of the space; None if they are not one.

    All parameters or none: a trial with some of them would make TPE's grouping model the others apart from these.
    """
    placed = SpacePoint(values)
    try:
        space.suggest(placed, setting)
    except _OutsideError:
        return None
    return placed


@dataclass(frozen=True)
class ImportedTrials:
    """What was imported from another run."""

    run: str
    trials: int
    """Of its trials with a score, those that are points of this space."""
    of: int
    differs: tuple[str, ...]
    """What its scores depend on and is different here, as in `image_size 64, here 112`."""

    def __str__(self) -> str:
        text = f"Learnt from {self.run}: {self.trials} of {self.of} trials with a score are points of this space."
        return f"{text} Its scores are of another kind: {'; '.join(self.differs)}." if self.differs else text


def import_trials(
    study: optuna.Study, plan: SearchPlan, sources: Sequence[Path], own: SearchRecord
) -> list[ImportedTrials]:
    """Put other runs' trials into the study, each once, only for the sampler: they do not count as trials of this run.

    Args:
        own: what this run says of itself.
    """
    there = {trial.user_attrs[IMPORTED] for trial in study.get_trials(deepcopy=False) if IMPORTED in trial.user_attrs}
    imported = []
    for source in sources:
        run = SearchRun(source)
        if not run.record_file.exists():  # the run was deleted since; what was imported from it is kept
            continue
        scored = [t for t in trials_of(run) if is_own(t) and t.state in _SCORED_STATES and _is_scored(t)]
        placed = 0
        for trial in scored:
            origin = f"{run.path}/{trial_id(trial.number)}"
            point = _place_trial(plan, trial)
            placed += point is not None
            if point is not None and origin not in there:
                study.add_trial(_copy(trial, point, {IMPORTED: origin, RECIPE: trial.user_attrs[RECIPE]}))
        imported.append(ImportedTrials(run.name, placed, len(scored), tuple(_differences(run.record(), own))))
    return imported


def study_for_space(study: optuna.Study, plan: SearchPlan, fingerprint: str) -> optuna.Study:
    """Return the study if it was begun with the plan's space, otherwise a copy whose parameters are of that space.

    Args:
        fingerprint: identifies the plan's space, except that another version may have changed it.
    """
    before = study.user_attrs.get(SPACE)
    if before is not None and (before != fingerprint or not _has_same_domains(study, plan)):
        study = widen(study, plan, fingerprint)
    elif before is None:
        study.set_user_attr(SPACE, fingerprint)
    return study


def _has_same_domains(study: optuna.Study, plan: SearchPlan) -> bool:
    """Whether the parameters of the study's latest trials have the domains that the space has now."""
    for trial in study.get_trials(deepcopy=False)[-_LATEST:]:
        if not trial.distributions or RECIPE not in trial.user_attrs:
            continue
        point = _place_trial(plan, trial)
        if point is None or not trial.distributions.items() <= point.distributions.items():
            return False
    return True


def widen(study: optuna.Study, plan: SearchPlan, fingerprint: str = "") -> optuna.Study:
    """Copy the study, its trials keeping their numbers, as points of the plan's space.

    A new study is needed because Optuna does not let a parameter change its choices. A trial that is not a point of the
    new space keeps its number and its score, but has no parameters, so samplers ignore it.
    """
    storage = storage_of(study)
    names = optuna.get_all_study_names(storage)
    wider = optuna.create_study(study_name=f"{names[0]}+{len(names)}", storage=storage, direction=study.direction)
    wider.set_user_attr(SPACE, fingerprint)
    for trial in study.get_trials(deepcopy=False):
        point = _place_trial(plan, trial) if RECIPE in trial.user_attrs else None
        wider.add_trial(_copy(trial, point, trial.user_attrs))
    wider.set_user_attr(COPYING, False)  # a copy without this mark, left by a killed driver, is ignored
    return wider


def _place_trial(plan: SearchPlan, trial: FrozenTrial) -> SpacePoint | None:
    recipe = Recipe.model_validate(trial.user_attrs[RECIPE])
    return place(plan.space, plan.setting, {**recipe.flat(), **trial.params})


def _is_scored(trial: FrozenTrial) -> bool:
    return bool(trial.intermediate_values) or bool(trial.constraints)


def _copy(trial: FrozenTrial, point: SpacePoint | None, user_attrs: Mapping[str, Any]) -> FrozenTrial:
    """Copy the trial for another study, without what a sampler noted for itself."""
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


def _differences(theirs: SearchRecord, ours: SearchRecord) -> list[str]:
    """List what makes scores of two runs incomparable: other people, or another base recipe."""
    found = []
    if theirs.data.digest != ours.data.digest:
        found.append("other photos")
    elif theirs.split_digest != ours.split_digest:
        found.append("other people in training and validation")
    base, own = theirs.base_recipe, ours.base_recipe
    found += [
        f"{key} {base[key]}, here {own[key]}"
        for key in ("image_size", "epochs")
        if key in base and base.get(key) != own.get(key)
    ]
    return found
