"""A search starts from trials that exist: another run's (`--learn-from`), or the run's own if its space was changed.

A trial is placed in a space by asking the space once more and answering from the trial: from its recipe's values, from
what the space finds in that recipe (`Space.from_recipe`), and from the trial's own parameters. So a parameter that the
old space did not vary is known, too: it had the recipe's value. The trial is a point of the space only if the recipe
that the space makes from these answers trains the same as its own (`maskcls.training.equivalence`): otherwise its score
would be taken for that of another recipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from maskcls.data.dataset import SPLIT
from maskcls.data.splits import SIDES, Split
from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.text import counted, first
from maskcls.training.equivalence import differing_keys
from search_spaces import Choices, Domain, Floats, Setting, Space, Suggester
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.runs.study import COPYING, IMPORTED, ORIGIN, PRESET, RECIPE, SPACE, is_own, new_study, trial_id, trials_of
from tune.search.plan import SearchPlan
from tune.search.samplers import distribution_of

_LATEST = 100
"""Trials enough to draw each parameter; a study may have thousands."""
_SCORED_STATES = (OptunaState.COMPLETE, OptunaState.PRUNED)
_NAMED_KEYS = 6


class OutsideError(Exception):
    """There is no value for a parameter, or one outside its domain. Its text is the parameter's name."""


@dataclass
class SpacePoint(Suggester):
    """A point of a space with its distributions. Answers from values, and raises if one does not fit."""

    values: Mapping[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """The recipe's values that the space made of the answers."""

    def answer(self, name: str, domain: Domain) -> Any:
        if name not in self.values or not _holds(domain, self.values[name]):
            raise OutsideError(name)
        self.params[name], self.distributions[name] = self.values[name], distribution_of(domain)
        return self.values[name]


def _holds(domain: Domain, value: Any) -> bool:
    """Whether the domain has the value."""
    if isinstance(domain, Choices):
        return value in domain.values
    within = isinstance(value, int | float) and domain.low <= value <= domain.high
    return within and (isinstance(domain, Floats) or int(value) == value)


def place(space: Space, setting: Setting, values: Mapping[str, Any]) -> SpacePoint:
    """Return the values as a point of the space. Raises OutsideError naming the parameter for which there is no value.

    All parameters or none: a trial with some of them would make TPE's grouping model the others apart from these.
    """
    placed = SpacePoint(values)
    placed.overrides = space.suggest(placed, setting)
    return placed


@dataclass(frozen=True)
class Placement:
    """Where a recipe lies in a space, or why it is not one of its points."""

    point: SpacePoint | None
    differs: tuple[str, ...] = ()
    """Without a point: the parameter that has no value in the space, or the keys in which the recipe would differ."""


def place_recipe(plan: SearchPlan, recipe: Recipe, params: Mapping[str, Any] | None = None) -> Placement:
    """Find the point of the plan's space that makes this recipe.

    Args:
        params: parameters that the recipe's trial had, in this space or in another one.
    """
    known = plan.values_of(recipe)
    # A trial's own parameters go first: they are exact, and a space need not find them in a recipe. But in another
    # space the same name may mean something else; then the recipe alone is asked.
    found = Placement(None)
    for values in ({**known, **params}, known) if params else (known,):
        found = _placed(plan, recipe, values)
        if found.point is not None:
            break
    return found


def _placed(plan: SearchPlan, recipe: Recipe, values: Mapping[str, Any]) -> Placement:
    try:
        point = place(plan.space, plan.setting, values)
        differs = differing_keys(Recipe.model_validate(plan.recipe(point.overrides)), recipe)
    except OutsideError as error:
        return Placement(None, (str(error),))
    except CallError:  # a rare recipe of a user-supplied space, which `vet` did not come upon
        return Placement(None, ("values that are not valid together",))
    return Placement(None if differs else point, differs)


def place_trial(plan: SearchPlan, trial: FrozenTrial) -> Placement:
    """Find the point of the plan's space that makes the trial's recipe."""
    return place_recipe(plan, Recipe.checked(trial.user_attrs[RECIPE]), trial.params)


def preset_params(plan: SearchPlan) -> dict[str, Any]:
    """Return the preset's recipe as a point of the plan's space, for the sampler to learn from; {} if it is not one."""
    point = place_recipe(plan, plan.base).point
    return {} if point is None else point.params


@dataclass(frozen=True)
class KnownTrials:
    """How many trials with a score are points of a space, and what keeps the others from being points."""

    known: int
    of: int
    differs: Mapping[str, int] = field(default_factory=dict)
    """Trials that differ in each key; one trial may differ in several."""

    @classmethod
    def count(cls, placements: Iterable[Placement]) -> KnownTrials:
        """Count the placements of trials with a score."""
        placed = list(placements)
        known = sum(placement.point is not None for placement in placed)
        return cls(known, len(placed), Counter(key for placement in placed for key in placement.differs))

    def __str__(self) -> str:
        """As in `9 of 12 trials with a score are known to this space; what differs: backbone (2), image_size (1).`"""
        text = f"{self.known} of {counted(self.of, 'trial')} with a score are known to this space"
        keys = sorted(self.differs, key=lambda key: -self.differs[key])
        listed = first([f"{key} ({self.differs[key]})" for key in keys], _NAMED_KEYS)
        return f"{text}; what differs: {listed}." if keys else f"{text}."


def known_trials(plan: SearchPlan, run: SearchRun) -> KnownTrials:
    """Count the run's own trials, and which of them are points of the plan's space. The run is only read."""
    return KnownTrials.count(place_trial(plan, trial) for trial in _scored_trials(run))


@dataclass(frozen=True)
class ImportedTrials:
    """What was imported from another run."""

    run: str
    trials: KnownTrials
    """Of its trials, those that are points of this space."""
    warning: str = ""
    """What is different here of the photos and people by which its trials were scored."""

    def __str__(self) -> str:
        return f"Learnt from {self.run}: {self.trials}{self.warning and ' '}{self.warning}"


def import_trials(
    study: optuna.Study, plan: SearchPlan, sources: Sequence[Path], own: SearchRun
) -> list[ImportedTrials]:
    """Put other runs' trials into the study, each once, only for the sampler: they do not count as trials of this run.

    Args:
        own: this run, whose photos and people are compared with the others'.
    """
    there = {trial.user_attrs[IMPORTED] for trial in study.get_trials(deepcopy=False) if IMPORTED in trial.user_attrs}
    imported = []
    for source in sources:
        run = SearchRun(source)
        if not run.record_file.exists():  # the run was deleted since; what was imported from it is kept
            continue
        placements = []
        for trial in _scored_trials(run):
            origin = f"{run.path}/{trial_id(trial.number)}"
            placements.append(place_trial(plan, trial))
            point = placements[-1].point
            if point is not None and origin not in there:
                study.add_trial(_copy(trial, point, {IMPORTED: origin, RECIPE: trial.user_attrs[RECIPE]}))
        imported.append(ImportedTrials(run.name, KnownTrials.count(placements), _other_people(run, own)))
    return imported


def n_importable(plan: SearchPlan) -> int:
    """Count the trials of other runs that a new search of this plan would import. The runs are only read."""
    runs = [SearchRun(source) for source in plan.learn_from]
    return sum(place_trial(plan, trial).point is not None for run in runs for trial in _scored_trials(run))


def _scored_trials(run: SearchRun) -> list[FrozenTrial]:
    return [trial for trial in trials_of(run) if is_own(trial) and _is_scored(trial)]


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
        point = place_trial(plan, trial).point
        if point is None or not trial.distributions.items() <= point.distributions.items():
            return False
    return True


def widen(study: optuna.Study, plan: SearchPlan, fingerprint: str = "") -> optuna.Study:
    """Copy the study, its trials keeping their numbers, as points of the plan's space.

    A new study is needed because Optuna does not let a parameter change its choices. A trial that is not a point of the
    new space keeps its number and its score, but has no parameters, so samplers ignore it. The preset that still waits
    is enqueued as the point of the new space that it is: what it lacked would be drawn, and not be its recipe's.
    """
    storage = storage_of(study)
    names = optuna.get_all_study_names(storage)
    wider = new_study(f"{names[0]}+{len(names)}", storage)
    wider.set_user_attr(SPACE, fingerprint)
    for trial in study.get_trials(deepcopy=False):
        if RECIPE not in trial.user_attrs and trial.user_attrs.get(ORIGIN) == PRESET:
            wider.enqueue_trial(preset_params(plan), user_attrs=trial.user_attrs)
            continue
        point = place_trial(plan, trial).point if RECIPE in trial.user_attrs else None
        wider.add_trial(_copy(trial, point, trial.user_attrs))
    wider.set_user_attr(COPYING, False)  # a copy without this mark, left by a killed driver, is ignored
    return wider


def _is_scored(trial: FrozenTrial) -> bool:
    """Whether the trial tells a sampler something: it has a score, or is infeasible."""
    return trial.state in _SCORED_STATES and bool(trial.intermediate_values or trial.constraints)


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


def _other_people(theirs: SearchRun, own: SearchRun) -> str:
    """Say what is different of the photos and people that the other run's scores depend on; "" if they are the same.

    Its trials were chosen by its validation people. Those of them who are in this run's holdout take part in this
    search through what it learns, so its holdout score would be too good.
    """
    record, ours = theirs.record(), own.record()
    said = ["It has other photos."] if record.data.digest != ours.data.digest else []
    if record.split_digest == ours.split_digest:
        return " ".join(said)
    said.append("Its scores are of other validation people")
    there, here = _split_of(theirs), _split_of(own)
    if there is None or here is None:
        return " ".join(said) + "."
    validation = set(there.validation)
    sides = {side: len(validation.intersection(here.side(side))) for side in SIDES}
    said[-1] += (
        f": of {len(validation)} people, {sides['validation']} are validation people here too, and {sides['train']} "
        "are trained on."
    )
    if sides["holdout"]:
        said.append(
            f"{counted(sides['holdout'], 'of them is', 'of them are')} in this run's holdout, which is therefore not "
            f"unseen: its score will be too good. A new run with --split {theirs.data / SPLIT} avoids that."
        )
    return " ".join(said)


def _split_of(run: SearchRun) -> Split | None:
    """The run's split of the people; None if it has none yet."""
    file = run.data / SPLIT
    return Split.load(file) if file.exists() else None
