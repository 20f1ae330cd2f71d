"""Step `sharing`: as many fits on one GPU as `--gpus-per-trial auto` would give it, beside one fit alone."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from time import perf_counter
from typing import NamedTuple

import torch

from maskcls.recipe import Recipe
from maskcls.training.fit_data import FitData
from maskcls.training.gpu_memory import gpu_bytes
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings
from tests.gpu.fits import new_fit
from tune.fitting.gpu_sharing import MARGIN, fraction

MEETING_S = 60.0
"""How long the fits wait for each other before they begin."""


class Fitted(NamedTuple):
    """One of the fits: when it began and ended by the machine's clock, its photos, and its own peak of memory."""

    began: float
    ended: float
    photos: int
    n_bytes: int


def measure(bench: Bench, findings: Findings) -> None:
    """Measure the memory of a recipe, then train one fit, then several at a time."""
    recipe = bench.recipe(bench.sizes.networks[0], epochs=1 + bench.sizes.epochs)
    at_once, share = bench.sizes.at_once, 0
    if bench.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        taken = gpu_bytes(recipe)
        share = int(MARGIN * taken)
        by_memory = int(1 / fraction(taken, total))
        findings.measured(f"{recipe.backbone}: measured by auto", taken / 1e9, "GB")
        findings.measured("fits that auto would give the GPU", by_memory)
        at_once = min(at_once, by_memory)
    bench.dataset().pixels(recipe.image_size)  # decoded once, for all of them
    alone = _rate(_fits(bench, recipe, 1))
    fits = _fits(bench, recipe, at_once)
    findings.measured("one fit alone", alone, "photos/s")
    findings.measured(f"{at_once} fits at once, together", _rate(fits), "photos/s")
    findings.measured(f"{at_once} at once / one alone", _rate(fits) / alone)
    if share:
        largest = max(fit.n_bytes for fit in fits)
        findings.check("each stayed within its share", largest <= share, largest / 1e9, "GB")


def _fits(bench: Bench, recipe: Recipe, n: int) -> list[Fitted]:
    """Train n equal fits, each in a process of its own, from the same moment on."""
    context = get_context("spawn")
    with ProcessPoolExecutor(n, context, _meet_at, (context.Barrier(n),)) as pool:
        return list(pool.map(_fit, [bench] * n, [recipe] * n, [n] * n))


_meeting: list[Barrier] = []


def _meet_at(barrier: Barrier) -> None:
    _meeting.append(barrier)


def _fit(bench: Bench, recipe: Recipe, at_once: int) -> Fitted:
    fit = new_fit(bench, recipe, FitData.of(bench.dataset(), recipe), at_once=at_once)
    epochs = fit.epochs()
    next(epochs)  # loader processes start, kernels are loaded
    _meeting[0].wait(MEETING_S)
    began = perf_counter()
    photos = sum(result.photos for result in epochs)
    n_bytes = torch.cuda.max_memory_reserved() if bench.device == "cuda" else 0
    return Fitted(began, perf_counter(), photos, n_bytes)


def _rate(fits: list[Fitted]) -> float:
    """Photos per second of all together, from the first's begin to the last's end."""
    return sum(fit.photos for fit in fits) / (max(fit.ended for fit in fits) - min(fit.began for fit in fits))
