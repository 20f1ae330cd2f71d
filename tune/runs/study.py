"""The study: Optuna's record of a run, in its journal, and what it says of each trial.

A trial's id is its number in the study, `0007`: it stays the same when a resumed run takes the trial up again.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from tune.runs.folder import SearchRun
from tune.states import MODE, TrialState

# User attributes of a trial in the study
ORIGIN, OVERRIDES, RECIPE, STATE, MESSAGE, SECONDS, EPOCHS, BEST_EPOCH = (
    "origin",
    "overrides",
    "recipe",
    "state",
    "message",
    "seconds",
    "epochs",
    "best_epoch",
)
PRESET, POINT, SAMPLED = "preset", "point", "sampled"
ENDING = "ending"
"""Attribute: how the trial ended, noted before all else that says so."""
IMPORTED, DUPLICATE = "learnt", "withdrawn"
"""Attributes of what stands in the study and is no trial of this run: another run's, for the sampler to know; a repeat, not run."""
COPYING = "copying"
"""Attribute of a study that is copied from another: False once it is whole."""
ENDED = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)
_STATES = {
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.STOPPED_EARLY,
    OptunaState.FAIL: TrialState.FAILED,
}


class _RunLock(BaseJournalFileLock):  # type: ignore[misc]
    """No lock of its own: the run's lock allows one driver, and the journal's symlink hangs for ever where a killed driver left it."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


class _RunJournal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal, which waits for the disk only when a trial has its recipe, and when it has ended.

    A killed driver loses no line of it either way. A machine that fails may lose what a running trial reported since, and its own files
    know that.
    """

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with open(self._file_path, "ab") as file:  # noqa: PTH123 - the backend has a str
            file.write(lines.encode())
            file.flush()
            if any(
                log["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES or RECIPE in log.get("user_attr", ())
                for log in logs
            ):
                os.fsync(file.fileno())


@dataclass(frozen=True)
class Record:
    """What the study says of one trial that was begun."""

    trial_id: str
    state: TrialState
    f1: float | None
    """Best validation macro F1; None before the first epoch."""
    best_epoch: int
    epochs: int
    seconds: float
    origin: str
    params: dict[str, Any]
    overrides: dict[str, Any]
    recipe: dict[str, Any]
    message: str


def storage(run: SearchRun) -> optuna.storages.BaseStorage:
    """The run's journal. It holds an absolute path, as RunDir's are."""
    optuna.logging.set_verbosity(logging.WARNING)
    return optuna.storages.JournalStorage(_RunJournal(str(run.journal), lock_obj=_RunLock()))


def open_study(run: SearchRun) -> optuna.Study:
    """The run's study, created if the journal has none. It is named after the run's first name, so that a renamed folder still opens."""
    store = storage(run)
    study = _current(store)
    if study is not None:
        return study
    direction = "maximize" if MODE == "max" else "minimize"
    return optuna.create_study(study_name=run.name, storage=store, direction=direction)


def trials_of(run: SearchRun) -> list[FrozenTrial]:
    """Every trial of the run's study, without making one. Reads only: the search may be running."""
    study = _current(storage(run)) if run.journal.exists() else None
    return [] if study is None else study.get_trials(deepcopy=False)


def _current(store: optuna.storages.BaseStorage) -> optuna.Study | None:
    """The latest study of the journal that is whole: a wider space has one of its own (`tune.search.warm_start.widen`)."""
    names = optuna.get_all_study_names(store)
    for name in reversed(names):
        study = optuna.load_study(study_name=name, storage=store)
        if name == names[0] or study.user_attrs.get(COPYING) is False:
            return study
    return None


def is_own(trial: FrozenTrial) -> bool:
    """Whether this is a trial of the run itself."""
    return IMPORTED not in trial.user_attrs and DUPLICATE not in trial.user_attrs


def trial_id(number: int) -> str:
    """A trial's id by its number in the study."""
    return f"{number:04d}"


def records(run: SearchRun) -> list[Record]:
    """Every trial that was begun, by id. A trial that waits for its turn is not among them. Reads only: the search may be running."""
    if not run.journal.exists():
        return []
    study = _current(storage(run))
    return [] if study is None else begun(study)


def begun(study: optuna.Study) -> list[Record]:
    """Every trial of the run that was begun, by id."""
    return [
        record(trial)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != OptunaState.WAITING and is_own(trial)
    ]


def record(trial: FrozenTrial) -> Record:
    """What the study says of a trial, in one place."""
    values = trial.intermediate_values
    best = max(values.values(), default=None)
    told = trial.user_attrs
    return Record(
        trial_id=trial_id(trial.number),
        state=TrialState(told.get(STATE, _STATES[trial.state])) if trial.state in ENDED else TrialState.UNFINISHED,
        f1=best,
        best_epoch=min((epoch for epoch, value in values.items() if value == best), default=0),
        epochs=max(values, default=0),
        seconds=float(told.get(SECONDS, 0.0)),
        origin=told.get(ORIGIN, SAMPLED),
        params=dict(trial.params),
        overrides=told.get(OVERRIDES, {}),
        recipe=told.get(RECIPE, {}),
        message=told.get(MESSAGE, ""),
    )
