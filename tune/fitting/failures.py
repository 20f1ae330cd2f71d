"""Tell a fit's errors apart, and act on them in a Ray worker."""

from __future__ import annotations

import errno
import gc
import json
import os
import traceback
from pathlib import Path

from maskcls import machine
from maskcls.errors import Damaged, Diverged, Missing, OutOfReach, RunError, is_out_of_memory
from maskcls.files import FULL, FileKind, write_atomically
from tune.states import TrialState

ERROR = "error.txt"
"""The last error's traceback, in the fit's folder."""
# After these (an illegal access, a device-side assert) the process can do nothing on the GPU any more, unless memory
# was short.
_STICKY_TEXTS = ("CUDA error", "cuDNN error")
_NO_GPU_TEXTS = (
    "Found no NVIDIA driver",
    "No CUDA GPUs are available",
    "NVIDIA driver on your system is too old",
    "CUDA driver version is insufficient",
    "CUDA driver initialization failed",
    "CUDA initialization",
    "CUDA unknown error",
    "CUDA-capable device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "Torch not compiled with CUDA enabled",
)
_OUT_OF_REACH = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENODEV, errno.ENXIO),
    *(errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO),
}
"""Of files: a disk that is gone or not mounted, a folder that was moved, a server that does not answer."""
IN_A_ROW = 3
"""So many failures of the machine one after the other, and no further trial or fit is begun."""
ENDED_NOTE = "ended.json"
"""Written by a process that ends itself, for the one that takes its fit over."""
ENDED_FILE = FileKind("why a process ended itself: a JSON object with a message", "Remove it to do this fit again.")
ERROR_FILE = FileKind("a traceback", "Remove it.")


def state_of(error: BaseException) -> TrialState:
    """Return the state that an exception means."""
    if isinstance(error, Diverged):
        return TrialState.DIVERGED
    if is_out_of_memory(error):
        return TrialState.OUT_OF_MEMORY
    if _is_full_disk(error):
        return TrialState.DISK_FULL
    return TrialState.MACHINE_FAILED if _is_of_the_machine(error) else TrialState.FAILED


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether any recipe would have failed so: a file is out of reach, or the GPU cannot be used at all."""
    if isinstance(error, OutOfReach | Missing) or (isinstance(error, OSError) and error.errno in _OUT_OF_REACH):
        return True
    return isinstance(error, RuntimeError | AssertionError) and any(text in str(error) for text in _NO_GPU_TEXTS)


def stopped_by_the_machine(what: str, message: str, resume: str) -> RunError:
    """Return the error that ends the work after failures in a row.

    Args:
        what: of which there were so many, as in `trials`.
        message: of the last of them.
        resume: how to go on.
    """
    return RunError(
        f"{IN_A_ROW} {what} in a row failed by the machine, not by their recipes, the last one with: {message} None of "
        f"them is lost. Mend that, then go on: {resume}"
    )


def _is_full_disk(error: BaseException) -> bool:
    """Whether the disk was full. torch turns such an error into one that has only the text."""
    causes = (error, error.__cause__, error.__context__)
    by_number = any(isinstance(cause, OSError) and cause.errno in FULL for cause in causes)
    return by_number or "No space left on device" in str(error)


def explain(error: BaseException) -> str:
    """Say an error in one line for tables.

    Errors of this project are messages already; others are named with their class.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, RunError | OutOfReach) else f"{type(error).__name__}: {text}"


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
    try:
        with ENDED_FILE.reading(folder / ENDED_NOTE):
            return str(ENDED_FILE.read_object(folder / ENDED_NOTE)["message"])
    except Missing:
        return ""
    except Damaged as error:
        return f"The process before this one ended itself. {error}"


def read_error(folder: Path) -> list[str]:
    """Return the lines of a fit's last traceback; none where there is none, or it cannot be read."""
    try:
        return ERROR_FILE.read_bytes(folder / ERROR).decode(errors="replace").strip().splitlines()
    except Damaged:
        return []


def free_memory(error: BaseException) -> None:
    """Free what a failed fit holds: its traceback keeps its frames, these keep its model, and the worker runs on."""
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    machine.give_back_memory()
