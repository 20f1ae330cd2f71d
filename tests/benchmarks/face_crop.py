"""How often each face detector finds the face, where it is wrong, and how long it takes.

    python -m tests.benchmarks.face_crop [--detectors yunet haar] [--every 1] [--repeats 1] [--out FILE]

The photos are the real ones beside the repository (../shared/faces): seven of each person, from one shot, one of them
without a mask. A box is wrong if it overlaps with that of the person's bare face by less than 0.4 of their union. Times
are CPU milliseconds of one thread per photo, decoding not included. Prints a table, and writes a JSON record.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import thread_time
from typing import Any

from maskcls.data.decoding.decode import Image, decode
from maskcls.data.faces.detectors import DETECTORS, Detector
from tests.benchmarks import report
from tests.maskcls.data.faces.real_faces import KINDS, Found, photos_of


def main() -> None:
    call = _arguments()
    photos = {name: decode(file).rgb for name, file in photos_of(call.every).items()}
    results: dict[str, Any] = {}
    times = {}
    for name in call.detectors:
        missing = DETECTORS[name].why_not()
        if missing:
            print(missing)
            continue
        found, ms = zip(*(_look(DETECTORS[name], photos) for _ in range(call.repeats)), strict=True)
        times[name] = report.summary(ms)
        results[name] = {**found[0], "ms_per_photo": times[name]}
    print(report.table(times, "ms"))
    for name, one in results.items():
        shares = ", ".join(f"{kind} {one['found'][kind]:.1%}" for kind in KINDS)
        print(f"{name}: found {one['found']['all']:.2%} ({shares}); {one['several']} several, {one['wrong']} wrong")
    report.write(call.out, results, photos=len(photos), every=call.every)
    print(f"Written to {call.out}.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=list(DETECTORS))
    parser.add_argument("--every", type=int, default=1, help="only every n-th person")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/face_crop.json"))
    return parser.parse_args()


def _look(detector: Detector, photos: dict[str, Image]) -> tuple[dict[str, Any], float]:
    """What is found, and how many ms a photo takes."""
    started = thread_time()
    looked = {name: detector.find(rgb) for name, rgb in photos.items()}
    ms = 1000 * (thread_time() - started) / len(photos)
    found = Found({name: faces.portrait for name, faces in looked.items()})
    edges = sorted(box.edge for box in found.boxes.values())
    facts = {
        "found": {"all": found.share(), **{kind: found.share(kind) for kind in KINDS}},
        "several": sum(faces.number > 1 for faces in looked.values()),
        "wrong": len(found.elsewhere()),
        "edge_px": {"least": edges[0], "median": edges[len(edges) // 2], "most": edges[-1]},
    }
    return facts, ms


if __name__ == "__main__":
    main()
