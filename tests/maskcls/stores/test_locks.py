"""Locks of the stores, whose files somebody removes while they are held."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import Timeout

from maskcls.stores.arrays import build_lock, building_folder
from maskcls.stores.locks import FolderLock


def test_a_folder_that_is_locked_stays_so_without_its_file(tmp_path: Path) -> None:
    file = tmp_path / ".room.lock"
    with FolderLock(tmp_path, file):
        file.unlink()
        with pytest.raises(Timeout):
            FolderLock(tmp_path, file).acquire(wait=False)
    with FolderLock(tmp_path, file):
        assert file.exists()


def test_a_store_that_is_being_built_is_nobody_elses_to_build(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with build_lock(store) as lock:
        building_folder(store).mkdir()
        lock.take_folder()
        (tmp_path / ".store.lock").unlink()
        with pytest.raises(Timeout):
            build_lock(store).acquire(wait=False)
        building_folder(store).rename(store)
    with build_lock(store).acquire(wait=False):  # given back, whatever name the folder has by now
        pass


def test_a_lock_is_held_again_after_it_was_refused(tmp_path: Path) -> None:
    """Who is refused the folder gives the file back."""
    first, second = (FolderLock(tmp_path, tmp_path / name) for name in ("one.lock", "other.lock"))
    with first, pytest.raises(Timeout):
        second.acquire(wait=False)
    with second.acquire(wait=False):
        pass
