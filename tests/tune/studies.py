"""Studies that are made without a search, for tests of the samplers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tune.runs.optuna_private import id_of, storage_of
from tune.search import samplers

Ask = Callable[[Any], dict[str, Any]]
"""Draws parameters from a trial of Optuna's, or from anything that has its suggest methods."""


def numbers(trial: Any) -> dict[str, Any]:
    """What every sampler can draw."""
    return {
        "share": trial.suggest_float("share", 0.0, 1.0),
        "rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True),
        "layers": trial.suggest_int("layers", 1, 8),
    }


def conditional(trial: Any) -> dict[str, Any]:
    """Choices, and numbers that depend on them."""
    chosen = {
        "head": trial.suggest_categorical("head", ("linear", "mlp")),
        "share": trial.suggest_float("share", 0.0, 1.0),
    }
    if chosen["head"] == "mlp":
        chosen["width"] = trial.suggest_int("width", 1, 64)
        chosen["dropout"] = trial.suggest_float("dropout", 0.0, 0.9)
    else:
        chosen["decay"] = trial.suggest_float("decay", 1e-6, 1e-1, log=True)
    return chosen


def score(params: dict[str, Any]) -> float:
    """Highest at share = 0.7."""
    return 1 - abs(params["share"] - 0.7) + 0.01 * len(params)


def study_of(ask: Ask, n: int, *, running: int = 0, storage: Any = None) -> optuna.Study:
    """A study of n complete trials that were drawn at random, the same ones each time, and so many that run."""
    study = optuna.create_study(direction="maximize", storage=storage, sampler=optuna.samplers.RandomSampler(seed=n))
    for _ in range(n):
        trial = study.ask()
        study.tell(trial, score(ask(trial)))
    for _ in range(running):
        ask(study.ask())
    return study


def seen(study: optuna.Study) -> samplers.StudyView:
    """The study as a sampler is to see it."""
    return samplers.StudyView(study.study_name, storage_of(study))


def draft(
    study: optuna.Study, sampler: optuna.samplers.BaseSampler, point: dict[str, Any] | None = None
) -> samplers.Proposal:
    """A draft of a new trial, or of one that waits."""
    return samplers.Proposal(seen(study), id_of(study.ask()), sampler, point)


def journal(file: Path) -> JournalStorage:
    """A storage in Optuna's journal of that file."""
    return JournalStorage(JournalFileBackend(str(file)))
