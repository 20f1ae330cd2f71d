"""How many trials, or fits, the machine's memory holds at a time on the CPU.

With more, Ray or the kernel would end workers, and each of these costs the epoch that it was at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from maskcls.machine import available_memory
from maskcls.recipe import Recipe
from tune.fitting.gpu_sharing import heaviest, named
from tune.runs.estimates import gigabytes
from tune.runs.shares import Demand, Share

REST_BYTES = 1_600 * 2**20
"""The driver's own memory and that of Ray's processes: 0.6 and 1.0 GiB measured (RssAnon, no worker)."""
_ENOUGH_BYTES, _ENOUGH_PER_PIXEL = 4 * 2**30, 16 * 2**10
"""More than a fit takes for its process and its weights, and for each pixel of a batch, whatever its backbone."""


def share_memory(
    planned: Share,
    demand: Demand,
    *,
    available: int | None = None,
    measure: Callable[[Recipe], int] | None = None,
) -> tuple[Share, list[str]]:
    """The share with no more fits at a time than the memory holds, and a note if that changes or endangers something.

    Only on this machine and its CPU: what other nodes have is theirs to know, and a GPU is what bounds fits on one.
    What --parallel states stays, with the note.

    Args:
        planned: by cores.
        available: bytes; None: as the machine has them now.
        measure: `maskcls.training.cpu_memory.cpu_bytes`, if nothing else is given.
    """
    options = demand.options
    if planned.gpus or options.address or len(demand.machine.nodes) != 1:
        return planned, []
    free = available_memory() if available is None else available
    drawn = heaviest(demand.recipes)
    if _is_plenty(planned.parallel, drawn, free):
        return planned, []
    recipe, taken = max(((one, (measure or _measure)(one)) for one in drawn), key=lambda pair: pair[1])
    room = max(1, (free - REST_BYTES) // taken)
    if room >= planned.parallel and free >= REST_BYTES + taken:
        return planned, []
    held = f"{gigabytes(free)} of memory are free, and {named(recipe)}, takes about {gigabytes(taken)}"
    if options.parallel or planned.parallel == 1:
        needed = gigabytes(REST_BYTES + planned.parallel * taken)
        less = f" --parallel {room} fits." if room < planned.parallel else " A smaller --set batch_size may help."
        return planned, [f"Memory may run out: {held}; {planned.parallel} at a time with Ray need {needed}.{less}"]
    note = f"{room} at a time instead of {planned.parallel}: {held} per {demand.unit}. --parallel overrules it."
    return demand.share(parallel=room), [note]


def _is_plenty(parallel: int, recipes: Iterable[Recipe], free: int) -> bool:
    """Whether the memory is enough without looking closer, as it nearly always is."""
    enough = max(_ENOUGH_BYTES + _ENOUGH_PER_PIXEL * one.batch_size * one.image_size**2 for one in recipes)
    return free >= REST_BYTES + parallel * enough


def _measure(recipe: Recipe) -> int:
    from maskcls.training.cpu_memory import cpu_bytes

    return cpu_bytes(recipe)
