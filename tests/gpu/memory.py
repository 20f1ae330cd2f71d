"""Step `memory`: a fit that really runs out of the GPU's memory is continued in smaller micro-batches to its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.gpu_memory import gpu_bytes
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings
from tests.tune.short_of_memory import Memory
from tune.fitting.request import Row, TrialRequest
from tune.fitting.worker import run_fit
from tune.runs.folder import SearchRun

BATCHES = 4
"""By how much the batch exceeds the usual one, so that it takes more than the model does."""
LEFT = 0.5
"""Of the memory that a whole batch takes, so much is left to the fit."""


def measure(bench: Bench, findings: Findings) -> None:
    """Fit a recipe where half of what its batches need is free, and look at what its rows say."""
    batch = BATCHES * bench.sizes.batch
    recipe = bench.recipe(bench.sizes.networks[0], batch_size=batch, epochs=1)
    with _short(bench, recipe, findings):
        rows = _fit(bench, recipe)
    last = rows[-1]
    findings.check("the fit comes to its end", last["epoch"] == recipe.epochs)
    findings.check("its loss is finite", math.isfinite(last["train_loss"]), last["train_loss"])
    micro_batch = last.get("micro_batch", batch)
    findings.check("its batches were cut", micro_batch < batch, micro_batch, "photos", last.get("message", ""))


def _fit(bench: Bench, recipe: Recipe) -> list[Row]:
    dataset = bench.dataset()
    run = SearchRun.create(bench.folder, "short-of-memory")
    dataset.save(run.data)
    folder = run.trial("0000")
    folder.mkdir(parents=True)
    request = TrialRequest("0000", recipe.model_dump(), folder, run.path, 1, float(bench.device == "cuda"))
    return list(run_fit(request, cache=CacheOptions(bench.folder / "cache"), shared=False))


@contextmanager
def _short(bench: Bench, recipe: Recipe, findings: Findings) -> Iterator[None]:
    """Inside the block the device has too little memory for a whole batch: a tensor holds the rest.

    On the CPU, whose memory is not bounded so, larger parts than a quarter of a batch raise torch's own error.
    """
    if bench.device == "cpu":
        with Memory(recipe.batch_size // 4).short():
            yield
        return
    needed = gpu_bytes(recipe)
    findings.measured("a whole batch takes", needed / 1e9, "GB")
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(free - int(LEFT * needed), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
