"""Workers are reused, as Ray's `reuse_actors` promises but does not do if a trial is shorter than a worker's start.

A worker takes seconds to import torch and timm. Before the second one has started, the first has finished its trial.
Ray then hands the first worker the trial that the second was started for, ends the second, starts another one for the
next trial, and so on until the search ends: one worker does all the work, while the other cores start workers. With
`reuse_started` a trial whose own worker has been scheduled waits for that one, and the free worker takes the next
trial.

This module uses private names of Ray, four of `ray.tune.execution.tune_controller.TuneController`:
`_maybe_reuse_cached_actor` (replaced), `_trial_to_actor`, `_resetting_trials` and `_actor_manager` (read). Ray's
version range in pyproject.toml is as wide as what the contract tests (tests/tune/contracts) ran on; `make
contracts` runs them against the newest release.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune.execution.tune_controller import TuneController


@contextmanager
def reuse_started() -> Iterator[None]:
    """Within the block, no worker that is starting is given up in favour of one that is free.

    Why: whether a trial gets a free worker is decided in TuneController._maybe_reuse_cached_actor alone; no option of
    Ray changes it. Held by: test_the_controller_has_what_we_patch, and tests/tune/search/test_actors.py for the
    behaviour.
    """
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
