"""How much of the machine, or of a cluster, each trial or fit gets, and how many run at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.training import presets
from tune.runs.cluster import Cluster
from tune.runs.options import SharedOptions

Unit = Literal["trial", "fit"]


@dataclass(frozen=True)
class Share:
    """How many trials, or fits, run at a time, and the cores and GPUs of each."""

    parallel: int
    cpus: int
    gpus: float


def resolve_scale(scale: str, machine: Cluster) -> tuple[str, list[str]]:
    """cpu or gpu, and notes on how that came about."""
    resolved = presets.resolve_scale(scale, gpu=machine.gpus > 0)
    if (scale, resolved) == ("auto", "cpu"):
        return resolved, [
            "No GPU was found: CPU scale, with small backbones and small photos. --scale gpu overrules it."
        ]
    return resolved, []


def share(options: SharedOptions, machine: Cluster, scale: str, wanted: int) -> Share:
    """What each trial gets, and how many run at a time; on CPUs not more than `wanted`.

    On the CPU one thread each: two torch threads beside another busy process run three times slower than one.

    Raises CallError for what the machine does not have.
    """
    stated = options.gpus_per_trial
    gpus = stated if isinstance(stated, float) else float(scale == "gpu" and min(1.0, machine.gpus))
    least = options.cpus_per_trial or 1
    for option, asked, there in (("--gpus-per-trial", gpus, machine.gpus), ("--cpus-per-trial", least, machine.cpus)):
        if asked > there:
            raise CallError(
                f"{option} {asked:g} is more than there is on one machine ({there:g}): no trial would ever start. "
                "Give less."
            )
    room = machine.room(least, gpus)
    if not room:
        raise CallError(f"No machine has both {least} cores and {gpus:g} GPUs: no trial would ever start. Give less.")
    parallel = options.parallel or (room if gpus else min(room, max(1, wanted)))
    cpus = options.cpus_per_trial or next(
        (n for n in range(machine.cpus, 1, -1) if machine.room(n, gpus) >= parallel), 1
    )
    return Share(parallel, cpus, gpus)


@dataclass(frozen=True)
class Demand:
    """The trials, or fits, of a command, among which cores, GPUs and memory are shared.

    Args:
        recipes: of all that there may be; iterated over once at most.
        most: how many there are, or may run at a time.
    """

    recipes: Iterable[Recipe]
    options: SharedOptions
    machine: Cluster
    scale: str
    most: int
    unit: Unit

    def share(self, **stated: Any) -> Share:
        """Return what each gets by cores and GPUs, with these options stated otherwise. Raises CallError."""
        return share(self.options.model_copy(update=stated), self.machine, self.scale, self.most)
