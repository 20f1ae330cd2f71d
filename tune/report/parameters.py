"""The part of a search's page on which parameters mattered: importance with an interval, slices, an interaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from maskcls.reports.page import Html, Section, grid, part, section
from tune.report import plots
from tune.runs.folder import SearchRun
from tune.runs.study import Record, is_own, trials_of

MIN_COMPLETE = 10
"""Complete trials below which importances would be noise."""
BEST_SHARE = 0.25
"""Which trials count as good: PED-ANOVA says what distinguishes these from all."""
RESAMPLES, SHUFFLES = 100, 60
CHANCE = 0.95


@dataclass(frozen=True)
class Importance:
    """How much one parameter mattered, as a share of all."""

    name: str
    share: float
    low: float
    high: float
    """As `low` of the 95 % interval over resampled trials."""
    is_clear: bool
    """Whether it is more than shuffled scores give."""


def sections(run: SearchRun, drawn: Sequence[Record], note_on_drawn: str = "") -> list[Section]:
    """Which parameters mattered, and the scores over the values of each; nothing where no trial drew one.

    Args:
        drawn: the trials that figures show; importances are of all.
        note_on_drawn: a sentence on which those are.
    """
    frozen = [trial for trial in trials_of(run) if is_own(trial)]
    distributions: dict[str, BaseDistribution] = {}
    for trial in frozen:
        distributions |= {name: drawn for name, drawn in trial.distributions.items() if name not in distributions}
    if not distributions:
        return []
    found, note = importance(frozen)
    content = plots.importances(found) if found else Html()
    if len(found) > 1:
        content += _interaction(drawn, distributions, [one.name for one in found[:2]])
    slices = [plots.slice_of(drawn, name, distribution) for name, distribution in distributions.items()]
    about = (
        "Each point is a trial at its best epoch. A parameter that depends on another one has points only where it was "
        f"drawn. {note_on_drawn}".rstrip()
    )
    return [section("What mattered", note, content), section("Values and scores", about, grid(slices, small=True))]


def _interaction(trials: Sequence[Record], distributions: Mapping[str, BaseDistribution], names: list[str]) -> Html:
    pair = {name: distributions[name] for name in names}
    text = (
        "Each point is a trial: the darker and larger, the better its validation macro F1 among these trials. Where "
        "the best values of one parameter depend on the other, the dark points lie along a diagonal or in corners."
    )
    return part(f"{names[0]} and {names[1]} together", text, plots.interaction(trials, pair))


def importance(trials: Sequence[FrozenTrial]) -> tuple[list[Importance], str]:
    """Each parameter's share of the importance, greatest first, and a note on how it was estimated.

    By PED-ANOVA (Watanabe, Bansal and Hutter, PED-ANOVA: Efficiently Quantifying Hyperparameter Importance in Arbitrary
    Subspaces, IJCAI 2023), over the complete trials that drew parameters (the preset's recipe may lie outside the
    space) and the parameters that all of these drew. Empty for fewer trials than MIN_COMPLETE, and where no parameter
    distinguishes the best trials more than it does when the scores are shuffled among the trials.
    """
    complete = [trial for trial in trials if trial.state == OptunaState.COMPLETE and trial.params]
    common = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    varied = [name for name in sorted(common) if len({str(trial.params[name]) for trial in complete}) > 1]
    if len(complete) < MIN_COMPLETE or not varied:
        note = (
            f"Too few trials to tell: importances need {MIN_COMPLETE} complete trials of the space in which a "
            f"parameter varied; this search has {len(complete)}."
        )
        return [], note
    values = np.array([trial.value for trial in complete])  # (n,)
    generator = np.random.default_rng(len(complete))
    own = _divergences(complete, values, varied)  # (k,)
    chance = _by_chance(complete, values, varied, generator)
    if own.max() <= chance:
        note = (
            f"Too few trials to tell: over {len(complete)} complete trials no parameter distinguishes the best quarter "
            f"more than when the scores are shuffled among the trials (PED-ANOVA, {SHUFFLES} shuffles)."
        )
        return [], note
    low, high = _interval(complete, values, varied, generator)
    shares = own / own.sum()
    found = [
        Importance(name, share, min(float(low[at]), share), max(float(high[at]), share), bool(own[at] > chance))
        for at, (name, share) in enumerate(zip(varied, shares.tolist(), strict=True))
    ]
    note = (
        f"PED-ANOVA over {len(complete)} complete trials: which parameters distinguish the best quarter, with the 95 % "
        f"interval over {RESAMPLES} resamples of the trials. A pale bar is no longer than shuffled scores give "
        f"({SHUFFLES} shuffles): too few trials to tell. Only parameters that all of these trials drew."
    )
    return sorted(found, key=lambda one: -one.share), note


def _by_chance(
    trials: Sequence[FrozenTrial], values: NDArray[np.float64], names: Sequence[str], generator: np.random.Generator
) -> float:
    """What the greatest divergence of any parameter reaches in 95 % of the shuffles."""
    greatest = [_divergences(trials, generator.permutation(values), names).max() for _ in range(SHUFFLES)]
    return float(np.quantile(greatest, CHANCE))


def _interval(
    trials: Sequence[FrozenTrial], values: NDArray[np.float64], names: Sequence[str], generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper ends (k,) of the shares' intervals: percentiles over resampled trials."""
    shares = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(trials), size=len(trials))
        found = _divergences([trials[at] for at in drawn], values[drawn], names)
        if found.sum() > 0:
            shares.append(found / found.sum())
    low, high = np.quantile(shares, (0.025, 0.975), axis=0) if shares else np.full((2, len(names)), np.nan)
    return low, high


def _divergences(
    trials: Sequence[FrozenTrial], values: NDArray[np.float64], names: Sequence[str]
) -> NDArray[np.float64]:
    """PED-ANOVA's divergence (k,) of each parameter, not normalised; zero where nothing varies."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        # Only what the evaluator reads: a trial's attributes, recipe included, would be copied hundreds of times.
        [
            optuna.trial.create_trial(
                params={name: trial.params[name] for name in names},
                distributions={name: trial.distributions[name] for name in names},
                value=float(value),
            )
            for trial, value in zip(trials, values, strict=True)
        ]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
    found = evaluator.evaluate(study, params=list(names))
    return np.array([found[name] for name in names])
