"""One small real Tune run whose searcher, scheduler, stopper and callback write down what Ray tells them, in its order.

Each trial ends in a way of its own (`ENDINGS`). Two run at a time; Ray retries a failure once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

EPOCHS, PARALLEL, MAX_FAILURES = 3, 2, 1
ENDINGS = ("dies", "raises", "lags", "left", "full", "last")
"""dies: its worker, once, at epoch 2. raises: at epoch 2, always. lags: the scheduler stops it at epoch 2. left: the
stopper does. full, last: report `done` with the last epoch; the last one's waits until the searcher has finished."""
FINISHED, PATIENCE_S = "finished", 60
RAN: list[str] = []
"""A worker's own: trials that it has worked on."""


@dataclass
class Event:
    """A call of Ray's: who was called, by which hook, about which trial (its ending's name), and what came with it."""

    who: str
    hook: str
    trial: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.who}.{self.hook}"


class Events(list[Event]):
    """In the order of the calls."""

    def of(self, trial: str, *names: str) -> list[Event]:
        """A trial's events, of these names or all."""
        return [event for event in self if event.trial == trial and (not names or event.name in names)]

    def at(self, name: str, trial: str) -> int:
        """When a trial's event of that name came first."""
        return next(n for n, event in enumerate(self) if (event.name, event.trial) == (name, trial))


def train(config: dict[str, Any], folder: Path) -> None:
    """Ray's side: three epochs, and the trial's ending."""
    name = config["trial"]
    RAN.append(name)
    how = "returned"
    try:
        for epoch in _epochs(name, folder):
            tune.report(
                {"epoch": epoch, "best_f1": epoch / 10, "pid": os.getpid(), "ran": len(RAN), "done": epoch == EPOCHS}
            )
    except BaseException as error:
        how = type(error).__name__
        raise
    finally:
        (folder / f"{name}.ended").write_text(how)


def _epochs(name: str, folder: Path) -> Iterator[int]:
    for epoch in range(1, EPOCHS + 1):
        if (name, epoch) == ("raises", 2):
            raise ValueError("nonsense")
        died = folder / "died"
        if (name, epoch) == ("dies", 2) and not died.exists():
            died.touch()
            os._exit(1)
        if (name, epoch) == ("last", EPOCHS):
            _wait_for(folder / FINISHED)
        yield epoch


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {file} within {PATIENCE_S} s")
        time.sleep(0.05)


def _private(controller: Any, trial: Trial) -> tuple[bool, bool]:
    """What tune.search.actors reads of Ray's controller: whether the trial's worker has started, and is being reset."""
    started = controller._actor_manager.is_actor_started(controller._trial_to_actor.get(trial))
    return bool(started), trial in controller._resetting_trials


class Search(Searcher):  # type: ignore[misc]
    """Suggests the endings one by one, then says that it has finished."""

    def __init__(self, events: Events, folder: Path) -> None:
        super().__init__(metric="best_f1", mode="max")
        self._events, self._waiting, self._names, self._folder = events, list(ENDINGS), dict[str, str](), folder

    def suggest(self, trial_id: str) -> Any:
        if not self._waiting:
            self._events.append(Event("searcher", FINISHED, ""))
            (self._folder / FINISHED).touch()
            return Searcher.FINISHED
        name = self._names[trial_id] = self._waiting.pop(0)
        self._events.append(Event("searcher", "suggest", name, {"trial_id": trial_id}))
        return {"trial": name, "recipe": {"epochs": EPOCHS}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._events.append(Event("searcher", "on_trial_result", self._names[trial_id], result))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._events.append(
            Event(
                "searcher", "on_trial_complete", self._names[trial_id], {"result": dict(result or {}), "error": error}
            )
        )

    def save(self, checkpoint_path: str) -> None:
        self._events.append(Event("searcher", "save", ""))
        Path(checkpoint_path).touch()

    def __getstate__(self) -> dict[str, Any]:
        self._events.append(Event("searcher", "__getstate__", ""))
        return {}


class Scheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops the trial that lags at its second epoch."""

    def __init__(self, events: Events) -> None:
        super().__init__()
        self._events = events

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._note("on_trial_add", trial, {"config": trial.config, "trial_id": trial.trial_id})

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self._note("on_trial_result", trial, result)
        return self.STOP if trial.config["trial"] == "lags" and result["epoch"] == 2 else self.CONTINUE  # type: ignore[no-any-return]

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._note("on_trial_complete", trial, {**result, "private": _private(tune_controller, trial)})

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._note("on_trial_error", trial, {"text": Path(trial.error_file).read_text()})

    def _note(self, hook: str, trial: Trial, details: dict[str, Any]) -> None:
        self._events.append(Event("scheduler", hook, trial.config["trial"], dict(details)))


class Stop(Stopper):  # type: ignore[misc]
    """Leaves the trial of that name at its second epoch."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        name = result["config"]["trial"] if "config" in result else ""
        self._events.append(Event("stopper", "__call__", name, dict(result)))
        return bool(name == "left" and result["epoch"] == 2)

    def stop_all(self) -> bool:
        self._events.append(Event("stopper", "stop_all", ""))
        return False

    def __getstate__(self) -> dict[str, Any]:
        self._events.append(Event("stopper", "__getstate__", ""))
        return {}


class Called(Callback):  # type: ignore[misc]
    """Notes the hooks that `tune.search.progress` has."""

    def __init__(self, events: Events) -> None:
        self._events = events

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._note("on_trial_start", trial)

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        self._note("on_trial_result", trial, result)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._note("on_trial_recover", trial)

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._note("on_trial_complete", trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._note("on_trial_error", trial)

    def __getstate__(self) -> dict[str, Any]:
        self._events.append(Event("callback", "__getstate__", ""))
        return {}

    def _note(self, hook: str, trial: Trial, details: dict[str, Any] | None = None) -> None:
        self._events.append(Event("callback", hook, trial.config["trial"], dict(details or {})))


def run(folder: Path) -> Events:
    """Run it, and return all of Ray's calls. Ray must be started, with two cores."""
    import functools

    events = Events()
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(train, folder=folder), {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=Search(events, folder),
            scheduler=Scheduler(events),
            num_samples=100,
            max_concurrent_trials=PARALLEL,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="contract",
            storage_path=str(folder / "experiment"),
            stop=Stop(events),
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[Called(events)],
            verbose=0,
        ),
    )
    tuner.fit()
    return events
