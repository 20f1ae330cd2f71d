"""A run whose trials were only recorded, over 36 drawn people: what choosing needs, with fits that take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState as OptunaState

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.splits import split_people
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.checkpoint_files import STATE_FILE
from tune.fitting.pool import work_on
from tune.fitting.request import FitRequest, Work
from tune.fitting.result import FitResult
from tune.fitting.worker import FitOutcome
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.study import Record
from tune.selection.finalists import Finalist
from tune.selection.finish import finish_request
from tune.states import TrialState

PEOPLE = 36
BASE = Recipe().override(
    {
        "backbone": "test_resnet",
        "weights": "none",
        "image_size": 32,
        "epochs": 2,
        "batch_size": 64,
        "frozen_stages": 0,
        "lr_body": 1e-3,
    }
)


def small_run(folder: Path, cache: Path, name: str = "small") -> tuple[SearchRun, FaceDataset]:
    """A run over the first demo people, split as a search would split them, without a trial."""
    run = SearchRun.create(folder, name, SearchRecord(call={}))
    demo = prepare(None, cache=CacheOptions(cache))
    photos = demo.photos[demo.photos["person"].isin(sorted(set(demo.photos["person"]))[:PEOPLE])].reset_index(drop=True)
    faces = replace(demo, photos=photos, split=split_people(photos))
    faces.save(run.data)
    return run, FaceDataset.load(run.data, CacheOptions(cache))


def add_trial(
    run: SearchRun,
    values: list[float],
    overrides: dict[str, Any],
    *,
    state: str = TrialState.COMPLETE,
    origin: str = records.SAMPLED,
    seconds: float = 0.0,
) -> Record:
    """A trial with this curve, as a search records it."""
    study = records.open_study(run)
    study.sampler = optuna.samplers.RandomSampler(seed=0)
    trial = study.ask()
    for epoch, value in enumerate(values, start=1):
        trial.report(value, epoch)
    trial.set_user_attr(records.STATE, state)
    trial.set_user_attr(records.ORIGIN, origin)
    trial.set_user_attr(records.SECONDS, seconds)
    trial.set_user_attr(records.OVERRIDES, overrides)
    trial.set_user_attr(records.RECIPE, BASE.override(overrides).model_dump())
    optuna_state = OptunaState.COMPLETE if state == TrialState.COMPLETE else OptunaState.PRUNED
    study.tell(trial, max(values) if state == TrialState.COMPLETE else None, state=optuna_state)
    return records.records(run)[-1]


def recorded(trial_id: str, f1: float | None, *, state: TrialState = TrialState.COMPLETE, **overrides: Any) -> Record:
    """What the study would say of a trial, without a study."""
    recipe = BASE.override(overrides).model_dump()
    return Record(trial_id, state, f1, 1, 2, 1.0, records.SAMPLED, {}, overrides, recipe, "")


def two_trials(run: SearchRun) -> list[Record]:
    """One complete and one stopped early."""
    add_trial(run, [0.3, 0.5], {"lr_head": 1e-2})
    add_trial(run, [0.4], {"lr_head": 1e-3}, state=TrialState.STOPPED_EARLY)
    return records.records(run)


def write_end(run: SearchRun, trial: Record | Finalist, best: float | None, epoch: int = 2) -> None:
    """The result of a trial's training to its end, of this best score; None: it diverged. Its checkpoint is empty."""
    request = finish_request(run, trial, cpus=1, gpus=0.0)
    state, message = (TrialState.DIVERGED, "loss is nan") if best is None else (TrialState.COMPLETE, "")
    request.checkpoint_folder.mkdir(parents=True)
    if best is not None:
        (request.checkpoint_folder / STATE_FILE).touch()
    FitResult(state, message, 2, epoch, best or 0.4, 1.0, 1, 0.0, request.settings, {}).write(request.folder)


def fitted(request: FitRequest, work: Work) -> FitOutcome:
    """The work to its end, in this process."""
    return work_on(request, work)


def stopped(request: FitRequest, work: Work, after: int) -> None:
    """As a kill leaves it that comes after so many epochs."""
    request.folder.mkdir(parents=True, exist_ok=True)
    fit = work(request)
    for _ in range(after):
        next(fit)
    fit.close()
