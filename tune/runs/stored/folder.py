"""StoredFolder: a folder on this disk, of which a storage keeps the same files.

An object of the storage is replaced in one step, as a file on a disk is, and objects are put in the order in which the
files are written (`_rank`). So a storage that is left in the middle of it holds what a disk holds after a kill, and
whatever goes on from there loses nothing.

Beside the objects lies an index, which says of each file how large it was, when it was written and its SHA-256: by it a
file that did not change is neither sent nor fetched again, and a file that is fetched has the time that it had.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from maskcls.storage.store import Store
from maskcls.training.checkpoint_files import STATE_FILE

INDEX = "stored.json"
DRIVERS = ".storage.json"
"""In a run's folder on the disk of its driver: which drivers' work it holds, by their leases."""
_AFTER_THE_STATE = ("epochs.jsonl",)
_LAST = ("search.json", "comparison.json", "bundle.json", "result.json")
"""Records that speak of the other files of their folders. They are read before those, and put after them."""
_REPLACED_WHOLE = (".pt", ".safetensors")
"""Large files that are never changed in place."""
_Entry = list[Any]
"""Bytes, time of the last change in ns, SHA-256."""


def _rank(name: str) -> tuple[int, str]:
    """Where a file stands in the order in which files are put, as on the disk."""
    last = name.rpartition("/")[2]
    place = 3 if last in _LAST else 2 if last in _AFTER_THE_STATE else 1 if last == STATE_FILE else 0
    return place, name


class StoredFolder:
    """Sends a folder's files to a place in the storage, and fetches them from there.

    One process at a time may send, as one driver holds a run, and one worker a fit.

    Args:
        deep: whether files in folders below belong to it.
        belongs: asked for each file's name; those that do not belong are left alone.
    """

    def __init__(
        self, store: Store, folder: Path, *, deep: bool = True, belongs: Callable[[str], bool] = lambda name: True
    ) -> None:
        self.store, self.folder, self._deep, self._belongs = store, folder, deep, belongs
        self._index: dict[str, _Entry] | None = None

    def send(self, *, store: Store | None = None, deletes: bool = False) -> int:
        """Put the files that are new or others than in the storage; return how many.

        Args:
            store: the same place, with another patience.
            deletes: delete what is no longer in this folder, which had all that the storage has.
        """
        store = store or self.store
        index = self._known(store)
        before = dict(index)
        changed = sorted((name for name in self._files() if self._differs(name, index)), key=_rank)
        records = {name: _read(self.folder / name) for name in changed if _rank(name)[0] == 3}
        sent = 0
        for name in changed:
            found = records.get(name) or _read(self.folder / name)
            if found is None:  # removed since
                continue
            content, entry = found
            if name not in index or index[name][2] != entry[2]:
                store.put(name, content)
                sent += 1
            index[name] = entry
        gone = [name for name in index if deletes and not (self.folder / name).exists()]
        for name in gone:
            del index[name]
        if index != before:
            self._note(store, index)
        for name in gone:
            store.delete(name)
        return sent

    def fetch(self) -> list[str]:
        """Bring the files that this folder lacks, or has otherwise; return the names of those that the storage has.

        Files that the storage lacks stay.
        """
        there = [name for name in self.store.sizes(deep=self._deep) if self._is_own(name)]
        index = self._known(self.store, again=True)
        for name in sorted(there, key=_rank):
            if name in index and not self._differs(name, index):
                continue
            file, entry = self.folder / name, index.get(name)
            if entry is None or not self._is_same(file, entry):
                with suppress(FileNotFoundError):  # deleted since it was listed
                    self.store.fetch(name, file)
            if entry is not None and self._is_same(file, entry):
                os.utime(file, ns=(entry[1], entry[1]))
        return there

    def names(self) -> list[str]:
        """Return which files the storage has, as far as they were sent or fetched here."""
        return list(self._known(self.store))

    def forget(self, names: Iterable[str]) -> None:
        """Delete these files from the storage."""
        index, wanted = self._known(self.store), [name for name in names if not (self.folder / name).exists()]
        for name in wanted:
            self.store.delete(name)
        if {*wanted} & index.keys():
            self._note(self.store, {name: entry for name, entry in index.items() if name not in wanted})

    def drop(self, names: Iterable[str]) -> None:
        """Remove these files from this disk, as far as they were sent or fetched here and are the same since."""
        for name in names:
            if not self._differs(name, self._index or {}):
                (self.folder / name).unlink()

    def _note(self, store: Store, index: dict[str, _Entry]) -> None:
        store.put_json(INDEX, index)
        self._index = index

    def _known(self, store: Store, *, again: bool = False) -> dict[str, _Entry]:
        if self._index is None or again:
            self._index = {name: entry for name, entry in store.read_json(INDEX).items() if _is_entry(entry)}
        return dict(self._index)

    def _files(self) -> list[str]:
        found = self.folder.rglob("*") if self._deep else self.folder.glob("*")
        names = [file.relative_to(self.folder).as_posix() for file in found if file.is_file()]
        return [name for name in names if self._is_own(name)]

    def _is_own(self, name: str) -> bool:
        return name != INDEX and not any(part.startswith(".") for part in name.split("/")) and self._belongs(name)

    def _differs(self, name: str, index: dict[str, _Entry]) -> bool:
        """Whether the file is another one than the index says, by its size and time alone."""
        try:
            found = (self.folder / name).stat()
        except OSError:
            return True
        return [found.st_size, found.st_mtime_ns] != index.get(name, [None, None, None])[:2]

    @staticmethod
    def _is_same(file: Path, entry: _Entry) -> bool:
        """Whether the file's content is the one of the index."""
        try:
            if file.stat().st_size != entry[0]:
                return False
        except OSError:
            return False
        found = _read(file)
        return found is not None and found[1][2] == entry[2]


def _read(file: Path) -> tuple[Any, _Entry] | None:
    """Return a file's content as a buffer, and its entry; None if there is no such file.

    The buffer is the file as it was opened: one that is replaced meanwhile does not change it.
    """
    import pyarrow

    try:
        with file.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if file.suffix in _REPLACED_WHOLE and found.st_size:
                content: Any = pyarrow.memory_map(f"/proc/self/fd/{stream.fileno()}").read_buffer(found.st_size)
            else:  # one that is cut while it is mapped would end the process
                content = stream.read(found.st_size)
    except FileNotFoundError:
        return None
    return content, [found.st_size, found.st_mtime_ns, hashlib.sha256(content).hexdigest()]


def _is_entry(entry: object) -> bool:
    return isinstance(entry, list) and [type(value) for value in entry] == [int, int, str]
