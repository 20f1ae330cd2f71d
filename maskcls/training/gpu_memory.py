"""An epoch of two batches on noise: for what a recipe takes of a GPU's memory."""

from __future__ import annotations

import gc

import numpy as np
import torch

from maskcls import seeds
from maskcls.labels import AGE_CUTS, N_CLASSES
from maskcls.machine import use_deterministic_kernels
from maskcls.models.model import BLOCK
from maskcls.models.weights import NONE
from maskcls.recipe import Recipe
from maskcls.training.conditions import whole_batch
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.result import EpochResult

STEPS = 2
"""The optimizer's moments are there from the first on."""
CONTEXT_BYTES = 2**30
"""What CUDA itself and its libraries are taken to need in a process at most, beside torch's own memory."""

# Values that change no tensor's size, and under which noise can be learnt from without harm.
_HARMLESS = {
    "sampler": "none",
    "ages_left_out": "",
    "age_cut_young": AGE_CUTS[0],
    "age_cut_old": AGE_CUTS[1],
    "lr_body": 1e-6,
    "lr_head": 1e-6,
}


def gpu_bytes(recipe: Recipe) -> int:
    """The most memory that a process which fits this recipe holds on the first GPU, its context included.

    Raises torch.OutOfMemoryError where whole batches do not fit. Leaves nothing on the GPU but the context of this process.
    """
    use_deterministic_kernels()  # as fits have them: others want other workspaces
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        rehearse(recipe, "cuda")
        free, total = torch.cuda.mem_get_info()
        context = min(
            total - free - torch.cuda.memory_reserved(), CONTEXT_BYTES
        )  # what is more than that is another process's
        return torch.cuda.max_memory_reserved() + max(context, 0)
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def rehearse(recipe: Recipe, device: str) -> EpochResult:
    """An epoch of STEPS whole batches of each model of the recipe, with random weights, and of a block of validation."""
    calm = recipe.override({**_HARMLESS, "weights": NONE, "epochs": 1, "members": _calm_members(recipe)})
    return next(iter(Fit(calm, _noise(calm), device).epochs()))


def _calm_members(recipe: Recipe) -> dict[str, dict[str, object]]:
    return {
        member: {key: value for key, value in own.items() if key not in _HARMLESS}
        for member, own in recipe.members.items()
    }


def _noise(recipe: Recipe) -> FitData:
    """Photos of all classes, all of them the same one: what to train on, and a block to validate on."""
    n_train = max(STEPS * whole_batch(recipe), 2 * N_CLASSES)
    n = n_train + BLOCK
    labels = np.arange(n) % N_CLASSES
    generator = seeds.generator(0)
    photo = generator.integers(0, 256, (1, recipe.image_size, recipe.image_size, 3), dtype=np.uint8)
    pixels = np.broadcast_to(photo, (n, *photo.shape[1:]))
    ages = np.array([25, 45, 62])[labels % 3]
    return FitData(
        pixels, labels, ages, [f"noise/{i}.jpg" for i in range(n)], np.arange(n_train), np.arange(n_train, n), "noise"
    )
