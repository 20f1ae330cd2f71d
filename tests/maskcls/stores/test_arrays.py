"""Stores that several processes, and several users, open, list and remove at the same time."""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from maskcls.stores.arrays import MANIFEST, StoreInfo, Stores, sampled_checksum
from tests.conftest import NOBODY

SHAPE = (4, 8)


@pytest.fixture
def kind(tmp_path: Path) -> Stores:
    return stores(tmp_path)


def stores(folder: Path) -> Stores:
    return Stores(folder, "rows.u8", "rows", "--rows-gb", "have fewer")


def make(kind: Stores, name: str = "store") -> Path:
    store = kind.folder / name
    store.mkdir()
    rows = np.arange(np.prod(SHAPE), dtype=np.uint8).reshape(SHAPE)
    rows.tofile(store / kind.file)
    manifest = {"shape": SHAPE, "bytes": rows.nbytes, "checksum": sampled_checksum(rows)}
    (store / MANIFEST).write_text(json.dumps(manifest))
    return store


@contextmanager
def held_alone(file: Path) -> Iterator[Callable[[], None]]:
    """Hold the file's exclusive lock, as another process does for a moment; yield how to wait for one that waits."""
    with file.open("r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        inode = f":{os.fstat(stream.fileno()).st_ino} "

        def wait_for_another() -> None:
            until = time.monotonic() + 20
            while not any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines()):
                assert time.monotonic() < until, "nobody waits for the lock"
                time.sleep(0.01)

        yield wait_for_another


def test_a_store_that_is_being_removed_is_not_opened(kind: Stores) -> None:
    """Whoever removes it deletes the manifest, unlocks the file, and then deletes the folder."""
    store = make(kind)
    opened: list[object] = []
    other = threading.Thread(target=lambda: opened.append(kind.open(store, SHAPE, np.uint8)))
    with held_alone(store / kind.file) as wait_for_another:
        other.start()
        wait_for_another()
        (store / MANIFEST).unlink()
    other.join(20)
    assert opened == [None]


def test_a_process_that_asks_whether_a_store_is_used_does_not_make_it_used(kind: Stores) -> None:
    store = make(kind)
    removed: list[StoreInfo] = []
    other = threading.Thread(target=lambda: removed.extend(kind.prune(0)))
    with held_alone(store / kind.file) as wait_for_another:
        other.start()
        wait_for_another()
    other.join(20)
    assert [info.name for info in removed] == [store.name]
    assert not store.exists()


def test_a_store_that_is_used_stays_whoever_asks(kind: Stores) -> None:
    rows = kind.open(make(kind), SHAPE, np.uint8)
    assert [info.in_use for info in kind.infos()] == [True]
    assert kind.prune(0) == []
    del rows
    assert [info.in_use for info in kind.infos()] == [False]
    assert len(kind.prune(0)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_private_store_is_in_nobodys_way(unprivileged: Path) -> None:
    kind = stores(unprivileged)
    mine, building = make(kind, "mine"), unprivileged / ".building-theirs"
    os.seteuid(0)
    for private in (make(kind, "theirs"), building):
        private.mkdir(exist_ok=True)
        private.chmod(0o700)
    (unprivileged / ".theirs.lock").touch(0o600)
    os.seteuid(NOBODY)
    assert [info.name for info in kind.infos()] == ["mine"]
    kind.make_room(mine, 10, 1.0)
    assert [info.name for info in kind.prune(0)] == ["mine"]
    assert building.exists()
