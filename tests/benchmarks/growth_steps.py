"""The steps that `tests.benchmarks.data_growth` measures, each in a process of its own that prints JSON.

    python -m tests.benchmarks.growth_steps cold DATA CACHE SIZE
    python -m tests.benchmarks.growth_steps warm DATA CACHE SIZE
    python -m tests.benchmarks.growth_steps hold DATA CACHE SIZE BACKBONE

`cold` reads the folder, splits the people and decodes the photos into an empty cache; `warm` opens the store that is
there. Each step gives seconds, the peak of resident memory (RSS), and the peak of the process's own (anonymous) part of
it: the rest are libraries and the store's pages, which all processes share and the kernel takes back when it needs
them. Both are sampled every SAMPLE_S.

`hold` is one of several trials at a time: it makes a fit of the photos, does one training step, reads every pixel of
the store, and holds all that until its input ends.

Imports stand inside the functions, because what a step does not need would count as its memory.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

SAMPLE_S = 0.01
READY = "ready"
Made = TypeVar("Made")


class Watch:
    """Peaks of this process's memory in MB, sampled by a thread."""

    def __init__(self) -> None:
        self.rss_mb = self.own_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            rss, own = (int(lines[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon"))
            self.rss_mb, self.own_mb = max(self.rss_mb, rss), max(self.own_mb, own)
            if self._ended.wait(SAMPLE_S):
                return


def measured(work: Callable[[], Made]) -> tuple[Made, dict[str, float]]:
    """Do the work; return its result, and the seconds and memory peaks while it ran."""
    with Watch() as watch:
        began = perf_counter()
        made = work()
        seconds = perf_counter() - began
    return made, {"seconds": seconds, "peak_rss_mb": watch.rss_mb, "peak_own_mb": watch.own_mb}


def cold(data: Path, cache: Path, size: int) -> dict[str, dict[str, float]]:
    """Read the folder, split the people, decode the photos."""
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.photos import read_photos
    from maskcls.data.splits import split_people
    from maskcls.stores.cache_options import CacheOptions

    photos, reading = measured(lambda: read_photos(data))
    split, splitting = measured(lambda: split_people(photos))
    _, building = measured(lambda: FaceDataset(photos, split, CacheOptions(cache)).pixels(size))
    return {"reading the folder": reading, "splitting the people": splitting, "decoding into the pixel store": building}


def warm(data: Path, cache: Path, size: int) -> dict[str, dict[str, float]]:
    """Open the store that `cold` has made."""
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.photos import read_photos
    from maskcls.data.splits import Split
    from maskcls.stores.cache_options import CacheOptions

    faces = FaceDataset(read_photos(data), Split((), ()), CacheOptions(cache))
    _, opening = measured(lambda: faces.pixels(size))
    return {"opening the pixel store": opening}


def hold(data: Path, cache: Path, size: int, backbone: str) -> None:
    """Do one training step and read the whole store; print READY, and wait for the end of the input."""
    from maskcls.data.dataset import prepare
    from maskcls.machine import set_threads
    from maskcls.recipe import Recipe
    from maskcls.stores.cache_options import CacheOptions
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData

    set_threads(1)
    chosen = {"backbone": backbone, "weights": "none", "image_size": size, "frozen_stages": 0, "batch_size": 32}
    recipe = Recipe().override(chosen)
    fit = Fit(recipe, FitData.of(prepare(data, corrections="none", cache=CacheOptions(cache)), recipe))
    (model_fit,) = fit.model_fits
    model_fit.model.train()
    model_fit.step(*next(model_fit.batches.epoch(0)))
    for row in fit.data.pixels:
        row.max()
    print(READY, flush=True)
    sys.stdin.read()


def main(step: str, data: str, cache: str, size: str, *rest: str) -> None:
    """Run one of the three steps."""
    if step == "hold":
        hold(Path(data), Path(cache), int(size), *rest)
        return
    steps: dict[str, Callable[..., Any]] = {"cold": cold, "warm": warm}
    print(json.dumps(steps[step](Path(data), Path(cache), int(size))))


if __name__ == "__main__":
    main(*sys.argv[1:])
