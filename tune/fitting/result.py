"""result.json of a repeat, a comparison's fit or the fit on all people: written last, it says that the fit is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from maskcls.errors import Damaged, Missing
from maskcls.files import FileKind, set_aside, write_atomically
from maskcls.training.checkpoint_files import state_to_drop
from maskcls.training.conditions import HARDWARE, HARDWARE_FILE, forget_unfinished
from tune.fitting.failures import ERROR
from tune.fitting.request import FitRequest
from tune.fitting.worker import HAS_ERRORS, FitOutcome
from tune.runs.record import typed
from tune.states import FIDELITY, METRIC, TrialState

RESULT = "result.json"
RESULT_FILE = FileKind("how a fit ended: a JSON object", "Remove it to do this fit again.")
_OWN = ("state", "message", "epochs", "best_epoch", "best_validation_f1", "seconds", "cpus", "gpus", "settings")


@dataclass(frozen=True)
class FitResult:
    """What a fit's result.json holds."""

    state: TrialState
    message: str
    epochs: int
    best_epoch: int
    best_validation_f1: float | None
    """None where there is no epoch, or nobody to validate on."""
    seconds: float
    cpus: int
    gpus: float
    settings: Mapping[str, Any]
    """As its request has them."""
    values: Mapping[str, Any]
    """What the fit's `After` made; empty unless the fit is complete."""

    @property
    def is_final(self) -> bool:
        """Whether nothing is left to do. A fit that ran out of memory is tried again: a resume may give it more."""
        return self.state != TrialState.OUT_OF_MEMORY

    @classmethod
    def of(cls, request: FitRequest, outcome: FitOutcome) -> Self:
        """The result of a request that ended so."""
        last, values = outcome.last, dict(outcome.values)
        score = last[METRIC] if last[FIDELITY] else None
        return cls(
            state=outcome.state,
            message=outcome.message,
            epochs=last[FIDELITY],
            best_epoch=values.pop("best_epoch", last["best_epoch"]),
            best_validation_f1=values.pop("best_validation_f1", score),
            seconds=last["seconds"],
            cpus=request.cpus,
            gpus=request.gpus,
            settings=dict(request.settings),
            values={key: value for key, value in values.items() if key not in ("message", HAS_ERRORS)},
        )

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The result of the fit in a folder; None where there is none. Raises Damaged."""
        file = folder / RESULT
        try:
            with RESULT_FILE.reading(file):
                content = RESULT_FILE.read_object(file)
                own = {key: content.pop(key) for key in _OWN}
                return typed(cls, {**own, "values": content})
        except Missing:
            return None

    def write(self, folder: Path) -> None:
        """Write it whole."""
        content = {key: getattr(self, key) for key in _OWN} | dict(self.values)
        write_atomically(folder / RESULT, json.dumps(content, indent=2) + "\n")


def set_aside_damaged(folders: Iterable[Path], reads: Mapping[str, Callable[[Path], object]]) -> list[str]:
    """Set aside the results of fits that cannot be read, so that these fits are done again; return a line for each.

    Args:
        folders: of fits.
        reads: by its name, what reads another file without which a result is worth nothing, given the fit's folder.
    """
    said = []
    for folder in folders:
        damaged: dict[str, Damaged] = {}
        for name, read in {RESULT: FitResult.read, **reads}.items():
            try:
                read(folder)
            except Missing:
                continue
            except Damaged as error:
                damaged[name] = error
        for name in {RESULT, *damaged} if damaged else ():
            if os.path.lexists(folder / name):
                set_aside(folder / name)
        said += [f"{error} It was set aside, and the fit is done again." for error in damaged.values()]
    return said


def write_result(request: FitRequest, outcome: FitOutcome) -> None:
    """Write how a fit ended, and take away what only a fit that goes on needs.

    A result that is final is not replaced by one that says that memory was short.
    """
    before = FitResult.read(request.folder)
    if (request.checkpoint_folder / HARDWARE).exists() and outcome.state != TrialState.OUT_OF_MEMORY:
        write_atomically(request.folder / HARDWARE, HARDWARE_FILE.read_text(request.checkpoint_folder / HARDWARE))
    if outcome.state != TrialState.OUT_OF_MEMORY or before is None or not before.is_final:
        FitResult.of(request, outcome).write(request.folder)
    if outcome.state == TrialState.OUT_OF_MEMORY:
        # A resume may have more memory: it begins with the micro-batch of the last epoch that is done.
        forget_unfinished(request.checkpoint_folder, done=outcome.last[FIDELITY])
        return
    if outcome.state == TrialState.COMPLETE and not outcome.values.get(HAS_ERRORS):  # then it is of an attempt before
        (request.folder / ERROR).unlink(missing_ok=True)
    if outcome.state != TrialState.COMPLETE or not request.keeps_checkpoint:
        shutil.rmtree(request.checkpoint_folder, ignore_errors=True)
    for file in state_to_drop(request.checkpoint_folder):  # of a complete fit: an export needs the weights alone
        file.unlink(missing_ok=True)
