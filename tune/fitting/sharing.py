"""How many fits run at a time: as many as a GPU's memory holds where that is asked for, and as the machine's holds."""

from __future__ import annotations

from collections.abc import Callable

from tune.fitting.gpu_sharing import share_gpus
from tune.fitting.memory_sharing import share_memory
from tune.runs.shares import Demand, Share


def share_machine(planned: Share, demand: Demand, report: Callable[[str], None]) -> tuple[Share, list[str]]:
    """Return the share that memory allows, and notes on why; the arguments are those of `share_gpus`.

    Raises CallError where a GPU is to be measured and there is none here.
    """
    # Only one of the two looks at the recipes: what uses a GPU is not bounded by the machine's memory.
    shared, of_gpus = share_gpus(planned, demand, report=report)
    shared, of_memory = share_memory(shared, demand)
    return shared, [*of_gpus, *of_memory]
