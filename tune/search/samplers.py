"""Who suggests: Optuna's samplers by name, new for each trial, and a draft that draws from one without writing into the study.

A sampler is made anew from (seed, trial number, attempt), so a resumed search suggests what an unbroken one would, and a suggestion
that was tried already can be drawn again.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from maskcls import seeds
from maskcls.errors import CallError
from maskcls.text import first
from search_spaces import Setting, Space
from tune.search import plan, points
from tune.search.plan import CMAES, GP, GRID, RANDOM, TPE

MOST, BEST = 1000, 100


def create(kind: str, seed: int, number: int, attempt: int = 0) -> optuna.samplers.BaseSampler:
    """The sampler that suggests trial `number`; another attempt draws otherwise. The grid has none of its own (`tune.search.points`)."""
    derived = seeds.seed_of(seed, number, attempt) if attempt else seeds.seed_of(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == TPE:
            return optuna.samplers.TPESampler(multivariate=True, group=True, seed=derived)
        if kind == GP:
            return optuna.samplers.GPSampler(seed=derived)
        if kind == CMAES:
            return optuna.samplers.CmaEsSampler(seed=derived, warn_independent_sampling=False)
        return optuna.samplers.RandomSampler(seed=derived)


def check_serves(kind: str, space: Space, setting: Setting) -> None:
    """Raises CallError where the sampler cannot draw from the space: it would suggest at random, without a word."""
    if kind in (TPE, RANDOM):
        return
    if kind == GRID:
        points.grid(space, setting)
        return
    drawn = plan.parameters(space, setting)
    conditional = [parameter.name for parameter in drawn if not parameter.always]
    if conditional:
        raise CallError(
            f"--sampler {kind} cannot serve space {space.name}: it wants the same parameters in every trial, and some hang on others: "
            f"{_listed(conditional)}. Use --sampler tpe or random, or fix what they hang on with --set."
        )
    categorical = [parameter.name for parameter in drawn if parameter.categorical]
    if kind == CMAES and categorical:
        raise CallError(
            f"--sampler cmaes cannot serve space {space.name}: it draws numbers alone, and there are choices without an order: "
            f"{_listed(categorical)}. Use --sampler tpe, gp or random, or fix these with --set."
        )


class StudyView(optuna.Study):  # type: ignore[misc]
    """The study as a sampler should see it: without trials that drew nothing, such as a preset that is no point of the space.

    GPSampler and CmaEsSampler model what all complete trials have in common, and would suggest at random for ever. Of more than MOST
    trials that ended it sees the best BEST and the latest: what a suggestion costs grows with the trials that it is drawn from.
    """

    _kept: list[FrozenTrial] | None = None

    def forget(self) -> None:
        """Look at the storage anew; one suggestion asks for the trials many times."""
        self._kept = None

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        if self._kept is None:
            there = self._storage.get_all_trials(self._study_id, deepcopy=False)
            self._kept = _telling([trial for trial in there if trial.params or not trial.state.is_finished()])
        seen = self._kept if states is None else [trial for trial in self._kept if trial.state in states]
        return copy.deepcopy(seen) if deepcopy else seen


class Proposal:
    """A Suggest that draws a trial's parameters and keeps them to itself, until `write` puts them into the study.

    What the trial was enqueued with, or a killed driver wrote for it, is answered as it is; `fixed` says whether that was all.

    Args:
        point: parameters to take instead of the sampler's.
    """

    def __init__(
        self,
        study: StudyView,
        trial_id: int,
        sampler: optuna.samplers.BaseSampler,
        point: Mapping[str, Any] | None = None,
    ) -> None:
        self._study, self._sampler, self._point = study, sampler, point or {}
        study.forget()
        self._trial_id = trial_id
        frozen = study._storage.get_trial(trial_id)
        self._frozen: FrozenTrial = copy.copy(
            frozen
        )  # samplers read from it what is drawn already; the storage's own stays as it is
        self._frozen.params, self._frozen.distributions = {}, {}
        self._enqueued: Mapping[str, Any] = self._frozen.system_attrs.get("fixed_params", {})
        self._there: Mapping[str, Any] = dict(frozen.params)
        self._relative: Mapping[str, Any] | None = None
        self._relative_space: Mapping[str, BaseDistribution] = {}
        self.fixed = True

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._suggest(name, CategoricalDistribution(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._suggest(name, FloatDistribution(low, high, log=log)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._suggest(name, IntDistribution(low, high)))

    def write(self) -> None:
        """Put the parameters into the study, in the order of drawing, and take back what drafts before this one noted there."""
        for key in self._study._storage.get_trial(self._trial_id).system_attrs:
            note, _, piece = key.rpartition(":")
            if note.endswith(
                ":relative_params"
            ):  # what other suggestions are told of a trial that runs; an empty piece ends it
                told = json.dumps(self._frozen.params) if piece == "0" else ""
                self._study._storage.set_trial_system_attr(self._trial_id, key, told)
        for name, distribution in self._frozen.distributions.items():
            if name not in self._there:
                value = distribution.to_internal_repr(self._frozen.params[name])
                self._study._storage.set_trial_param(self._trial_id, name, value, distribution)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        """As optuna.Trial._suggest does it."""
        if name in self._frozen.distributions:
            return self._frozen.params[name]
        if name in self._enqueued:
            value = self._enqueued[name]
        elif distribution.single():
            value = distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        else:
            self.fixed = False
            value = self._point[name] if name in self._point else self._drawn(name, distribution)
        # A driver was killed amid writing: what it wrote is drawn again, so that what follows is drawn as it would have been.
        value = self._there.get(name, value)
        self._frozen.distributions[name] = distribution
        self._frozen.params[name] = value
        return value

    def _drawn(self, name: str, distribution: BaseDistribution) -> Any:
        if self._relative is None:
            self._relative_space = self._sampler.infer_relative_search_space(self._study, self._frozen)
            self._relative = self._sampler.sample_relative(self._study, self._frozen, self._relative_space)
        if name in self._relative:
            value = self._relative[name]
            if distribution._contains(distribution.to_internal_repr(value)):
                return value
        return self._sampler.sample_independent(self._study, self._frozen, name, distribution)


def _telling(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those that run, and of those that ended the best BEST and the latest, MOST in all; in their order."""
    ended = [trial for trial in trials if trial.state.is_finished()]
    if len(ended) <= MOST:
        return trials
    scored = [trial for trial in ended if trial.state == OptunaState.COMPLETE]
    best = {trial.number for trial in sorted(scored, key=lambda trial: -(trial.value or 0.0))[:BEST]}
    latest = {trial.number for trial in [trial for trial in ended if trial.number not in best][len(best) - MOST :]}
    return [
        trial for trial in trials if not trial.state.is_finished() or trial.number in best or trial.number in latest
    ]


def _listed(names: Sequence[str]) -> str:
    return first(names, 6)
