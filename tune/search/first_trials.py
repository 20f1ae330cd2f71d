"""The first trials of a search: the preset's recipe, then the points that the space names.

Beginning, resuming and extending a search are the same thing: a driver goes on from what is in the run's journal.

Trials that ended stay ended, trials that ran are resumed (`StudySearch`), trials that were enqueued still wait, and the
scheduler gets its rungs back (`EpochASHA.replay`). Ray's Tuner.restore is not used: it forgets the rungs, cannot change
the number of trials, and crashes if Optuna's record is ahead of Ray's last snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from tune.runs.study import ORIGIN, POINT, PRESET, SAMPLED, is_own
from tune.search.plan import SearchPlan
from tune.search.warm_start import preset_params


def enqueue_initial_trials(study: optuna.Study, plan: SearchPlan) -> None:
    """Enqueue the preset's recipe as trial 0, then the space's points, unless an earlier driver did so."""
    for origin, params in _missing(study.get_trials(deepcopy=False), plan).items():
        study.enqueue_trial(params, user_attrs={ORIGIN: origin})


def initial_left(trials: Sequence[FrozenTrial], plan: SearchPlan) -> list[str]:
    """Return the origins of the trials that a search with these ones goes on with before its sampler is asked.

    Those that ran or wait, and of the preset and the space's points those that are not there: under another space, its
    own.
    """
    begun = [trial for trial in trials if is_own(trial) and not trial.state.is_finished()]
    return [*(trial.user_attrs.get(ORIGIN, SAMPLED) for trial in begun), *_missing(trials, plan)]


def _missing(trials: Sequence[FrozenTrial], plan: SearchPlan) -> dict[str, dict[str, Any]]:
    """Return the initial trials that no driver has enqueued."""
    there = [(trial.user_attrs.get(ORIGIN, ""), trial.system_attrs.get("fixed_params")) for trial in trials]
    origins = {origin for origin, _ in there}
    points = [params for origin, params in there if origin.startswith(POINT)]
    return {
        origin: params
        for origin, params in initial_trials(plan).items()
        if (origin not in origins if origin == PRESET else params not in points)
    }


def initial_trials(plan: SearchPlan) -> dict[str, dict[str, Any]]:
    """Return parameters by their origin: the preset's, then the space's points, except one that equals the preset."""
    preset = preset_params(plan)
    points = enumerate(plan.space.points(plan.setting), start=1)
    return {PRESET: preset, **{f"{POINT} {n}": point for n, point in points if point != preset}}


def n_left(study: optuna.Study, trials: int) -> int:
    """Count how many of the wanted trials have not ended."""
    own = filter(is_own, study.get_trials(deepcopy=False))
    return trials - sum(1 for trial in own if trial.state.is_finished())
