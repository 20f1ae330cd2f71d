"""How many trials, or fits, share a GPU: `--gpus-per-trial auto` measures what their recipes take of its memory.

What was measured is kept under the cache, by all that it depends on, so that nobody need measure it again. The GPU is
the first one of the machine that the command is started on. In a cluster with several types of GPU, fits run on those
of that type alone, because a share of one type may be too little memory on another; a command that is started on a node
of another type measures there. A fit that needs more than its share all the same goes on in micro-batches
(`tune.fitting.worker`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Self

from maskcls.errors import CallError, Damaged
from maskcls.files import FileKind, write_atomically
from maskcls.recipe import Recipe
from tune.fitting.failures import free_memory, state_of
from tune.runs.joined_ray import gpu_types
from tune.runs.options import AUTO
from tune.runs.shares import Demand, Share, Unit
from tune.states import TrialState

MARGIN = 1.2
"""Factor on what was measured, for other library calls, batches or neighbours, and the driver's own process."""
MOST = 16
"""Trials, or fits, that share a GPU."""
_WORK: dict[Unit, str] = {"trial": "search", "fit": "comparison"}
FILE = "gpu-memory.json"
MEASURED_FILE = FileKind("bytes by what was measured", "Remove {file}.")
_RAY_PLACES = 10_000
"""Ray counts a GPU in ten thousandths."""
_SIZED = (
    "task_split",
    "backbone",
    "image_size",
    "frozen_stages",
    "batch_size",
    "head",
    "head_width",
    "optimizer",
    "mix",
    "precision",
)
"""Recipe keys that memory depends on, and with them whether the weights are averaged and ages regressed."""


@dataclass(frozen=True)
class Gpu:
    """A GPU, by its name and memory."""

    name: str
    n_bytes: int

    @classmethod
    def here(cls) -> Self | None:
        """The first one of this machine; None where torch has none."""
        import torch

        if not torch.cuda.is_available():
            return None
        found = torch.cuda.get_device_properties(0)
        return cls(found.name, found.total_memory)


Measure = Callable[[Recipe], int]
"""Bytes of the GPU's memory that a fit of the recipe takes at most.

Raises an out-of-memory error where it does not fit.
"""


def share_gpus(
    planned: Share,
    demand: Demand,
    *,
    report: Callable[[str], None],
    find_gpu: Callable[[], Gpu | None] | None = None,
    measure: Measure | None = None,
) -> tuple[Share, list[str]]:
    """The share with as many fits to a GPU as its memory holds, where the options ask for AUTO; and notes that say so.

    Not more at a time than `demand.most`, but one per GPU in any case.

    Args:
        planned: what there is without measuring, one fit per GPU.
        demand: its recipes are looked at only where something is to be measured.
        report: is called with a line before something that takes long, and for what does not end the work.
        find_gpu: `Gpu.here`, if nothing else is given.
        measure: `maskcls.training.gpu_memory.gpu_bytes`, if nothing else is given.

    Raises CallError where there is no GPU here to measure on.
    """
    options = demand.options
    if options.gpus_per_trial != AUTO:
        return planned, []
    if not planned.gpus:
        reason = f"in CPU scale {demand.unit}s use no GPU" if demand.scale == "cpu" else "there is no GPU"
        return planned, [f"--gpus-per-trial auto is 0: {reason}."]
    gpu = (find_gpu or Gpu.here)()
    if gpu is None:
        raise CallError(
            f"--gpus-per-trial auto measures on a GPU of the machine that the {_WORK[demand.unit]} is started on, and "
            "torch finds none here. "
            "Start it on a node that has one, or give a number, as in --gpus-per-trial 0.25."
        )
    demand, of_type = _of_type_here(demand)
    file = options.cache_options.folder / FILE
    recipe, taken = largest(heaviest(demand.recipes), gpu, file, measure or _measure, report)
    gpus = fraction(taken, gpu.n_bytes)
    at_a_time = options.parallel or min(demand.share(gpus_per_trial=gpus).parallel, max(planned.parallel, demand.most))
    found = demand.share(gpus_per_trial=gpus, parallel=at_a_time)
    return found, [_note(recipe, taken, gpu, gpus, demand.unit), *of_type]


def _of_type_here(demand: Demand) -> tuple[Demand, list[str]]:
    """Return the demand on the nodes whose GPUs are of the type that is measured, and say which are left out."""
    machine = demand.machine
    of_type = machine.of_type_here()
    left_out = machine.gpu_types - of_type.gpu_types
    if not of_type.gpu_types:
        return demand, []
    (here,) = of_type.gpu_types
    gpu_types.run_on(here)  # in any case: a node that joins later may be of another type
    if not left_out:
        return demand, []
    return replace(demand, machine=of_type), [
        f"{demand.unit.capitalize()}s run on GPUs of the type {here} alone, on which this is measured, and not on "
        f"{', '.join(sorted(left_out))}: start the command on a node of another type, or give a number that holds for "
        "all types, as in --gpus-per-trial 0.5."
    ]


def fraction(taken: int, total: int) -> float:
    """The share of a GPU for as many fits as it holds: 1/k, rounded down as Ray counts.

    Args:
        taken: bytes of a fit; MARGIN comes on top.
        total: bytes of the GPU.
    """
    k = min(max(int(total / (MARGIN * taken)), 1), MOST)
    return math.floor(_RAY_PLACES / k) / _RAY_PLACES


def heaviest(recipes: Iterable[Recipe]) -> list[Recipe]:
    """For each backbone a recipe that takes as much memory as any recipe of it, or more.

    It has the most models, the largest photos, batch and head, and the fewest frozen stages, each as some recipe has
    it. What single members have of their own stays as one recipe has it.
    """
    groups: dict[tuple[str, ...], list[Recipe]] = {}
    for recipe in recipes:
        groups.setdefault(recipe.backbones, []).append(recipe)
    return [_heaviest_of(group) for group in groups.values()]


def _heaviest_of(recipes: list[Recipe]) -> Recipe:
    most_models = max(recipes, key=lambda recipe: (len(recipe.split.models), len(recipe.split.tasks)))
    heads = [recipe.head_width for recipe in recipes if recipe.head == "mlp"]
    return most_models.override(
        {
            **{
                key: max(getattr(recipe, key) for recipe in recipes)
                for key in ("image_size", "batch_size", "ema_decay", "age_regression")
            },
            "frozen_stages": min(recipe.frozen_stages for recipe in recipes),
            "optimizer": next((recipe.optimizer for recipe in recipes if recipe.optimizer != "sgd"), "sgd"),
            "mix": next((recipe.mix for recipe in recipes if recipe.mix != "none"), "none"),
            **({"head": "mlp", "head_width": max(heads)} if heads else {}),
        }
    )


def largest(
    recipes: Iterable[Recipe], gpu: Gpu, file: Path, measure: Measure, report: Callable[[str], None]
) -> tuple[Recipe, int]:
    """The recipe that takes most of the GPU's memory, and how many bytes; all of them where it does not fit.

    Args:
        file: of what is known; what is measured now is added.
    """
    taken: list[tuple[Recipe, int]] = []
    for recipe in recipes:
        key = _key(recipe, gpu)
        known = _known(file)
        if key not in known:
            report(f"Measuring how much GPU memory {named(recipe)} takes …")
            known[key] = min(_bytes(recipe, gpu, measure), gpu.n_bytes)
            _save(file, known, report)
        taken.append((recipe, known[key]))
    return max(taken, key=lambda pair: pair[1])


def _bytes(recipe: Recipe, gpu: Gpu, measure: Measure) -> int:
    try:
        return measure(recipe)
    except Exception as error:
        if state_of(error) != TrialState.OUT_OF_MEMORY:
            raise
        free_memory(error)
        return gpu.n_bytes


def _measure(recipe: Recipe) -> int:
    from maskcls.training.gpu_memory import gpu_bytes

    return gpu_bytes(recipe)


def _key(recipe: Recipe, gpu: Gpu) -> str:
    """All that the measurement depends on."""
    values = recipe.model_dump()
    members = {member: {key: own[key] for key in own if key in _SIZED} for member, own in recipe.members.items()}
    sizes = {
        **{key: values[key] for key in _SIZED},
        "averaged": recipe.ema_decay > 0,
        "ages": recipe.age_regression > 0,
    }
    return json.dumps({"gpu": gpu.name, "torch": version("torch"), **sizes, "members": members}, sort_keys=True)


def _known(file: Path) -> dict[str, int]:
    """What was measured before; nothing where the file is missing or damaged."""
    try:
        measured = MEASURED_FILE.read_object(file)
    except Damaged:
        return {}
    return {key: n for key, n in measured.items() if isinstance(n, int) and n > 0}


def _save(file: Path, known: dict[str, int], report: Callable[[str], None]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(known, indent=2) + "\n")
    except OSError as error:
        report(f"What was measured of the GPU's memory is not kept: {error}.")


def named(recipe: Recipe) -> str:
    """Name what a recipe's memory depends on most, in a few words."""
    frozen = f", {recipe.frozen_stages} stages frozen" if recipe.frozen_stages else ""
    return f"{' with '.join(recipe.backbones)} at {recipe.image_size} px, batches of {recipe.batch_size}{frozen}"


def _note(recipe: Recipe, taken: int, gpu: Gpu, gpus: float, unit: Unit) -> str:
    k = int(1 / gpus)
    held = f"{gpu.n_bytes / 1e9:.0f} GB of {gpu.name}"
    if taken >= gpu.n_bytes:
        none = f"{named(recipe)}, does not fit into the {held}; {unit}s of it go in micro-batches."
        return f"--gpus-per-trial auto is 1: {none}"
    shared = f"up to {k} {unit}s share a GPU" if k > 1 else f"a {unit} has a GPU of its own"
    return f"--gpus-per-trial auto is {gpus:g}: {shared}. {named(recipe)}, takes {taken / 1e9:.1f} of the {held}."
