"""The pool of threads over photos: how many threads, in which order, and what becomes of it where the caller stops."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from maskcls import machine
from maskcls.data import checks
from maskcls.data.pool import over_photos


def test_results_come_in_the_photos_order() -> None:
    def slow_first(photo: int) -> int:
        time.sleep(0.05 * (photo == 0))
        return 10 * photo

    assert list(over_photos(slow_first, range(20), threads=4, ahead=3)) == [10 * photo for photo in range(20)]
    assert list(over_photos(slow_first, [])) == []


def test_no_more_photos_are_begun_than_may_wait() -> None:
    begun: list[int] = []
    results: Any = over_photos(begun.append, range(100), threads=2, ahead=5)
    next(results)
    time.sleep(0.1)
    assert len(begun) <= 6
    results.close()
    assert len(begun) <= 6, "what waits is dropped"


def test_an_error_ends_it() -> None:
    def fail(photo: int) -> int:
        if photo == 3:
            raise ValueError("the fourth")
        return photo

    results = over_photos(fail, range(10), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="the fourth"):
        next(results)


def test_a_containers_quota_bounds_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One core's time: more threads than that would only take it from each other."""
    limits = tmp_path / "cpu.max"
    limits.write_text("100000 100000\n")
    monkeypatch.setattr(machine, "_CPU_MAX", limits)
    threads: set[int] = set()

    def noted(file: str) -> tuple[str, tuple[str, ...]]:
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return "", ()

    monkeypatch.setattr(checks, "_try_decode", noted)
    checks.decode_all([str(number) for number in range(20)])
    assert len(threads) == 1
