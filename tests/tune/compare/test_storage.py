"""A comparison that is kept in a storage is gone on with, from there, on a disk that lacks it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskcls.storage.store import Store
from tests.tune.compare.test_command import SMALL, call, table
from tune.fitting.result import RESULT
from tune.runs.folder import ComparisonRun


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_comparison_goes_on_from_its_storage(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    """One of its two fits is lost there as well, and trained again; the other one is not."""
    run, storage = ComparisonRun(tmp_path / "runs" / "one"), tmp_path / "storage"
    words = ("--vary", "lr_head=1e-4", "--set", "lr_head=2e-3", "--seeds", "1", "--epochs", "1", *SMALL, *few_faces)
    there = ("--name", "one", "--begin-or-resume", "--storage", str(storage), "--runs", str(run.path.parent))
    call(*words, *there)
    before = table(run.path)
    lost, kept = sorted(run.path.glob("fits/*"))
    written = (kept / RESULT).stat().st_mtime_ns
    shutil.rmtree(run.path)
    shutil.rmtree(storage / "one" / "fits" / lost.name)

    call(*words, *there)
    assert (kept / RESULT).stat().st_mtime_ns == written
    assert (lost / RESULT).exists()
    assert table(run.path) == before
    assert "result.json" in Store(str(storage), f"one/fits/{lost.name}").sizes()
