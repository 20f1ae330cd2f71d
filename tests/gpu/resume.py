"""Step `resume`: the fits of the step `fits` in another process, interrupted and resumed, are the same to the bit.

So a trial that was killed gives the numbers of one that was not, and `tune.reproduce` finds those of the record.
"""

from __future__ import annotations

import shutil
from itertools import islice

import torch

from maskcls.errors import RunError
from maskcls.training.checkpoint import SavedState, load
from maskcls.training.conditions import unequal
from maskcls.training.fit_data import FitData
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings
from tests.gpu.fits import checkpoint, new_fit


def measure(bench: Bench, findings: Findings) -> None:
    """Train one epoch, resume in a new fit to the end, and compare curve and weights with the unbroken fit's."""
    dataset = bench.dataset()
    for network in bench.sizes.networks:
        recipe = bench.recipe(network)
        data = FitData.of(dataset, recipe)
        unbroken = load(checkpoint(bench, network), recipe, data.digest)
        if unbroken is None:
            raise RunError(f"The step fits left no checkpoint of {network}.")
        folder = checkpoint(bench, f"{network}-resumed")
        shutil.rmtree(folder, ignore_errors=True)
        for _ in islice(new_fit(bench, recipe, data).epochs(folder), 1):
            pass
        resumed = new_fit(bench, recipe, data)
        list(resumed.epochs(folder))
        again = load(folder, recipe, data.digest)
        assert again is not None
        assert resumed.resumed_epochs == 1
        findings.check(f"{network}: the same curve", *same_curve(unbroken, again))
        findings.check(f"{network}: the same weights to the bit", *same_weights(unbroken, again))


def same_curve(one: SavedState, other: SavedState) -> tuple[bool, str]:
    """Whether the losses and scores agree exactly, and where they first do not."""
    pairs = zip(one.history, other.history, strict=True)
    for a, b in pairs:
        if unequal(a.to_row(), b.to_row()):
            return False, f"from epoch {a.epoch} on"
    return True, ""


def same_weights(one: SavedState, other: SavedState) -> tuple[bool, str]:
    """Whether all weights of all models agree, and the largest difference."""
    largest = 0.0
    for a, b in zip(one.models, other.models, strict=True):
        for name, tensor in a.items():
            if not torch.equal(tensor, b[name]):
                largest = max(largest, float((tensor.double() - b[name].double()).abs().max()))
    return largest == 0, f"{largest:.2g}" if largest else ""
