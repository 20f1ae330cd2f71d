"""Optuna's samplers by name, one per trial, and proposals, which draw from a sampler without writing into the study.

Every sampler is made from (seed, trial number, attempt). So a resumed search suggests what an uninterrupted one would,
and a suggestion that was tried already can be replaced by another one.
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
from search_spaces import Choices, Domain, Floats, Setting, Space, Suggester
from tune.runs.optuna_private import FilteredStudy, storage_of
from tune.search import plan, points
from tune.search.plan import CMAES, GP, GRID, RANDOM, TPE

MOST, BEST = 1000, 100
"""How many ended trials a sampler is shown at most, and how many of them are the best; the others are the latest."""


def create(
    kind: str, seed: int, number: int, attempt: int = 0, *, model_after: int = 10
) -> optuna.samplers.BaseSampler:
    """Make the sampler that suggests trial `number`; each attempt draws differently. For the grid see `points.grid`.

    Args:
        model_after: trials that must have ended before the model of `tpe` or `gp` suggests; until then it draws at
            random. A search's is `SearchPlan.model_after`; the default is Optuna's own.
    """
    derived = seeds.seed_of(seed, number, attempt) if attempt else seeds.seed_of(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if kind == TPE:
            return optuna.samplers.TPESampler(multivariate=True, group=True, seed=derived, n_startup_trials=model_after)
        if kind == GP:
            return optuna.samplers.GPSampler(seed=derived, n_startup_trials=model_after)
        if kind == CMAES:
            return optuna.samplers.CmaEsSampler(seed=derived, warn_independent_sampling=False)
        if kind == RANDOM:
            return optuna.samplers.RandomSampler(seed=derived)
    raise ValueError(f"There is no sampler {kind!r} that draws.")


def check_serves(kind: str, space: Space, setting: Setting) -> None:
    """Raise CallError if the sampler cannot model the space: it would suggest at random and not say so."""
    if kind in (TPE, RANDOM):
        return
    if kind == GRID:
        points.grid(space, setting)
        return
    drawn = plan.parameters(space, setting)
    conditional = [parameter.name for parameter in drawn if not parameter.always]
    if conditional:
        raise CallError(
            f"--sampler {kind} cannot serve space {space.name}: it wants the same parameters in every trial, and some "
            f"depend on others: {_listed(conditional)}. "
            "Use --sampler tpe or random, or fix what they depend on with --set."
        )
    categorical = [parameter.name for parameter in drawn if parameter.categorical]
    if kind == CMAES and categorical:
        raise CallError(
            f"--sampler cmaes cannot serve space {space.name}: it draws numbers alone, and there are choices without "
            f"an order: {_listed(categorical)}. Use --sampler tpe, gp or random, or fix these with --set."
        )


class StudyView(FilteredStudy):
    """The study as samplers see it, without trials that have no parameters, as a preset outside of the space has none.

    GPSampler and CmaEsSampler model the parameters that all complete trials have in common, and because of one such
    trial they would suggest at random from then on. Of more than MOST trials that ended, samplers see the best BEST and
    the latest, because the time that a suggestion takes grows with the trials that it is drawn from.
    """

    def shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return _most_useful([trial for trial in trials if trial.params or not trial.state.is_finished()])


def distribution_of(domain: Domain) -> BaseDistribution:
    """A space's domain as Optuna has it."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.values)
    if isinstance(domain, Floats):
        return FloatDistribution(domain.low, domain.high, log=domain.log)
    return IntDistribution(domain.low, domain.high)


class Proposal(Suggester):
    """Draws a trial's parameters from a sampler and keeps them until `write` puts them into the study.

    Values that the trial was enqueued with, or that a killed driver wrote for it, are taken instead of drawn. `fixed`
    says whether all values were taken in this way, so that another proposal would be equal.

    Args:
        trial_id: its id in the storage (`optuna_private.id_of`).
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
        self._storage, self._trial_id = storage_of(study), trial_id
        study.refresh()
        there = self._storage.get_trial(trial_id)
        # A copy, for samplers read from the trial what is drawn already, and the storage's own object must stay as it
        # is.
        self._frozen: FrozenTrial = copy.copy(there)
        self._frozen.params, self._frozen.distributions = {}, {}
        self._enqueued: Mapping[str, Any] = there.system_attrs.get("fixed_params", {})
        self._written: Mapping[str, Any] = dict(there.params)
        self._relative: Mapping[str, Any] | None = None
        """What the sampler drew for all parameters that it models jointly; None before it was asked."""
        self.fixed = True

    def write(self) -> None:
        """Put the parameters into the study in the order of drawing, and replace the notes of earlier proposals."""
        for key in self._storage.get_trial(self._trial_id).system_attrs:
            note, _, piece = key.rpartition(":")
            # While the trial runs, TPE and GP read its parameters from such notes, in pieces "0", "1", …; an empty
            # piece is the end.
            if note.endswith(":relative_params"):
                text = json.dumps(self._frozen.params) if piece == "0" else ""
                self._storage.set_trial_system_attr(self._trial_id, key, text)
        for name, distribution in self._frozen.distributions.items():
            if name not in self._written:
                value = distribution.to_internal_repr(self._frozen.params[name])
                self._storage.set_trial_param(self._trial_id, name, value, distribution)

    def answer(self, name: str, domain: Domain) -> Any:
        """Draw a parameter in the way of optuna.Trial._suggest."""
        distribution = distribution_of(domain)
        if name in self._frozen.distributions:
            return self._frozen.params[name]
        if name in self._enqueued:
            value = self._enqueued[name]
        elif distribution.single():
            value = distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
        else:
            self.fixed = False
            value = self._point[name] if name in self._point else self._draw(name, distribution)
        # What a killed driver wrote is drawn as well, so that the parameters after it are drawn as they would have
        # been.
        value = self._written.get(name, value)
        self._frozen.distributions[name] = distribution
        self._frozen.params[name] = value
        return value

    def _draw(self, name: str, distribution: BaseDistribution) -> Any:
        if self._relative is None:
            space = self._sampler.infer_relative_search_space(self._study, self._frozen)
            self._relative = self._sampler.sample_relative(self._study, self._frozen, space)
        if name in self._relative and _is_inside(self._relative[name], distribution):
            return self._relative[name]
        return self._sampler.sample_independent(self._study, self._frozen, name, distribution)


def _is_inside(value: Any, distribution: BaseDistribution) -> bool:
    """Whether a value is within a distribution. That may be narrower in this trial than in those that were modelled."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return bool(distribution.low <= value <= distribution.high)


def _most_useful(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Return those that run, and of those that ended the best BEST and the latest, MOST in all; in their order."""
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
