"""A narrow space, a wider one, and runs over them, for tests of what is known under another space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from search_spaces import Setting, Space, Suggest
from tests.tune.asked import ask, begin, plan_of, report
from tests.tune.searches import new_run
from tune.runs.folder import SearchRun
from tune.runs.study import IMPORTED, Record, open_study
from tune.search.searcher import StudySearch
from tune.states import TrialState


def narrow(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """One parameter depends on another."""
    chosen: dict[str, Any] = {"lr_head": trial.suggest_float("lr_head", 1e-5, 1e-1, log=True)}
    chosen["head"] = trial.suggest_categorical("head", ("mlp",))
    chosen["frozen_stages"] = trial.suggest_int("frozen_stages", 1, 5)
    if chosen["frozen_stages"] < 5:
        chosen["lr_body"] = trial.suggest_float("lr_body", 1e-5, 1e-3, log=True)
    return chosen


def wide(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Of `narrow`, a new choice, a wider range, and a new parameter."""
    chosen: dict[str, Any] = {"lr_head": trial.suggest_float("lr_head", 1e-6, 1.0, log=True)}
    chosen["head"] = trial.suggest_categorical("head", ("linear", "mlp"))
    chosen["frozen_stages"] = trial.suggest_int("frozen_stages", 0, 5)
    chosen["label_smoothing"] = trial.suggest_float("label_smoothing", 0.0, 0.2)
    if chosen["frozen_stages"] < 5:
        chosen["lr_body"] = trial.suggest_float("lr_body", 1e-6, 1e-2, log=True)
    return chosen


NARROW, WIDE = Space("narrow", "?", narrow), Space("wide", "?", wide)
WIDE_DISTRIBUTIONS = {
    "lr_head": FloatDistribution(1e-6, 1.0, log=True),
    "head": CategoricalDistribution(("linear", "mlp")),
    "frozen_stages": IntDistribution(0, 5),
    "label_smoothing": FloatDistribution(0.0, 0.2),
    "lr_body": FloatDistribution(1e-6, 1e-2, log=True),
}


def end(searcher: StudySearch, epochs: int, state: str, message: str = "") -> None:
    """Ask for a trial, and let it end so after so many epochs."""
    config = ask(searcher)
    assert config is not None
    last = {"epoch": 0, "best_f1": 0.0, "seconds": 0.0}
    if epochs:
        last = report(searcher, config, range(1, epochs + 1))
    searcher.on_trial_complete(config["trial"], {**last, "state": state, "message": message})


def ended_every_way(folder: Path, name: str = "old", trials: int = 16) -> SearchRun:
    """A run over NARROW: complete trials, and numbers 2 to 5 diverged twice (the second at once), failed, and stopped
    early."""
    run = new_run(folder, name)
    searcher = begin(plan_of(NARROW, trials), run)
    ends = {
        2: (1, TrialState.DIVERGED),
        3: (0, TrialState.DIVERGED),
        4: (1, TrialState.FAILED),
        5: (2, TrialState.STOPPED_EARLY),
    }
    for number in range(trials):
        end(searcher, *ends.get(number, (4, TrialState.COMPLETE)))
    return run


def learnt_of(run: SearchRun) -> list[FrozenTrial]:
    return [trial for trial in open_study(run).get_trials() if IMPORTED in trial.user_attrs]


def outcome_of(trial: FrozenTrial) -> tuple[Any, ...]:
    """What a sampler goes by, but for where the point lies."""
    return trial.state, trial.values, trial.intermediate_values, trial.constraints


def decades_off(record: Record) -> float:
    return abs(math.log10(record.recipe["lr_head"]) + 3)
