"""Synthetic objectives: a curve that is a function of the recipe, quick to reach, with no torch.

They keep their state as a fit does. They stand here, and not in tests, because a worker imports the module of its
objective.
"""

from __future__ import annotations

import errno
import json
import math
import os
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from maskcls.errors import Diverged, OutOfMemory, OutOfReach
from maskcls.files import write_atomically
from search_spaces import Setting, Space, Suggest
from tune.fitting.attempts import Attempt, note_micro_batch
from tune.fitting.request import FitRequest


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """One parameter that depends on another, as real spaces have them."""
    frozen = trial.suggest_int("frozen_stages", 0, 5)
    chosen = {"frozen_stages": frozen, "lr_head": trial.suggest_float("lr_head", 1e-5, 1e-1, log=True)}
    if frozen < 5:
        chosen["lr_body"] = trial.suggest_float("lr_body", 1e-6, 1e-2, log=True)
    return chosen


def points(setting: Setting) -> list[dict[str, Any]]:
    return [{"frozen_stages": 2, "lr_head": 1e-3, "lr_body": 1e-4}]


SPACE = Space("synthetic", "Which curve is highest?", suggest, points)


def f1(recipe: dict[str, Any], epoch: int) -> float:
    """Rises with the epochs, but for a dip at the last one; highest at lr_head = 1e-3 and two frozen stages."""
    height = 0.9 - 0.1 * abs(math.log10(recipe["lr_head"]) + 3) - 0.03 * abs(recipe["frozen_stages"] - 2)
    dip = 0.1 if epoch == recipe["epochs"] else 0.0
    return max(0.0, height * (1 - 0.5**epoch) - dip)


NUMBERS = {"photos_per_second": 100.0, "train_loss": 0.75, "wait_share": 0.25, "feature_hits": 7, "saved_s": 2.0}
"""Of each epoch, beside its F1."""


HUNGER_BYTES = 2**31
SCRATCH_BYTES = 2**26


@dataclass(frozen=True)
class Synthetic:
    """Args:
    sleep_s: how long an epoch takes.
    ends: (trial id, epoch, how it ends badly there): diverged, memory, error, full, cuda, exit (the worker dies, once),
        crash (it dies each time), gone (its data is out of reach), hiccup (that, once), hungry (it takes HUNGER_BYTES
        for a moment), greedy (it takes so much in a micro-batch of 64, and half of it in one of 32), scratch (it needs
        SCRATCH_BYTES on its machine's own disk).
    """

    sleep_s: float = 0.0
    ends: tuple[tuple[str, int, str], ...] = ()

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        state = request.folder / "synthetic.json"
        (request.folder / "pid.txt").write_text(str(os.getpid()))
        with (request.folder / "hosts.txt").open("a") as log:
            log.write(f"{os.uname().nodename}\n")
        done: list[float] = json.loads(state.read_text()) if state.exists() else []
        for epoch in range(1, int(request.recipe["epochs"]) + 1):
            if epoch > len(done):
                time.sleep(self.sleep_s)
                self._end(request, epoch)
                done.append(f1(request.recipe, epoch))
                with (request.folder / "computed.txt").open("a") as log:
                    log.write(f"{epoch}\n")
                write_atomically(state, json.dumps(done))
            yield {"epoch": epoch, "validation_f1": done[epoch - 1], **NUMBERS}

    def _end(self, request: FitRequest, epoch: int) -> None:
        how = next((how for trial_id, at, how in self.ends if (trial_id, at) == (request.trial_id, epoch)), "")
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
        if how == "gone":
            raise OutOfReach("/mnt/faces/a.jpg cannot be read: Stale file handle. Check the path.")
        hiccup = request.folder / "hiccup"
        if how == "hiccup" and not hiccup.exists():
            hiccup.touch()
            raise OSError(errno.EIO, "Input/output error", "/mnt/faces/a.jpg")
        _take(request, how)
        died = request.folder / f"died-{epoch}"
        if how == "crash" or (how == "exit" and not died.exists()):
            died.touch()
            os._exit(1)


def _take(request: FitRequest, how: str) -> None:
    """Take memory or disk, if the epoch ends so."""
    if how == "hungry":
        bytearray(HUNGER_BYTES)[::4096] = b"x" * (HUNGER_BYTES // 4096)
    if how == "greedy":
        _take_slowly(request)
    if how == "scratch":
        with tempfile.TemporaryFile() as file:
            file.write(bytes(SCRATCH_BYTES))


def _take_slowly(request: FitRequest) -> None:
    """Take memory in proportion to the micro-batch, as slowly as a monitor needs to notice it."""
    attempt = Attempt.read(request.folder)
    micro_batch = attempt.most if attempt and attempt.most else 64
    note_micro_batch(request.folder, micro_batch)
    with (request.folder / "micro-batches.txt").open("a") as log:
        log.write(f"{micro_batch}\n")
    taken = []
    for _ in range(micro_batch):
        taken.append(b"x" * (HUNGER_BYTES // 64))
        time.sleep(0.05)


@dataclass(frozen=True)
class Second(Synthetic):
    """An epoch takes a second, as far as it says."""

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        for row in super().__call__(request):
            yield {**row, "seconds": 1.0}


@dataclass(frozen=True)
class InTurn(Second):
    """Trial 0001 begins when 0000 has only its last epoch to compute, which follows when 0001 has computed `until`."""

    until: int = 0

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        if request.trial_id == "0001":
            _wait_for(request, "0000", 19)
        for row in super().__call__(request):
            yield row
            if request.trial_id == "0000" and row["epoch"] == 19:
                _wait_for(request, "0001", self.until)


def _wait_for(request: FitRequest, other: str, epochs: int) -> None:
    """Until another trial has computed so many epochs."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        file = request.folder.parent / other / "synthetic.json"
        if file.exists() and len(json.loads(file.read_text())) >= epochs:
            return
        time.sleep(0.05)
    raise TimeoutError(f"Trial {other} has not come to epoch {epochs}.")


class Nonsense(Synthetic):
    """Fails before its first epoch."""

    def __call__(self, request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        raise KeyError("nonsense")
        yield


class LoadsHereAlone(Synthetic):
    """An objective that needs a package which no other process has."""

    def __reduce__(self) -> Any:
        return _load_in, (os.getpid(),)


def _load_in(pid: int) -> LoadsHereAlone:
    if os.getpid() != pid:
        import nowhere  # noqa: F401
    return LoadsHereAlone()


def fit_and_tell_threads(request: FitRequest, **settings: Any) -> Generator[dict[str, Any], None, Any]:
    """The real objective, which also tells the threads that it runs with."""
    from tune.fitting.worker import run_fit

    for row in run_fit(request, **settings):
        import cv2
        import torch

        yield {**row, "torch_threads": torch.get_num_threads(), "opencv_threads": cv2.getNumThreads()}
