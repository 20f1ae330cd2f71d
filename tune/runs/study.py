"""The study is Optuna's record of a run, in its journal; a Record is what it says about one trial.

A trial's id is its number in the study, as in `0007`. It stays the same when a resumed run goes on with the trial.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from maskcls.errors import Damaged
from maskcls.files import number_of, share_of
from tune.runs.folder import SearchRun
from tune.runs.optuna_private import storage_of
from tune.states import MODE, TrialState

# User attributes of a trial in the study
ORIGIN, OVERRIDES, RECIPE, STATE, MESSAGE, SECONDS = "origin", "overrides", "recipe", "state", "message", "seconds"
PRESET, POINT, SAMPLED = "preset", "point", "sampled"
ENDING = "ending"
"""Attribute of a trial: how it ended, written before everything else that says so."""
IMPORTED, DUPLICATE = "learnt", "withdrawn"
"""Attributes of trials that are not the run's own: another run's, for the sampler; duplicates, which are not run."""
SPACE = "space"
"""Attribute of a study: which space its parameters are of."""
COPYING = "copying"
"""Attribute of a study that is a copy of another: False when it is complete."""
METRIC_NAME = "validation macro F1"
"""Of a trial's value, for people: on the axes of Optuna's plots and of its dashboard."""
_DIRECTION = "maximize" if MODE == "max" else "minimize"
_ATTRIBUTES = {ORIGIN: str, OVERRIDES: dict, RECIPE: dict, STATE: str, MESSAGE: str}
"""Attributes of a trial that a record is read from, and their types."""
_STATES = {
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.STOPPED_EARLY,
    OptunaState.FAIL: TrialState.FAILED,
}


SET_TRIAL_STATE = 6
"""The `op_code` of the journal's lines that change a trial's state; part of the format of Optuna's files."""


class _RunJournal(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal, without a lock, which waits for the disk only when a trial gets its recipe, and when it ends.

    A killed driver loses no line of it either way. A machine that fails may lose what a running trial reported since
    then, but the trial's own files have that. There is no lock of the journal's own, because the run's lock allows only
    one driver, and because the next driver would wait for ever for the lock file of one that was killed.
    """

    def __init__(self, file: Path) -> None:
        super().__init__(str(file))
        self._file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        left = memoryview("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode())
        with self._file.open("ab", buffering=0) as file:
            whole = file.tell()
            try:
                while left:
                    left = left[file.write(left) :]
                if any(log["op_code"] == SET_TRIAL_STATE or RECIPE in log.get("user_attr", ()) for log in logs):
                    os.fsync(file.fileno())
            except OSError as error:
                with suppress(OSError):  # a part of a line, in front of a later one, would be damage
                    file.truncate(whole)
                raise OSError(error.errno, error.strerror, str(self._file)) from error


@dataclass(frozen=True)
class Record:
    """What the study says about one trial that was begun."""

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
    """Open the run's journal. The storage keeps its path, which is absolute.

    Raises DataError where the journal does not hold what it held.
    """
    run.check_journal()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        return optuna.storages.JournalStorage(_RunJournal(run.journal))
    except OSError:
        raise
    except Exception:  # whatever Optuna makes of lines that are no records
        raise run.journal_error("is damaged: Optuna cannot read it") from None


def open_study(run: SearchRun) -> optuna.Study:
    """Open the run's study, or create it. It keeps the run's first name, so that a renamed folder still opens."""
    store = storage(run)
    study = _current(store)
    if study is not None:
        return study
    return new_study(run.name, store)


def new_study(name: str, store: optuna.storages.BaseStorage) -> optuna.Study:
    """Create a study of a search in the storage. Its value has a name for people."""
    study = optuna.create_study(study_name=name, storage=store, direction=_DIRECTION)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # of metric names, since Optuna 3.2
        study.set_metric_names([METRIC_NAME])
    return study


def in_memory(run: SearchRun) -> optuna.Study:
    """Return a copy of the run's study as it is now, without trials if it has none. The run is only read."""
    study = _existing(run)
    if study is None:
        return optuna.create_study(study_name=run.name, direction=_DIRECTION)
    copy = optuna.storages.InMemoryStorage()
    try:
        optuna.copy_study(from_study_name=study.study_name, from_storage=storage_of(study), to_storage=copy)
    except (ValueError, TypeError) as error:  # of a trial that no search wrote
        raise run.journal_error(f"is damaged: Optuna cannot read it ({str(error)[:400]})") from None
    return optuna.load_study(study_name=study.study_name, storage=copy)


def trials_of(run: SearchRun) -> list[FrozenTrial]:
    """Return every trial of the run's study, none if it has no study. This only reads, so the search may be running."""
    study = _existing(run)
    return [] if study is None else study.get_trials(deepcopy=False)


def _existing(run: SearchRun) -> optuna.Study | None:
    """Return the run's current study; None if it has none yet. Raises DataError as `storage` does."""
    if run.journal.exists():
        return _current(storage(run))
    run.check_journal()
    return None


def _current(store: optuna.storages.BaseStorage) -> optuna.Study | None:
    """Return the storage's current study; None if it has none."""
    study = current(store.get_all_studies())
    return None if study is None else optuna.load_study(study_name=study.study_name, storage=store)


def current(studies: Sequence[Any]) -> Any:
    """Return the latest complete one of a journal's studies, as `BaseStorage.get_all_studies` gives them, or None.

    There is another study for each wider space (`warm_start.widen`).
    """
    for study in reversed(studies):
        if study is studies[0] or study.user_attrs.get(COPYING) is False:
            return study
    return None


def is_own(trial: FrozenTrial) -> bool:
    """Whether this is a trial of the run itself."""
    return IMPORTED not in trial.user_attrs and DUPLICATE not in trial.user_attrs


def trial_id(number: int) -> str:
    """Return a trial's id by its number in the study."""
    return f"{number:04d}"


def records(run: SearchRun) -> list[Record]:
    """Return every trial that was begun, not those that wait, by id. This only reads, so the search may be running."""
    study = _existing(run)
    return [] if study is None else begun(study)


def begun(study: optuna.Study) -> list[Record]:
    """Return every trial of the run that was begun, by id."""
    return [
        record(trial)
        for trial in study.get_trials(deepcopy=False)
        if trial.state != OptunaState.WAITING and is_own(trial)
    ]


def end_trial(
    study: optuna.Study, trial: optuna.Trial, state: TrialState, message: str, value: float | None = None
) -> None:
    """Record a trial's last state, ours and Optuna's."""
    trial.set_user_attr(STATE, state.value)
    trial.set_user_attr(MESSAGE, message)
    if state.infeasible:
        trial.set_constraint(state.value, 1.0)
    optuna_state = OptunaState[state.optuna]
    study.tell(trial, value if optuna_state == OptunaState.COMPLETE else None, state=optuna_state)


def record(trial: FrozenTrial) -> Record:
    """Read a trial's record from the study's trial. Raises Damaged where an attribute is of another type."""
    try:
        return _record(trial)
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"Trial {trial_id(trial.number)} in study.journal can't be read: {str(error)[:400]}. Restore the journal "
            "from a backup, or make it again: maskcls runs repair RUN"
        ) from None


def _record(trial: FrozenTrial) -> Record:
    values = {epoch: share_of(value) for epoch, value in trial.intermediate_values.items()}
    best = max(values.values(), default=None)
    attrs = trial.user_attrs
    for name, kind in _ATTRIBUTES.items():
        if not isinstance(attrs.get(name, kind()), kind):
            raise TypeError(f"{name} is {attrs[name]!r}"[:400])
    return Record(
        trial_id=trial_id(trial.number),
        state=TrialState(attrs.get(STATE, _STATES[trial.state]))
        if trial.state.is_finished()
        else TrialState.UNFINISHED,
        f1=best,
        best_epoch=min((epoch for epoch, value in values.items() if value == best), default=0),
        epochs=max(values, default=0),
        seconds=number_of(attrs.get(SECONDS, 0.0)),
        origin=attrs.get(ORIGIN, SAMPLED),
        params=dict(trial.params),
        overrides=attrs.get(OVERRIDES, {}),
        recipe=attrs.get(RECIPE, {}),
        message=attrs.get(MESSAGE, ""),
    )
