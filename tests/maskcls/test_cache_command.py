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
from tests.commands import Said, call_module


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own, where what this one uses is in use elsewhere."""
    environment = {"HOME": str(home), "PATH": "/usr/bin"}
    return subprocess.run(
        [sys.executable, "-m", "maskcls.cache", *arguments], capture_output=True, text=True, env=environment
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MASKCLS_CACHE", raising=False)
    return tmp_path


def call(*arguments: str) -> Said:
    return call_module("maskcls.cache", *arguments)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two stores, of one photo each."""
    file = tmp_path / "a.png"
    cv2.imwrite(str(file), np.full((20, 20, 3), 77, np.uint8))
    for size in (16, 24):
        open_or_build([str(file)], ["a"], Geometry(size), tmp_path / "cache", 1.0)
    return tmp_path / "cache"


def test_list(cache: Path, tmp_path: Path) -> None:
    done = call("list", "--cache", str(cache))
    assert done.status == 0, done.err
    for info in list_stores(cache):
        assert info.name in done.out
    assert str(tmp_path) in done.out
    assert f"2 pixel stores under {cache}" in done.out


def test_prune_to_a_bound_then_all(cache: Path) -> None:
    done = call("prune", "--cache", str(cache), "--pixel-store-gb", "1")
    assert "Removed 0 pixel stores (0 GB); 2 are left" in done.out
    assert "Removed 0 feature stores (0 GB); 0 are left (0 GB), 0 of them in use." in done.out
    done = call("prune", "--cache", str(cache))
    assert done.status == 0, done.err
    assert "Removed 2 pixel stores" in done.out
    assert "0 are left (0 GB), 0 of them in use." in done.out
    assert list_stores(cache) == []


@pytest.mark.slow
def test_feature_stores_are_listed_and_pruned_apart(cache: Path, tmp_path: Path) -> None:
    key = Key({"backbone": "resnet10t", "stages": "3 of 5 stages", "view": "view 1"}, 3, (4, 4, 8), torch.float32)
    held = FeatureStores(cache).open(key)
    fill([(held, 0), (held, 2)], lambda numbers: torch.ones(len(numbers), 8, 4, 4), block=16)
    listed = call("list", "--cache", str(cache)).out
    assert "resnet10t 3 of 5 stages view 1" in listed
    assert "4 x 4 x 8" in listed
    assert "2 of 3" in listed
    size = gb(feature_stores.list_stores(cache)[0].n_bytes)
    assert f"1 feature stores: {size}; 0 folders of fetched photos: 0 GB." in listed
    done = run("prune", "--cache", str(cache), "--pixel-store-gb", "1", home=tmp_path)
    assert f"Removed 0 feature stores (0 GB); 1 are left ({size}), 1 of them in use." in done.stdout
    del held
    assert "Removed 1 feature stores" in call("prune", "--cache", str(cache), "--pixel-store-gb", "1").out
    assert len(list_stores(cache)) == 2


def test_photos_of_an_address_are_listed_and_pruned_apart(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.png").write_bytes(b"photo")
    address = f"file://{tmp_path}/there"
    fetch = "from maskcls.storage.mirror import fetched; from pathlib import Path; import sys; fetched(sys.argv[1], "
    subprocess.run([sys.executable, "-c", f"{fetch}Path(sys.argv[2]))", address, cache], check=True)
    listed = call("list", "--cache", str(cache)).out
    assert address in listed
    assert "1 folders of fetched photos: 5e-09 GB." in listed
    done = call("prune", "--cache", str(cache), "--pixel-store-gb", "1", "--fetched-gb", "1")
    assert "Removed 0 folders of fetched photos (0 GB); 1 are left (5e-09 GB), 0 of them in use." in done.out
    assert "Removed 1 folders of fetched photos" in call("prune", "--cache", str(cache), "--pixel-store-gb", "1").out
    assert len(list_stores(cache)) == 2


def test_the_default_cache_may_be_empty(tmp_path: Path) -> None:
    done = call("list")
    assert done.status == 0
    assert done.out == f"{tmp_path}/.cache/maskcls holds no decoded photos, no frozen features and no fetched photos.\n"


@pytest.mark.parametrize("command", ["list", "prune"])
def test_a_named_cache_that_is_not_there(command: str) -> None:
    done = call(command, "--cache", "/no/such/folder")
    assert done.status == 2
    assert (
        done.err == "Error: --cache /no/such/folder is not a folder. Name the folder that a run was given as --cache.\n"
    )


def test_wrong_calls() -> None:
    assert call("prune", "--pixel-store-gb", "-1").status == 2
    assert call("empty").status == 2
