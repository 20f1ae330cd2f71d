"""Step `augmentation`: decoding and augmenting on the GPU (nvJPEG, torchvision v2) beside the CPU's own way.

torchvision's transforms draw once for a whole batch; a fit wants other numbers for each photo, so photos are given to
them one by one as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchvision.io import decode_jpeg, read_file
from torchvision.transforms import v2

from maskcls.recipe import Recipe
from maskcls.training.fit_data import FitData
from tests.benchmarks import loading, report
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings
from tests.gpu.fits import new_fit

PHOTOS = {"cuda": 512, "cpu": 32}


def measure(bench: Bench, findings: Findings) -> None:
    """Photos per second of each way."""
    faces, size = bench.dataset(), bench.sizes.image_px
    files = faces.photos["file"].tolist()[: PHOTOS[bench.device]]
    keys = faces.photos["key"].tolist()[: len(files)]
    rounds = bench.sizes.rounds

    def rate(what: str, work: Callable[[], int]) -> None:
        summary = report.summary(report.rates(work, rounds))
        findings.measured(what, summary["mean"], "photos/s", f"n = {rounds}, sd {summary['sd']:.0f}")

    scratch = bench.folder / "augmentation"
    rate("CPU: decoding into a store, all cores", loading.decoding(files, keys, size, scratch))
    rate("CPU: augmenting, one thread", loading.augmentation(files, keys, size, scratch))
    recipe = bench.recipe(bench.sizes.networks[0])
    fit = new_fit(bench, recipe, FitData.of(faces, recipe))
    batches = fit.model_fits[0].batches
    rate(
        f"CPU: a fit's loader, {fit.loader_workers} processes",
        lambda: sum(len(positions) for _, positions in batches.epoch(0)),
    )
    rate("device: decoding (torchvision)", _decoding(bench, files))
    photos = torch.from_numpy(faces.pixels(size)[: len(files)]).permute(0, 3, 1, 2).contiguous().to(bench.device)
    rate("device: v2, one draw per batch", _augmenting(bench, photos, bench.sizes.batch))
    rate("device: v2, one draw per photo", _augmenting(bench, photos, 1))


def _decoding(bench: Bench, files: list[str]) -> Callable[[], int]:
    jpegs = [read_file(file) for file in files if Path(file).suffix.lower() in (".jpg", ".jpeg")]

    def work() -> int:
        decoded = decode_jpeg(jpegs, device=bench.device)
        bench.synchronise()
        return len(decoded)

    return work


def _augmenting(bench: Bench, photos: Tensor, at_a_time: int) -> Callable[[], int]:
    """Work that augments photos uint8 (n, 3, s, s), so many with one draw."""
    transform = like(Recipe())

    def work() -> int:
        for start in range(0, len(photos), at_a_time):
            transform(photos[start : start + at_a_time])
        bench.synchronise()
        return len(photos)

    return work


def like(recipe: Recipe) -> v2.Transform:
    """torchvision's transforms that come nearest to the recipe's augmentation: the same steps, with its strengths."""
    s = recipe.augmentation
    some = s["probability"]
    colours = v2.ColorJitter(
        brightness=max(s["brightness"], s["value"]),
        contrast=s["contrast"],
        saturation=s["saturation"],
        hue=s["hue_degrees"] / 360,
    )
    moved = v2.RandomAffine(s["rotate_degrees"], (s["shift"], s["shift"]), (1 - s["scale"], 1 + s["scale"]))
    noise = [v2.ToDtype(torch.float32, scale=True), v2.GaussianNoise(sigma=max(s["noise"], 1e-6))]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(s["flip"]),
            v2.RandomApply([moved], some),
            v2.RandomApply([colours], some),
            *noise,
        ]
    )
