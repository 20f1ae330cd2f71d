"""Pixel stores have room within a bound: what is in use stays, and the least recently used goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from maskcls.data import pixels
from maskcls.data.geometry import Geometry, load
from maskcls.data.pixels import list_stores, open_or_build, prune
from maskcls.errors import RunError
from tests.maskcls.data.tiny_store import GB, SIZE, STORE_BYTES, N, build, keys


def test_a_store_beyond_the_budget_is_refused_before_decoding(
    files: list[str], cache: Path, decoded: list[str]
) -> None:
    with pytest.raises(
        RunError, match=r"need 3\.69e-05 GB, but --pixel-store-gb allows 1e-05 GB\. Raise it to 0\.01 or more"
    ):
        build(files, cache, budget_gb=1e-5)
    assert decoded == []


def test_the_least_recently_used_store_makes_room(files: list[str], cache: Path, decoded: list[str]) -> None:
    budget = 2.5 * STORE_BYTES * GB
    for age, part in enumerate((files, files[::-1])):
        build(part, cache, budget_gb=budget)
        newest = max((cache / "pixels").glob("*/manifest.json"), key=lambda file: file.stat().st_mtime)
        os.utime(newest, (1000 + age, 1000 + age))
    build(files, cache, budget_gb=budget)  # opening it makes it the most recently used
    build(files[1:] + files[:1], cache, budget_gb=budget)
    assert len(list_stores(cache)) == 2
    decoded.clear()
    build(files, cache, budget_gb=budget)
    assert decoded == []
    build(files[::-1], cache, budget_gb=budget)
    assert len(decoded) == N


def test_a_store_in_use_stays(files: list[str], cache: Path) -> None:
    """In use is a store as long as its array lives, be it through a view of it."""
    budget = 1.5 * STORE_BYTES * GB
    view = build(files, cache, budget_gb=budget)[2:4]
    assert list_stores(cache)[0].in_use
    with pytest.raises(RunError, match=r"3\.7\de-05 GB under .*/pixels are in use by other runs: together more than"):
        build(files[::-1], cache, budget_gb=budget)
    assert prune(cache, 0) == []
    del view
    assert not list_stores(cache)[0].in_use
    build(files[::-1], cache, budget_gb=budget)
    assert len(list_stores(cache)) == 1


def test_who_waits_gets_the_room_once_nobody_uses_it_any_more(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    budget = 1.5 * STORE_BYTES * GB
    in_use = [build(files, cache, budget_gb=budget)]
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            in_use.clear()

    monkeypatch.setattr(pixels, "sleep", wait)
    other = files[::-1]
    rows, _ = open_or_build(other, keys(other), Geometry(SIZE), cache, budget, waits=True)
    assert np.array_equal(rows[0], load(other[0], Geometry(SIZE)))
    assert len(waited) == 3
    assert caplog.text.count("are in use by other runs") == caplog.text.count("Waiting for room.") == 1
    with pytest.raises(RunError, match=r"but --pixel-store-gb allows 1e-05 GB"):
        open_or_build(files, keys(files), Geometry(SIZE), cache, 1e-5, waits=True)
    assert len(waited) == 3, "what would never fit is not waited for"


def test_a_store_in_use_by_another_process_stays(files: list[str], cache: Path) -> None:
    build(files, cache)
    code = (
        "import sys, json; from pathlib import Path; from maskcls.data.pixels import open_or_build\n"
        "from maskcls.data.geometry import Geometry\n"
        "files = json.loads(sys.argv[1]); keys = [Path(f).name for f in files]\n"
        f"rows = open_or_build(files, keys, Geometry({SIZE}), Path(sys.argv[2]), 1.0)\n"
        "print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(files), str(cache)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        assert prune(cache, 0) == []
        other.communicate("")
    assert [info.n_bytes > STORE_BYTES for info in prune(cache, 0)] == [True]
    assert list_stores(cache) == []


def test_a_new_store_is_in_use_from_the_moment_it_has_its_name(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may make room at that very moment."""
    rename = Path.rename

    def then_pruned(folder: Path, store: Path) -> Path:
        renamed = rename(folder, store)
        assert prune(cache, 0) == []
        return renamed

    monkeypatch.setattr(Path, "rename", then_pruned)
    assert len(build(files, cache)) == N
    assert len(list_stores(cache)) == 1
