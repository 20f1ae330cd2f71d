"""`python -m maskcls.cache`: run as people run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskcls.data.geometry import Geometry
from maskcls.data.pixels import list_stores, open_or_build
from maskcls.stores import features as feature_stores
from maskcls.stores.arrays import gb
from maskcls.stores.features import FeatureStores, Key, fill


def call(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(home), "PATH": "/usr/bin"}
    return subprocess.run(
        [sys.executable, "-m", "maskcls.cache", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two stores, of one photo each."""
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), np.full((20, 20, 3), 77, np.uint8))
    for size in (16, 24):
        open_or_build([str(file)], ["a"], Geometry(size), tmp_path / "cache", 1.0)
    return tmp_path / "cache"


def test_list(cache: Path, tmp_path: Path) -> None:
    done = call("list", "--cache", str(cache), home=tmp_path)
    assert done.returncode == 0, done.stderr
    for info in list_stores(cache):
        assert info.name in done.stdout
    assert str(tmp_path) in done.stdout
    assert f"2 pixel stores under {cache}" in done.stdout


def test_prune_to_a_bound_then_all(cache: Path, tmp_path: Path) -> None:
    done = call("prune", "--cache", str(cache), "--pixel-store-gb", "1", home=tmp_path)
    assert "Removed 0 pixel stores (0 GB); 2 are left" in done.stdout
    assert "Removed 0 feature stores (0 GB); 0 are left (0 GB), 0 of them in use." in done.stdout
    done = call("prune", "--cache", str(cache), home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Removed 2 pixel stores" in done.stdout
    assert "0 are left (0 GB), 0 of them in use." in done.stdout
    assert list_stores(cache) == []


def test_feature_stores_are_listed_and_pruned_apart(cache: Path, tmp_path: Path) -> None:
    key = Key({"backbone": "resnet10t", "stages": "3 of 5 stages", "view": "view 1"}, 3, (4, 4, 8), torch.float32)
    held = FeatureStores(cache).open(key)
    fill([(held, 0), (held, 2)], lambda numbers: torch.ones(len(numbers), 8, 4, 4), block=16)
    listed = call("list", "--cache", str(cache), home=tmp_path).stdout
    assert "resnet10t 3 of 5 stages view 1" in listed
    assert "4 x 4 x 8" in listed
    assert "2 of 3" in listed
    size = gb(feature_stores.list_stores(cache)[0].n_bytes)
    assert f"1 feature stores: {size}." in listed
    done = call("prune", "--cache", str(cache), "--pixel-store-gb", "1", home=tmp_path)
    assert f"Removed 0 feature stores (0 GB); 1 are left ({size}), 1 of them in use." in done.stdout
    del held
    done = call("prune", "--cache", str(cache), "--pixel-store-gb", "1", home=tmp_path)
    assert "Removed 1 feature stores" in done.stdout
    assert len(list_stores(cache)) == 2


def test_the_default_cache_may_be_empty(tmp_path: Path) -> None:
    done = call("list", home=tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"{tmp_path}/.cache/maskcls holds no decoded photos and no frozen features.\n"


@pytest.mark.parametrize("command", ["list", "prune"])
def test_a_named_cache_that_is_not_there(command: str, tmp_path: Path) -> None:
    done = call(command, "--cache", "/no/such/folder", home=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "Error: --cache /no/such/folder is not a folder. Name the folder that a run was given as --cache.\n"
    )


def test_wrong_calls(tmp_path: Path) -> None:
    assert call("prune", "--pixel-store-gb", "-1", home=tmp_path).returncode == 2
    assert call("empty", home=tmp_path).returncode == 2
