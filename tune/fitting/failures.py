"""How a fit's errors are told apart, and what is done about them in a Ray worker."""

from __future__ import annotations

import errno
import gc
import json
import os
import traceback
from pathlib import Path

from maskcls import machine
from maskcls.errors import Diverged, OutOfMemory, RunError
from maskcls.files import write_atomically
from tune.states import TrialState

ERROR = "error.txt"
"""The last error's traceback, in the fit's folder."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_TEXTS = ("out of memory", "can't allocate memory", "cublas_status_alloc_failed", "cudnn_status_alloc_failed")
# After these, unless memory was short (an illegal access, a device-side assert), the process can do nothing on the GPU any more.
_STICKY_TEXTS = ("CUDA error", "cuDNN error")
ENDED_NOTE = "ended.json"


def state_of(error: BaseException) -> TrialState:
    """The state that an exception means."""
    if isinstance(error, Diverged):
        return TrialState.DIVERGED
    if isinstance(error, OutOfMemory | MemoryError) or _is_torchs_out_of_memory(error):
        return TrialState.OUT_OF_MEMORY
    if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY_TEXTS):
        return TrialState.OUT_OF_MEMORY
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, OSError) and cause.errno in _FULL for cause in causes) or "No space left on device" in str(
        error
    ):
        return TrialState.DISK_FULL
    return TrialState.FAILED


def _is_torchs_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or Ray, says that memory was short; by the class's name, so that nobody has to import either to ask."""
    return any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)


def explain(error: BaseException) -> str:
    """One line for tables: our own errors speak for themselves, others need their kind."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RunError) else f"{type(error).__name__}: {text}"


def write_error(folder: Path, text: str) -> None:
    """Keep a traceback beside the trial's curve; a disk that is full must not hide the error itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ERROR, text)
    except OSError:
        return


def exit_if_cuda_is_broken(folder: Path, error: BaseException, state: str, message: str) -> None:
    """End this process, with a note for the one after it, where it can do nothing on the GPU any more."""
    if state == TrialState.FAILED and is_unfit(error):
        write_atomically(folder / ENDED_NOTE, json.dumps({"state": state, "message": message}) + "\n")
        os._exit(1)


def is_unfit(error: BaseException) -> bool:
    """Whether, unless memory was short, the process can do nothing on the GPU after this error."""
    return any(text in str(error) for text in _STICKY_TEXTS)


def read_end(folder: Path) -> str:
    """Why a trial's process ended itself, "" where it did not."""
    file = folder / ENDED_NOTE
    return str(json.loads(file.read_text())["message"]) if file.exists() else ""


def free_memory(error: BaseException) -> None:
    """Give back what the failed trial holds: its frames live on in the traceback, its model in the frames, and the actor runs on."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    machine.give_back_memory()
