"""Photos per second of decoding into the pixel store, and of augmentation alone.

    python -m tests.benchmarks.loading [--photos 1400] [--image-size 112] [--repeats 5] [--data DIR] [--out FILE]

Each decoding builds a new store in a fresh folder with all cores; photos come from the disk's cache after a first run
that is not measured. Augmentation is the default recipe's, in one thread. Prints a table, and writes a JSON record.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable
from pathlib import Path

from maskcls.data.augment import Augmenter
from maskcls.data.demo.folder import draw
from maskcls.data.geometry import Geometry
from maskcls.data.photos import read_photos
from maskcls.data.pixels import open_or_build
from maskcls.recipe import Recipe
from tests.benchmarks import report

BUDGET_GB = 20.0


def main() -> None:
    call = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        data = call.data or _drawn(Path(folder), call.photos)
        photos = read_photos(data).head(call.photos)
        files, keys = photos["file"].tolist(), photos["key"].tolist()
        results = {
            "decoding into the pixel store": report.summary(
                report.rates(decoding(files, keys, call.image_size, Path(folder)), call.repeats)
            ),
            "augmentation alone, one thread": report.summary(
                report.rates(augmentation(files, keys, call.image_size, Path(folder)), call.repeats)
            ),
        }
    print(report.table(results))
    report.write(
        call.out,
        results,
        photos=len(files),
        image_size=call.image_size,
        data="demo faces" if call.data is None else call.data.name,
    )
    print(f"Written to {call.out}.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="contest folder; default: drawn demo faces")
    parser.add_argument("--photos", type=int, default=1400)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/loading.json"))
    return parser.parse_args()


def _drawn(folder: Path, photos: int) -> Path:
    draw(folder / "demo", max(6, -(-photos // 7)), seed=0)
    return folder / "demo"


def decoding(files: list[str], keys: list[str], size: int, folder: Path) -> Callable[[], int]:
    """Work that decodes all files into a new pixel store, with all cores; returns how many it decoded."""
    caches = itertools.count()

    def work() -> int:
        return len(open_or_build(files, keys, Geometry(size), folder / f"cache{next(caches)}", BUDGET_GB)[0])

    return work


def augmentation(files: list[str], keys: list[str], size: int, folder: Path) -> Callable[[], int]:
    """Work that augments all photos as the default recipe does, in this thread; returns how many there are."""
    pixels, _ = open_or_build(files, keys, Geometry(size), folder / "cache0", BUDGET_GB)
    augmenter, views = Augmenter(Recipe().augmentation, seed=0), itertools.count()

    def work() -> int:
        view = next(views)
        for row, key in zip(pixels, keys, strict=True):
            augmenter.view(row, key, view)
        return len(keys)

    return work


if __name__ == "__main__":
    main()
