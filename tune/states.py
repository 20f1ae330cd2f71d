"""Metric, mode and fidelity of every search, and the states of a trial, a repeat and a comparison's fit."""

from __future__ import annotations

from enum import StrEnum

METRIC = "best_f1"
MODE = "max"
FIDELITY = "epoch"


class TrialState(StrEnum):
    """How a fit stands, in the words that tables, journals and result.json have."""

    RUNNING = "running"
    COMPLETE = "complete"
    STOPPED_EARLY = "stopped early"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    FAILED = "failed"
    """An error in code."""
    DISK_FULL = "disk full"
    """Not an end: the search stops, and a resumed one takes the trial up again."""
    MACHINE_FAILED = "machine failed"
    """Not an end: data out of reach, or a GPU without its driver, whatever the recipe. The trial is taken up again;
    after several in a row the search stops."""
    UNFINISHED = "unfinished"
    """On a leaderboard: begun, and neither ended nor worked on just now as far as the record tells."""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: neither running, nor to be taken up again."""
        return self not in (
            TrialState.RUNNING,
            TrialState.DISK_FULL,
            TrialState.MACHINE_FAILED,
            TrialState.UNFINISHED,
        )

    @property
    def infeasible(self) -> bool:
        """Whether the recipe itself cannot be trained, so that the sampler should keep away from recipes like it."""
        return self in (TrialState.DIVERGED, TrialState.OUT_OF_MEMORY)

    @property
    def optuna(self) -> str:
        """The name of the member of `optuna.trial.TrialState` that an ended trial has in the study.

        Infeasible trials are pruned ones with a constraint, because samplers leave failed trials out.
        """
        names = {TrialState.COMPLETE: "COMPLETE", TrialState.FAILED: "FAIL"}
        return names.get(self, "PRUNED")
