"""Synthetic work for many fits: a curve that is a function of the recipe, kept epoch by epoch as a real fit keeps its
state.

As a program, a driver of such fits in a process of its own, for tests that kill it: python works.py FOLDER FITS SLEEP_S
PARALLEL. It starts a Ray of its own, or joins the one at RAY_ADDRESS.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.environ["PYTHONPATH"] = str(ROOT)

from maskcls.errors import Diverged, OutOfMemory, OutOfReach  # noqa: E402
from maskcls.files import write_atomically  # noqa: E402
from tune.fitting.request import FitRequest  # noqa: E402

EPOCHS = 4


def make_requests(folder: Path, n: int, cpus: int = 1) -> list[FitRequest]:
    """Requests `fit-0`, `fit-1`, … in folder/fits."""
    return [
        FitRequest(
            f"fit-{number}",
            {"epochs": EPOCHS, "number": number},
            folder / "fits" / f"fit-{number}",
            folder,
            cpus,
            0.0,
            {"number": number},
        )
        for number in range(n)
    ]


def computed(request: FitRequest) -> list[int]:
    """Epochs that the work really computed, in their order."""
    return [int(line) for line in (request.folder / "computed.txt").read_text().split()]


def forget_unsaved(request: FitRequest, saved: int) -> None:
    """Take back the line of one epoch that was computed and, as its worker was killed at that moment, not saved."""
    if (log := request.folder / "computed.txt").exists() and len(lines := log.read_text().split()) == saved + 1:
        log.write_text("".join(f"{epoch}\n" for epoch in lines[:saved]))


@dataclass(frozen=True)
class Work:
    """Args:
    sleep_s: how long an epoch takes.
    ends: (fit id, epoch, how it ends badly there): diverged, memory, error, full, cuda, exit (the worker dies, once),
        gone (its data is out of reach), hiccup (that, once).
    answer_s: how long its result takes after the last epoch.
    """

    sleep_s: float = 0.0
    ends: tuple[tuple[str, int, str], ...] = ()
    answer_s: float = 0.0

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, dict[str, Any]]:
        state = request.checkpoint_folder / "done.json"
        state.parent.mkdir(parents=True, exist_ok=True)
        done: list[float] = json.loads(state.read_text()) if state.exists() else []
        forget_unsaved(request, len(done))
        for epoch in range(1, EPOCHS + 1):
            if epoch > len(done):
                time.sleep(self.sleep_s)
                self._end(request, epoch)
                done.append(request.recipe["number"] / 100 + 0.1 * epoch - 0.15 * (epoch == EPOCHS))
                with (request.folder / "computed.txt").open("a") as log:
                    log.write(f"{epoch}\n")
                write_atomically(state, json.dumps(done))
            yield {"epoch": epoch, "validation_f1": done[epoch - 1]}
        time.sleep(self.answer_s)
        return {"answer": sum(done)}

    def _end(self, request: FitRequest, epoch: int) -> None:
        how = next((how for fit_id, at, how in self.ends if (fit_id, at) == (request.trial_id, epoch)), "")
        hiccup = request.folder / "hiccup"
        if how == "gone" or (how == "hiccup" and not hiccup.exists()):
            hiccup.touch()
            raise OutOfReach("/mnt/faces/a.jpg cannot be read: Stale file handle. Check the path.")
        if how == "diverged":
            raise Diverged("The loss is nan at step 7.")
        if how == "memory":
            raise OutOfMemory("Tried to allocate 2 GiB.")
        if how == "error":
            raise ZeroDivisionError("division by zero")
        if how == "full":
            raise OSError(28, "No space left on device", "state.pt")
        if how == "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        died = request.folder / f"died-{epoch}"
        if how == "exit" and not died.exists():
            died.touch()
            os._exit(1)


def main() -> None:
    from tune.fitting.pool import run_fits
    from tune.runs import cluster

    folder, n, sleep_s, parallel = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    with cluster.connected(os.environ.get("RAY_ADDRESS")):
        outcome = run_fits(make_requests(folder, n), Work(sleep_s), parallel=parallel)
    print(outcome.reason, outcome.remaining)


if __name__ == "__main__":
    main()
