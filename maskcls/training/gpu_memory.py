"""How much of a GPU's memory a recipe takes, measured on one epoch of two batches of noise."""

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
"""Batches of the measured epoch: the optimizer's moments exist from the first step on, and count in the second."""
CONTEXT_BYTES = 2**30
"""An upper bound of what CUDA and its libraries need in a process, besides torch's own memory."""

# These values change no tensor's size, and training on noise with them does not diverge.
_HARMLESS = {
    "sampler": "none",
    "ages_left_out": "",
    "age_cut_young": AGE_CUTS[0],
    "age_cut_old": AGE_CUTS[1],
    "lr_body": 1e-6,
    "lr_head": 1e-6,
}


def gpu_bytes(recipe: Recipe) -> int:
    """The peak of what a process that fits this recipe holds on the first GPU, in bytes, its CUDA context included.

    Raises torch.OutOfMemoryError if whole batches do not fit. Leaves nothing on the GPU except this process's context.
    """
    use_deterministic_kernels()  # as in fits: other kernels need workspaces of other sizes
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        rehearse(recipe, "cuda")
        free, total = torch.cuda.mem_get_info()
        # All that is taken on the GPU but not by torch here; what exceeds the bound is another process's.
        context = min(total - free - torch.cuda.memory_reserved(), CONTEXT_BYTES)
        return torch.cuda.max_memory_reserved() + max(context, 0)
    finally:
        gc.collect()
        torch.cuda.empty_cache()


def rehearse(recipe: Recipe, device: str) -> EpochResult:
    """Train each of the recipe's models on STEPS whole batches of noise, from random weights, and validate a block."""
    calm = recipe.override({**_HARMLESS, "weights": NONE, "epochs": 1, "members": _calm_members(recipe)})
    return next(iter(Fit(calm, _noise(calm), device).epochs()))


def _calm_members(recipe: Recipe) -> dict[str, dict[str, object]]:
    return {
        member: {key: value for key, value in own.items() if key not in _HARMLESS}
        for member, own in recipe.members.items()
    }


def _noise(recipe: Recipe) -> FitData:
    """One photo of noise under all classes, as often as STEPS batches and a block of validation need."""
    n_train = max(STEPS * whole_batch(recipe), 2 * N_CLASSES)
    n = n_train + BLOCK
    labels = np.arange(n) % N_CLASSES
    generator = seeds.generator(0)
    photo = generator.integers(0, 256, (1, recipe.image_size, recipe.image_size, 3), dtype=np.uint8)
    pixels = np.broadcast_to(photo, (n, *photo.shape[1:]))  # (n, s, s, 3) without n copies
    ages = np.array([25, 45, 62])[labels % 3]  # one age in each of the three groups
    return FitData(
        pixels, labels, ages, [f"noise/{i}.jpg" for i in range(n)], np.arange(n_train), np.arange(n_train, n), "noise"
    )
