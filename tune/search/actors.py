"""Worker processes are kept: what Ray's `reuse_actors` promises, and gives up where trials are shorter than a worker's start.

A worker takes seconds to import torch and timm. Until the second one is up, the first has finished its trial; Ray then hands the first
the trial that the second was started for and ends the second, starts another for the next trial, and so on to the search's end: one
worker does all the work, while the cores start others. Here a trial whose own worker has its cores already waits for that one, and the
worker that is free takes the next trial.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.execution.tune_controller import TuneController


@contextmanager
def kept() -> Iterator[None]:
    """Inside the block no worker that is starting is given up for one that is free."""
    reuse = TuneController._maybe_reuse_cached_actor

    def unless_its_own_starts(controller: Any, trial: Any) -> bool:
        own = controller._trial_to_actor.get(trial)
        if (
            own is not None
            and trial not in controller._resetting_trials
            and controller._actor_manager.is_actor_started(own)
        ):
            return False
        return bool(reuse(controller, trial))

    TuneController._maybe_reuse_cached_actor = unless_its_own_starts
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor = reuse
