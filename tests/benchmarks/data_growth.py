"""`python -m tests.benchmarks.data_growth`: the cost of more photos, and of more trials at a time.

(a) Seconds and memory of reading a folder, splitting its people, decoding the photos into an empty pixel store, and
opening that store again, for 1,000, 4,000 and 16,000 photos, each size in fresh processes. (b) Memory of 1, 2, 4 and 8
processes that train on one pixel store at the same time: a fit of one step each, which then has read every page.
Proportional set size (PSS) counts a page that k processes share as 1/k in each, so the sum has the store once if it is
in memory once; the resident sizes (RSS) beside it count it in each.

The photos are drawn faces: DRAWN_PEOPLE people, and copies of them under other names. Each copy's file has a few bytes
of its own after the picture, or all its people would be one group of the split; sizes often agree, so that the search
for identical photos has to read more than with real photos. `tests/benchmarks/growth_steps.py` prints what is measured
in (a). Files and libraries come from the disk's cache. --part runs (a) or (b) alone.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from maskcls.cli import run
from maskcls.data.demo.folder import MIN_PERSONS, draw
from tests.benchmarks.growth_steps import READY
from tests.benchmarks.process_tree import pss_mb
from tests.benchmarks.report import ROOT, summary, write

DRAWN_PEOPLE, SHOTS = 300, 7
PARTS, SIZES, PROCESSES = ["photos", "trials"], [1_000, 4_000, 16_000], [1, 2, 4, 8]
NAMES = {"seconds": "s", "peak_rss_mb": "peak RSS, MB", "peak_own_mb": "of it its own, MB"}
TOGETHER = {
    "pss_mb": "memory (PSS), MB",
    "store_pss_mb": "of it the pixel store",
    "own_mb": "of it each trial's own",
    "rss_mb": "for comparison, RSS, MB",
}


def main(
    part: Annotated[list[str], typer.Option(help="photos: more photos. trials: more trials at a time.")] = PARTS,
    photos: Annotated[list[int], typer.Option(help="Photos of a folder; trials share the largest.")] = SIZES,
    processes: Annotated[list[int], typer.Option(help="Trials at a time.")] = PROCESSES,
    image_size: Annotated[int, typer.Option(help="px")] = 112,
    backbone: Annotated[str, typer.Option(help="timm model name, for the trials.")] = "resnet10t",
    rounds: Annotated[int, typer.Option(help="Rounds for each size.")] = 3,
    out: Annotated[Path, typer.Option(help="Where the JSON record goes.")] = Path("runs/benchmarks/data_growth.json"),
) -> None:
    """Measure (a), (b) or both."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        drawn = _drawn(place / "drawn", max(photos))
        if "photos" in part:
            results["photos"] = {
                size: more_photos(_folder(drawn, place, size), place, image_size, rounds) for size in sorted(photos)
            }
            print(photos_table(results["photos"]))
        if "trials" in part:
            results["trials"] = more_trials(_folder(drawn, place, max(photos)), place, image_size, backbone, processes)
            print(trials_table(results["trials"]))
    settings = {"image_size": image_size, "backbone": backbone, "drawn_people": min(DRAWN_PEOPLE, _people(max(photos)))}
    write(out, results, **settings, store_photos=SHOTS * _people(max(photos)), data="demo faces, and copies of them")


def more_photos(data: Path, place: Path, size: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds and memory peaks of each step, over the rounds."""
    found: dict[str, dict[str, list[float]]] = {}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=place) as cache:
            for steps in (_printed("cold", data, cache, size), _printed("warm", data, cache, size)):
                for step, values in steps.items():
                    for name, value in values.items():
                        found.setdefault(step, {}).setdefault(name, []).append(value)
    return {step: {name: summary(values) for name, values in measured.items()} for step, measured in found.items()}


def more_trials(
    data: Path, place: Path, size: int, backbone: str, processes: Sequence[int]
) -> dict[int, dict[str, float]]:
    """Memory in MB of trials that share a store, by their number."""
    with tempfile.TemporaryDirectory(dir=place) as cache:
        _printed("cold", data, cache, size)
        return {n: together(n, ["hold", str(data), cache, str(size), backbone], Path(cache)) for n in processes}


def together(n: int, words: Sequence[str], cache: Path) -> dict[str, float]:
    """Memory of n processes, measured when all of them hold the store."""
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile("w+"))
        held = [stack.enter_context(_started(words, log)) for _ in range(n)]
        try:
            for process in held:
                assert process.stdout is not None
                if process.stdout.readline().strip() != READY:
                    log.seek(0)
                    raise SystemExit(log.read())
            ids = [process.pid for process in held]
            sums = {"pss_mb": sum(map(pss_mb, ids)), "own_mb": sum(pss_mb(pid, "Pss_Anon") for pid in ids)}
            store = [mapped_mb(pid, cache) for pid in ids]
            sums |= {"store_pss_mb": sum(pss for pss, _ in store), "store_rss_mb": sum(rss for _, rss in store)}
            return {**sums, "rss_mb": sum(pss_mb(pid, "Rss") for pid in ids)}
        finally:
            for process in held:
                process.communicate()  # closes its input, which ends it


def mapped_mb(pid: int, folder: Path) -> tuple[float, float]:
    """PSS and RSS, MB, of the files under a folder that a process has mapped."""
    counted = {"Pss:": 0, "Rss:": 0}
    inside = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # `start-end permissions offset device inode path`: a new mapping
            inside = len(words) > 5 and words[5].startswith(f"{folder}/")
        elif inside and words[0] in counted:
            counted[words[0]] += int(words[1])
    return counted["Pss:"] * 1024 / 1e6, counted["Rss:"] * 1024 / 1e6


def photos_table(results: Mapping[int, Mapping[str, Mapping[str, Any]]]) -> str:
    """One column per size: mean and standard deviation of the seconds, and the largest peaks."""
    lines = ["".ljust(50) + "".join(f"{f'{size:,} photos':>18}" for size in results)]
    for step in next(iter(results.values())):
        for name, unit in NAMES.items():
            found = [steps[step][name] for steps in results.values()]
            cells = [
                f"{each['mean']:.3f} +- {each['sd']:.3f}" if unit == "s" else f"{max(each['values']):,.0f}"
                for each in found
            ]
            lines.append(f"{step}, {unit}".ljust(50) + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def trials_table(results: Mapping[int, Mapping[str, float]]) -> str:
    """One column per number of trials."""
    lines = ["trials at a time".ljust(50) + "".join(f"{n:>18}" for n in results)]
    lines += [
        title.ljust(50) + "".join(f"{figures[name]:>18,.0f}" for figures in results.values())
        for name, title in TOGETHER.items()
    ]
    return "\n".join(lines)


def _printed(step: str, data: Path, cache: str, size: int) -> dict[str, dict[str, float]]:
    """Run a step in a process of its own, and return what it printed."""
    call = [sys.executable, "-m", "tests.benchmarks.growth_steps", step, str(data), cache, str(size)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _started(words: Sequence[str], log: IO[str]) -> subprocess.Popen[str]:
    call = [sys.executable, "-m", "tests.benchmarks.growth_steps", *words]
    return subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT)


def _people(photos: int) -> int:
    """The number of people, with seven photos each, for so many photos; enough for a split."""
    return max(MIN_PERSONS, -(-photos // SHOTS))


def _drawn(folder: Path, photos: int) -> Path:
    draw(folder, min(DRAWN_PEOPLE, _people(photos)), seed=0)
    return folder


def _folder(drawn: Path, place: Path, photos: int) -> Path:
    """A contest folder of at least so many photos: the drawn people, repeated under other ids. It is made once."""
    data = place / f"faces-{photos}"
    if data.exists():
        return data
    with (drawn / "train/train.csv").open(newline="", encoding="utf-8") as table:
        people = list(csv.DictReader(table))
    rows = []
    for number in range(_people(photos)):
        person = people[number % len(people)]
        id_ = f"{number:06d}"
        path = f"{id_}_{person['path'].partition('_')[2]}"
        rows.append({**person, "id": id_, "path": path})
        (data / "train/images" / path).mkdir(parents=True)
        for file in (drawn / "train/images" / person["path"]).iterdir():
            if not file.name.startswith("."):
                (data / "train/images" / path / file.name).write_bytes(file.read_bytes() + id_.encode())
    with (data / "train/train.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, list(people[0]))
        writer.writeheader()
        writer.writerows(rows)
    return data


if __name__ == "__main__":
    run(main)
