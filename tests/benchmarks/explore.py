"""Seconds that the whole of `python -m maskcls.explore` takes, in a process of its own.

    python -m tests.benchmarks.explore [--people 2700] [--width 384] [--height 512] [--repeats 1] [--data DIR]

Without --data it writes `people` folders of seven JPEGs: demo faces, enlarged, each file with different noise. Each
repeat starts with an empty folder for the page; the photos come from the disk's cache. Prints a table, and writes a
JSON record.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

from maskcls.data.demo.folder import MIN_PERSONS, SHOTS, draw
from maskcls.data.photos import read_photos
from maskcls.machine import usable_cores
from tests.benchmarks import report

DRAWN_PEOPLE = 60
JPEG_QUALITY = 92
NOISE_SD = 6.0  # of 255: JPEGs of about 60 kB at 384 x 512 px


def main() -> None:
    call = _arguments()
    with tempfile.TemporaryDirectory() as folder:
        data = call.data or _written(Path(folder), call.people, (call.width, call.height))
        photos = len(read_photos(data, skip_bad=True))
        seconds = [_explored(data, Path(folder) / f"look{repeat}") for repeat in range(call.repeats)]
        page_mb = (Path(folder) / "look0/explore.html").stat().st_size / 1e6
    results = {f"exploring {photos:,} photos": report.summary(seconds)}
    print(report.table(results, "s"))
    print(f"The page has {page_mb:.1f} MB.")
    size = {"width_px": call.width, "height_px": call.height} if call.data is None else {}
    name = "enlarged demo faces" if call.data is None else call.data.name
    report.write(call.out, results, photos=photos, data=name, page_mb=page_mb, **size)
    print(f"Written to {call.out}.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="contest folder; default: enlarged demo faces")
    parser.add_argument("--people", type=int, default=2700)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/explore.json"))
    return parser.parse_args()


def _explored(data: Path, out: Path) -> float:
    started = perf_counter()
    subprocess.run([sys.executable, "-m", "maskcls.explore", "--data", str(data), "--out", str(out)], check=True)
    return perf_counter() - started


def _written(folder: Path, people: int, size: tuple[int, int]) -> Path:
    """A contest folder of `people`, seven JPEGs each, of size (width, height)."""
    draw(folder / "drawn", max(MIN_PERSONS, min(people, DRAWN_PEOPLE)), seed=0)
    drawn = [group for _, group in read_photos(folder / "drawn").groupby("person")]
    data = folder / "faces"
    rows, tasks = [], []
    for number, group in zip(range(people), itertools.cycle(drawn), strict=False):
        gender, age = ("male", "female")[int(group["gender"].iloc[0])], int(group["age"].iloc[0])
        path = f"{number:06d}_{gender}_Drawn_{age}"
        rows.append((f"{number:06d}", gender, "Drawn", age, path))
        (data / "train/images" / path).mkdir(parents=True)
        files = dict(zip(group["key"].map(lambda key: Path(key).stem), group["file"], strict=True))
        tasks += [
            (files[shot], data / "train/images" / path / f"{shot}.jpg", 7 * number + i) for i, shot in enumerate(SHOTS)
        ]
    with (data / "train/train.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("id", "gender", "race", "age", "path"), *rows])
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(lambda task: _write_photo(task[0], task[1], task[2], size), tasks))
    return data


def _write_photo(source: str, file: Path, seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    enlarged = cv2.resize(cv2.imread(source), size, interpolation=cv2.INTER_CUBIC)
    noisy = cv2.add(enlarged.astype(np.float32), NOISE_SD * rng.standard_normal(enlarged.shape, np.float32))
    encoded = cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    file.write_bytes(encoded.tobytes())


if __name__ == "__main__":
    main()
