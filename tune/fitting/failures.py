"""Tell a fit's errors apart, and act on them in a Ray worker."""

from __future__ import annotations

import errno
import gc
import json
import os
import traceback
from pathlib import Path

from maskcls import machine
from maskcls.errors import Diverged, RunError, is_out_of_memory
from maskcls.files import write_atomically
from tune.states import TrialState

ERROR = "error.txt"
"""The last error's traceback, in the fit's folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
# After these (an illegal access, a device-side assert) the process can do nothing on the GPU any more, unless memory
# was short.
_STICKY_TEXTS = ("CUDA error", "cuDNN error")
ENDED_NOTE = "ended.json"
"""Written by a process that ends itself, for the one that takes its fit over."""


def state_of(error: BaseException) -> TrialState:
    """Return the state that an exception means."""
    if isinstance(error, Diverged):
        return TrialState.DIVERGED
    if is_out_of_memory(error):
        return TrialState.OUT_OF_MEMORY
    return TrialState.DISK_FULL if _is_full_disk(error) else TrialState.FAILED


def _is_full_disk(error: BaseException) -> bool:
    """Whether the disk was full. torch turns such an error into one that has only the text."""
    causes = (error, error.__cause__, error.__context__)
    by_number = any(isinstance(cause, OSError) and cause.errno in _FULL for cause in causes)
    return by_number or "No space left on device" in str(error)


def explain(error: BaseException) -> str:
    """Say an error in one line for tables.

    Errors of this project are messages already; others are named with their class.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text}"


def write_error(folder: Path, text: str) -> None:
    """Write a traceback beside the fit's curve. A disk that is full must not hide the error itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, text)
    except OSError:
        return


def exit_if_cuda_is_broken(folder: Path, error: BaseException, state: str, message: str) -> None:
    """End this process, with a note for the one after it, if the error leaves it unable to use the GPU."""
    if state == TrialState.FAILED and is_unfit(error):
        write_atomically(folder / ENDED_NOTE, json.dumps({"state": state, "message": message}) + "\n")
        os._exit(1)


def is_unfit(error: BaseException) -> bool:
    """Whether the process can do nothing on the GPU after this error, unless memory was short."""
    return any(text in str(error) for text in _STICKY_TEXTS)


def read_end(folder: Path) -> str:
    """Return why the process before this one ended itself; "" if it did not."""
    file = folder / ENDED_NOTE
    return str(json.loads(file.read_text())["message"]) if file.exists() else ""


def free_memory(error: BaseException) -> None:
    """Free what a failed fit holds: its traceback keeps its frames, these keep its model, and the worker runs on."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    machine.give_back_memory()
