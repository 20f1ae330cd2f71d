"""Workers are placed on nodes that are not set aside, and reused.

Ray's `reuse_actors` promises the latter, and does not do it if a trial is shorter than a worker's start.
A worker takes seconds to import torch and timm. Before the second one has started, the first has finished its trial.
Ray then hands the first worker the trial that the second was started for, ends the second, starts another one for the
next trial, and so on until the search ends: one worker does all the work, while the other cores start workers. With
`reuse_started` a trial whose own worker has been scheduled waits for that one, and the free worker takes the next
trial. Workers on nodes that are set aside are not kept.

This module uses private names of Ray, five of `ray.tune.execution.tune_controller.TuneController`:
`_maybe_reuse_cached_actor` and `_maybe_cache_trial_actor` (replaced), `_trial_to_actor`, `_resetting_trials` and
`_actor_manager` (read); and one of `ray.air.execution._internal.actor_manager.RayActorManager`, `_actor_task_failed`
(replaced). Ray's version range in pyproject.toml is as wide as what the contract tests
(tests/tune/contracts) ran on; `make contracts` runs them against the newest release.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.util.placement_group import PlacementGroup, placement_group

from tune.runs.joined_ray.nodes_aside import elsewhere, is_aside


class Elsewhere(PlacementGroupFactory):  # type: ignore[misc]
    """A trial's cores and GPUs, on a node that is not set aside at the moment at which Ray is asked for them.

    Two of these are equal whatever is set aside, so that workers are reused all the time. Why: Ray Tune asks for the
    same cores for all trials of a search. Held by: test_a_placement_group_keeps_away_from_a_node_by_its_label.
    """

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for the cores."""
        avoiding = elsewhere(*(max(one.get(name, 0.0) for one in self.bundles) for name in ("CPU", "GPU")))
        selectors = [avoiding] * len(self.bundles) if avoiding else None
        return placement_group(self.bundles, self.strategy, bundle_label_selector=selectors)


@contextmanager
def reuse_started() -> Iterator[None]:
    """Within the block, no worker that is starting is given up in favour of one that is free, and none stays for the
    next trial on a node that is set aside.

    Why: whether a trial gets a free worker is decided in TuneController._maybe_reuse_cached_actor alone, and whether a
    worker stays in TuneController._maybe_cache_trial_actor; no option of Ray changes it. Held by:
    test_the_controller_has_what_we_patch, and tests/tune/search/test_actors.py for the behaviour.
    """
    reuse, keep = TuneController._maybe_reuse_cached_actor, TuneController._maybe_cache_trial_actor

    def unless_its_own_starts(controller: Any, trial: Any) -> bool:
        own = controller._trial_to_actor.get(trial)
        if (
            own is not None
            and trial not in controller._resetting_trials
            and controller._actor_manager.is_actor_started(own)
        ):
            return False
        return bool(reuse(controller, trial))

    def unless_set_aside(controller: Any, trial: Any) -> bool:
        return not is_aside(str((trial.last_result or {}).get("node", ""))) and bool(keep(controller, trial))

    TuneController._maybe_reuse_cached_actor = unless_its_own_starts
    TuneController._maybe_cache_trial_actor = unless_set_aside
    try:
        yield
    finally:
        TuneController._maybe_reuse_cached_actor, TuneController._maybe_cache_trial_actor = reuse, keep


@contextmanager
def deaths_for_memory() -> Iterator[None]:
    """Within the block, a worker that Ray's memory monitor has killed in the middle of its work is one that died.

    Why: Ray says so by an OutOfMemoryError, which is no RayActorError, and which RayActorManager takes for an error of
    its own: it would end the whole search. Held by: test_the_controller_has_what_we_patch, and tests/cluster for the
    behaviour.
    """
    failed = RayActorManager._actor_task_failed

    def as_a_death(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        if isinstance(exception, OutOfMemoryError):
            exception = RayActorError(error_msg=str(exception))
        failed(manager, tracked_actor_task=tracked_actor_task, exception=exception)

    RayActorManager._actor_task_failed = as_a_death
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = failed
