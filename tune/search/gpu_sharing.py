"""How many trials share a GPU: `--gpus-per-trial auto` measures what the recipes of a space take of its memory.

What was measured is kept under the cache, by all that it hangs on, so that the next search need not measure it again. The GPU is the first
one of the machine that the search is started on; others are taken to be like it. A trial that needs more than its share all the same goes
on in micro-batches (`tune.fitting.worker`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Self

import typer

from maskcls.errors import CallError
from maskcls.files import write_atomically
from maskcls.recipe import Recipe
from tune.fitting.failures import free_memory, state_of
from tune.runs.cluster import Cluster
from tune.search.options import AUTO, Call, Resolved, share
from tune.search.plan import SearchPlan, vet
from tune.states import TrialState

MARGIN = 1.2
"""Over what was measured: for what other library calls, batches or neighbours may take, and the search's own process."""
MOST = 16
"""Trials of a GPU."""
FILE = "gpu-memory.json"
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
"""Recipe keys that memory hangs on, and with them whether the weights are averaged and ages regressed."""


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
"""Bytes of the GPU's memory that a fit of the recipe takes at most. Raises an out-of-memory error where it does not fit."""


def share_gpus(
    resolved: Resolved,
    call: Call,
    machine: Cluster,
    cache: Path,
    *,
    find_gpu: Callable[[], Gpu | None] = Gpu.here,
    measure: Measure | None = None,
) -> Resolved:
    """The plan with as many trials to a GPU as its memory holds, where the call asks for AUTO; and a note that says so.

    Not more trials at a time than a third of all, or the sampler would have nothing to learn from, but one a GPU in any case.

    Args:
        cache: where measurements are kept.
        measure: `maskcls.training.gpu_memory.gpu_bytes`, if nothing else is given.

    Raises CallError where there is no GPU here to measure on.
    """
    plan = resolved.plan
    if call.gpus_per_trial != AUTO:
        return resolved
    if not plan.gpus:
        why = "in CPU scale trials use no GPU" if plan.setting.scale == "cpu" else "there is no GPU"
        return _with(resolved, plan, f"--gpus-per-trial auto is 0: {why}.")
    gpu = find_gpu()
    if gpu is None:
        raise CallError(
            "--gpus-per-trial auto measures on a GPU of the machine that the search is started on, and torch finds none here. "
            "Start it on a node that has one, or give a number, as in --gpus-per-trial 0.25."
        )
    recipe, taken = largest(heaviest(plan), gpu, cache / FILE, measure or _measure)
    gpus = fraction(taken, gpu.n_bytes)
    room, _, _ = share(replace(call, gpus_per_trial=gpus), machine, plan.setting.scale, plan.trials)
    at_a_time = call.parallel or min(room, max(plan.parallel, plan.trials // 3))
    parallel, cpus, _ = share(
        replace(call, gpus_per_trial=gpus, parallel=at_a_time), machine, plan.setting.scale, plan.trials
    )
    return _with(resolved, replace(plan, parallel=parallel, cpus=cpus, gpus=gpus), _told(recipe, taken, gpu, gpus))


def fraction(taken: int, total: int) -> float:
    """1/k of a GPU of `total` bytes, for the most trials k that fit, each of `taken` bytes and MARGIN; rounded down as Ray counts."""
    k = min(max(int(total / (MARGIN * taken)), 1), MOST)
    return math.floor(_RAY_PLACES / k) / _RAY_PLACES


def heaviest(plan: SearchPlan) -> list[Recipe]:
    """For each backbone that a trial may have, a recipe that takes as much memory as any of its trials, or more.

    Found by drawing often: the most models, the largest photos, batch and head, the fewest frozen stages, each of which some draw has.
    What single members have of their own stays as one draw has it.
    """
    groups: dict[tuple[str, ...], list[Recipe]] = {}
    for recipe in (plan.base, *map(Recipe.model_validate, vet(plan))):
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


def largest(recipes: Iterable[Recipe], gpu: Gpu, file: Path, measure: Measure) -> tuple[Recipe, int]:
    """The recipe that takes most of the GPU's memory, and how many bytes; all of them where it does not fit.

    Args:
        file: of what is known; what is measured now is added.
    """
    taken: list[tuple[Recipe, int]] = []
    for recipe in recipes:
        key = _key(recipe, gpu)
        known = _known(file)
        if key not in known:
            typer.echo(f"Measuring how much GPU memory {_named(recipe)} takes …", err=True)
            known[key] = min(_bytes(recipe, gpu, measure), gpu.n_bytes)
            _keep(file, known)
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
    """All that the measurement hangs on."""
    values = recipe.model_dump()
    members = {member: {key: own[key] for key in own if key in _SIZED} for member, own in recipe.members.items()}
    sizes = {
        **{key: values[key] for key in _SIZED},
        "averaged": recipe.ema_decay > 0,
        "ages": recipe.age_regression > 0,
    }
    return json.dumps({"gpu": gpu.name, "torch": version("torch"), **sizes, "members": members}, sort_keys=True)


def _known(file: Path) -> dict[str, int]:
    """What was measured before; nothing where the file is missing or no such file."""
    try:
        told = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return {key: n for key, n in told.items() if isinstance(n, int) and n > 0} if isinstance(told, dict) else {}


def _keep(file: Path, known: dict[str, int]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(known, indent=2) + "\n")
    except OSError as error:
        typer.echo(f"What was measured of the GPU's memory is not kept: {error}.", err=True)


def _named(recipe: Recipe) -> str:
    frozen = f", {recipe.frozen_stages} stages frozen" if recipe.frozen_stages else ""
    return f"{' with '.join(recipe.backbones)} at {recipe.image_size} px, batches of {recipe.batch_size}{frozen}"


def _told(recipe: Recipe, taken: int, gpu: Gpu, gpus: float) -> str:
    k = int(1 / gpus)
    held = f"{gpu.n_bytes / 1e9:.0f} GB of {gpu.name}"
    if taken >= gpu.n_bytes:
        return f"--gpus-per-trial auto is 1: {_named(recipe)}, does not fit into the {held}; trials of it go in micro-batches."
    shared = f"up to {k} trials share a GPU" if k > 1 else "a trial has a GPU of its own"
    return f"--gpus-per-trial auto is {gpus:g}: {shared}. {_named(recipe)}, takes {taken / 1e9:.1f} of the {held}."


def _with(resolved: Resolved, plan: SearchPlan, note: str) -> Resolved:
    typer.echo(note, err=True)
    return replace(resolved, plan=plan, notes=(*resolved.notes, note))
