"""A worker that was killed for want of memory is known from one that died otherwise, and the next one tries less."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tune.fitting import attempts
from tune.fitting.attempts import NOTE, Attempt, killed_for_memory, note_micro_batch, note_ray_killed, noted

RAY_SAYS = "Failure # 1\n1 worker(s) were killed due to the node running low on memory.\n"


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many processes the kernel says that it has killed for memory; the last one counts."""
    kills = [0]
    monkeypatch.setattr(attempts, "memory_kills", lambda: kills[-1])
    return kills


def attempt_killed_at(folder: Path, micro_batch: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """An attempt as it begins, goes on with a micro-batch, and leaves its note behind; returns what it may try."""
    noticed: list[Attempt | None] = []
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "forget", lambda folder: None)  # nothing of the process runs any more
        with noted(folder):
            noticed.append(Attempt.read(folder))
            note_micro_batch(folder, micro_batch)
    (attempt,) = noticed
    assert attempt is not None
    return attempt.most


def test_an_attempt_that_ends_leaves_no_note(tmp_path: Path) -> None:
    with noted(tmp_path):
        assert (tmp_path / NOTE).exists()
    assert list(tmp_path.iterdir()) == []
    note_micro_batch(tmp_path, 8)
    assert list(tmp_path.iterdir()) == [], "a fit without a worker of Ray's notes nothing"


def test_what_the_kernel_killed_goes_on_with_half(
    tmp_path: Path, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attempt_killed_at(tmp_path, 64, monkeypatch) == 0, "any"
    kernel.append(1)
    assert "was killed once by the system" in killed_for_memory(tmp_path)
    assert attempt_killed_at(tmp_path, 32, monkeypatch) == 32
    kernel.append(2)
    assert attempt_killed_at(tmp_path, 16, monkeypatch) == 16
    kernel.append(4)  # another worker as well
    assert killed_for_memory(tmp_path) == (
        "The worker was killed 3 times by the system, for want of memory, the last time in micro-batches of 16. "
        "Less --parallel leaves more memory to each."
    )


def test_what_was_killed_otherwise_goes_on_as_it_was(
    tmp_path: Path, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt_killed_at(tmp_path, 64, monkeypatch)
    assert killed_for_memory(tmp_path) == ""
    assert attempt_killed_at(tmp_path, 64, monkeypatch) == 0
    monkeypatch.setattr(attempts, "_counter", lambda: "the machine was started again")
    kernel.append(5)
    assert killed_for_memory(tmp_path) == "", "this count is not that count"


def test_what_ray_killed_is_known_from_what_it_says(
    tmp_path: Path, kernel: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0007"
    note_ray_killed(folder, "The actor died unexpectedly: its node failed.")
    assert not folder.exists()
    note_ray_killed(folder, RAY_SAYS)  # before the worker had noted anything
    note_ray_killed(folder, RAY_SAYS)
    assert attempts.times_killed(folder) == 2
    assert "killed 2 times by Ray" in killed_for_memory(folder)
    assert attempt_killed_at(folder, 32, monkeypatch) == 0, "it is not known with how much it was killed"
    note_ray_killed(folder, RAY_SAYS)
    assert attempts.times_killed(folder) == 3
    assert attempt_killed_at(folder, 9, monkeypatch) == 16


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"counter": "x", "unknown": 1}'])
def test_a_damaged_note_is_none(tmp_path: Path, damaged: str) -> None:
    (tmp_path / NOTE).write_text(damaged)
    assert killed_for_memory(tmp_path) == ""
    with noted(tmp_path):
        pass


def test_the_counter_is_the_same_in_every_process_here() -> None:
    code = "from tune.fitting.attempts import _counter; print(_counter())"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert other == f"{attempts._counter()}\n"
    assert other.split()


def test_of_another_node_what_its_workers_found_counts(tmp_path: Path) -> None:
    Attempt("another machine", kills=3, micro_batch=16, most=16, killed=2).write(tmp_path)
    assert attempts.times_killed(tmp_path) == 2


def test_a_worker_ends_when_another_has_taken_its_fit_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a machine is cut off, given up by the cluster, and still sees the folder."""
    monkeypatch.setattr(os, "_exit", sys.exit)
    with noted(tmp_path):
        attempts.exit_if_superseded(tmp_path)
        replace(Attempt.read(tmp_path) or Attempt(), worker="of another machine").write(tmp_path)
        with pytest.raises(SystemExit, match="1"):
            attempts.exit_if_superseded(tmp_path)
        attempts.exit_if_followed(tmp_path, {"worker": attempts._ME})
        attempts.exit_if_followed(tmp_path, {})  # the note is not there yet
        with pytest.raises(SystemExit, match="1"):
            attempts.exit_if_followed(tmp_path, {"worker": "of another machine"})
    assert (tmp_path / NOTE).exists(), "the note is the other's"
    attempts.exit_if_superseded(tmp_path)  # a process without a note of its own is nobody's worker
