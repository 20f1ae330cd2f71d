"""--study-storage: a copy of the run's study in a team's Optuna storage, such as a PostgreSQL, trial by trial.

The run's own journal stays the record, from which a resume goes on: it needs no server, and knows the order of all that
happened. The copy has every trial that has ended, under the run's name, for Optuna's dashboard and for whoever reads
the team's studies. What could not be copied is copied with the next trial that ends, or by the next driver.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from ray.tune import Callback
from ray.tune.experiment import Trial

from maskcls.errors import RunError
from maskcls.text import printable
from tune.runs.folder import SearchRun
from tune.runs.study import is_own, new_study, open_study, trial_id

RUN, TRIAL = "maskcls_run", "maskcls_trial"
"""Attributes of a copied study, when its run was created, and of a copied trial, its id in the run."""
_CONNECT_S = 5
_DRIVERS = {"postgresql": "postgresql+psycopg"}
"""SQLAlchemy's name for the driver that the extra `postgresql` installs; other addresses are taken as they are."""


def opened(url: str) -> optuna.storages.RDBStorage:
    """Open an Optuna storage. Raises RunError where it does not answer, or its driver is not installed."""
    scheme, _, rest = url.partition("://")
    is_postgres = scheme.startswith("postgresql")
    settings: dict[str, Any] = {"pool_pre_ping": True}
    if is_postgres:
        settings["connect_args"] = {"connect_timeout": _CONNECT_S}
    try:
        return optuna.storages.RDBStorage(f"{_DRIVERS.get(scheme, scheme)}://{rest}", engine_kwargs=settings)
    except ImportError as error:
        extra = " Install it with: pip install 'maskcls[postgresql]'" if is_postgres else ""
        raise RunError(f"--study-storage {url} needs a package that is not installed: {error}.{extra}") from None
    except Exception as error:  # whatever SQLAlchemy, its driver and Optuna raise
        raise RunError(f"--study-storage {url} cannot be opened: {_said(error)}. Nothing was begun.") from None


class StudyCopy(Callback):  # type: ignore[misc]
    """Copies trials that have ended, in a thread of its own.

    Args:
        url: of SQLAlchemy, without a password.

    Raises RunError where it does not answer, or has another run's study of this name.
    """

    def __init__(self, url: str, run: SearchRun) -> None:
        self._url, self._study, created = url, open_study(run), run.record().created
        storage = opened(url)
        try:
            self._target = optuna.load_study(study_name=run.name, storage=storage)
        except KeyError:  # there is none yet
            self._target = new_study(run.name, storage)
        if self._target.user_attrs.get(RUN, created) != created:
            raise RunError(f"--study-storage {url} has a study {run.name!r} of another run. Choose another --name.")
        self._target.set_user_attr(RUN, created)
        self._there = {trial.user_attrs.get(TRIAL) for trial in self._target.get_trials(deepcopy=False)}
        self._is_failing = False
        self._wanted, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._work, name="study copy", daemon=True)
        self._thread.start()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Ray pickles callbacks into its experiment folder, from which nothing is ever restored."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._wanted.set()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._wanted.set()

    def close(self) -> None:
        """Copy what has ended by now, and end the thread."""
        self._is_over = True
        self._wanted.set()
        self._thread.join()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            is_last = self._is_over
            try:
                self._copy()
                self._is_failing = False
            except Exception as error:  # the copy is a service; the search goes on without it
                if is_last or not self._is_failing:
                    later = "A resume copies what lacks" if is_last else "The search goes on, and it is tried again"
                    print(f"--study-storage {self._url}: {printable(_said(error))}. {later}.", file=sys.stderr)
                self._is_failing = True
            if is_last:
                return

    def _copy(self) -> None:
        for trial in self._study.get_trials(deepcopy=False):
            name = trial_id(trial.number)
            if trial.state.is_finished() and is_own(trial) and name not in self._there:
                self._target.add_trial(_copied(trial, name))
                self._there.add(name)


def _copied(trial: FrozenTrial, name: str) -> FrozenTrial:
    return FrozenTrial(
        number=-1,  # the storage gives it one
        trial_id=-1,
        state=trial.state,
        value=trial.value,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={**trial.user_attrs, TRIAL: name},
        system_attrs={},
        intermediate_values=trial.intermediate_values,
    )


def _said(error: BaseException) -> str:
    cause = error.__cause__ or error
    return " ".join(str(getattr(cause, "orig", None) or cause).split())[:300].rstrip(".")
