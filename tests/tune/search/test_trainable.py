"""A trial's curve and the states that errors mean, without Ray."""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from maskcls.errors import DataError, Diverged, OutOfMemory, OutOfReach, RunError
from tests.tune.synthetic import Synthetic
from tune.fitting import failures
from tune.fitting.curve import curve, read_curve
from tune.fitting.failures import state_of
from tune.fitting.request import FitRequest, TrialRequest
from tune.states import TrialState


def make_request(folder: Path, epochs: int = 4) -> TrialRequest:
    return TrialRequest("0000", {"epochs": epochs, "lr_head": 1e-3, "frozen_stages": 2}, folder, folder, 1, 0.0)


class OutOfMemoryError(RuntimeError):
    """As torch.cuda has it."""


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Diverged("nan"), TrialState.DIVERGED),
        (OutOfMemory("2 GiB"), TrialState.OUT_OF_MEMORY),
        (OutOfMemoryError("CUDA out of memory."), TrialState.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), TrialState.OUT_OF_MEMORY),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            TrialState.OUT_OF_MEMORY,
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), TrialState.FAILED),
        (MemoryError(), TrialState.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), TrialState.DISK_FULL),
        (OSError("state.pt could not be written: iostream error: No space left on device."), TrialState.DISK_FULL),
        (OSError(2, "No such file"), TrialState.MACHINE_FAILED),
        (OSError(116, "Stale file handle"), TrialState.MACHINE_FAILED),
        (OutOfReach("a.jpg cannot be read"), TrialState.MACHINE_FAILED),
        (DataError("no photo to train on"), TrialState.FAILED),
        (RuntimeError("Found no NVIDIA driver on your system."), TrialState.MACHINE_FAILED),
        (OSError(22, "Invalid argument"), TrialState.FAILED),
        (RunError("No weights"), TrialState.FAILED),
        (KeyError("x"), TrialState.FAILED),
    ],
)
def test_the_state_that_an_error_means(error: Exception, state: str) -> None:
    assert state_of(error) == state


def test_fits_of_maskcls_that_diverge_are_known_by_name() -> None:
    from maskcls.errors import Diverged as FitDiverged

    assert state_of(FitDiverged("loss is nan")) == TrialState.DIVERGED


def test_the_best_of_a_curve_that_goes_up_and_down(tmp_path: Path) -> None:
    rows = list(curve(make_request(tmp_path), Synthetic()))
    scores = [row["validation_f1"] for row in rows]
    assert scores[3] < scores[2]
    assert [row["best_f1"] for row in rows] == [*scores[:3], scores[2]]
    assert [row["best_epoch"] for row in rows] == [1, 2, 3, 3]
    assert [row["finished"] for row in rows] == [False, False, False, True]


def test_a_curve_resumed_is_the_curve_unbroken(tmp_path: Path) -> None:
    request = make_request(tmp_path)
    first: Any = curve(request, Synthetic(sleep_s=0.02))
    before = [next(first), next(first)]
    first.close()
    assert len(read_curve(tmp_path)) == 2
    again = list(curve(request, Synthetic(sleep_s=0.02)))
    assert [row["epoch"] for row in again] == [1, 2, 3, 4]
    assert again[:2] == before, "epochs that are done are reported as they were, with the time that they took"
    assert [row["best_f1"] for row in read_curve(tmp_path)] == [row["best_f1"] for row in again]


def test_a_score_that_is_none_is_divergence(tmp_path: Path) -> None:
    def objective(request: FitRequest) -> Generator[dict[str, Any], None, Any]:
        yield {"epoch": 1, "validation_f1": float("nan")}

    with pytest.raises(Diverged, match="The validation F1 of epoch 1 is nan"):
        list(curve(make_request(tmp_path), objective))


def test_an_error_on_a_full_disk_is_still_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failures, "write_atomically", full)
    failures.write_error(tmp_path, "KeyError")
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_a_failed_trial_is_given_back() -> None:
    class Model:
        pass

    held: list[weakref.ref[Model]] = []

    def fit() -> Iterator[int]:
        model = Model()
        held.append(weakref.ref(model))
        yield 1
        raise OutOfMemory("2 GiB")

    try:
        list(fit())
    except OutOfMemory as error:
        assert held[0]() is not None, "the traceback holds it"
        failures.free_memory(error)
        assert held[0]() is None
