"""A byte of a pixel store that is not what was written is seen when its row is first read, said, and decoded again."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from maskcls.data import pixels
from maskcls.errors import DataError
from maskcls.stores import arrays
from maskcls.stores.arrays import MANIFEST
from maskcls.stores.checked import CHECKSUMS, CheckedRows
from tests.maskcls.data.tiny_store import SIZE, N, build, store_of

ROW_BYTES = SIZE * SIZE * 3


@pytest.fixture(autouse=True)
def few_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "SAMPLED_ROWS", 2)  # the first row and the last one, as in a store of many


def flip(store: Path, at: int) -> None:
    with (store / pixels.PIXELS).open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("at", [ROW_BYTES, 5 * ROW_BYTES + 777, (N - 1) * ROW_BYTES - 1])
def test_one_changed_bit_is_seen_and_the_row_is_right(
    files: list[str], cache: Path, decoded: list[str], caplog: pytest.LogCaptureFixture, at: int
) -> None:
    wanted = np.array(build(files, cache))
    flip(store_of(cache), at)
    rows, damaged = build(files, cache), at // ROW_BYTES
    assert len(decoded) == N, "it is opened as it is"
    others = [row for row in range(N) if row != damaged]
    assert np.array_equal(rows[others], wanted[others])
    assert "damaged" not in caplog.text
    for index in (damaged, damaged - N, [0, damaged, 0], slice(damaged, None), np.arange(N) == damaged, (damaged, 3)):
        assert np.array_equal(rows[index], wanted[index])
    assert set(decoded[N:]) == {files[damaged]}
    assert caplog.text.count(f"are damaged (photo {damaged + 1} is not what was written)") == 1
    again = build(files, cache)
    assert len(decoded) > 2 * N, "the whole store is decoded again"
    assert np.array_equal(np.array(again), wanted)


def test_a_row_is_compared_once_by_a_process_and_those_that_it_forks(files: list[str], cache: Path) -> None:
    wanted = np.array(build(files, cache))
    rows = build(files, cache)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(rows[[3, 4]], wanted[[3, 4]]) else 1)
    assert os.waitpid(child, 0)[1] == 0
    flip(store_of(cache), 3 * ROW_BYTES)
    assert not np.array_equal(rows[3], wanted[3]), "it was right when it was compared"
    flip(store_of(cache), 7 * ROW_BYTES)
    assert np.array_equal(rows[7], wanted[7])


def test_a_damaged_row_of_a_photo_that_changed_is_refused(files: list[str], cache: Path) -> None:
    build(files, cache)
    flip(store_of(cache), 5 * ROW_BYTES)
    rows = build(files, cache)
    Path(files[5]).write_bytes(Path(files[6]).read_bytes())
    with pytest.raises(DataError, match=r"are damaged, and .*05\.png is no longer the photo that was decoded"):
        rows[5]


@pytest.mark.parametrize("damage", ["lost", "short", "changed"])
def test_damaged_checksums_make_the_store_again(files: list[str], cache: Path, decoded: list[str], damage: str) -> None:
    wanted = np.array(build(files, cache))
    file = store_of(cache) / CHECKSUMS
    content = file.read_bytes()
    file.write_bytes({"short": content[:-4], "changed": content[:-1] + bytes([content[-1] ^ 1])}.get(damage, b""))
    if damage == "lost":
        file.unlink()
    assert np.array_equal(np.array(build(files, cache)), wanted)
    assert len(decoded) == 2 * N


def test_a_store_of_an_earlier_version_is_read_as_before(files: list[str], cache: Path, decoded: list[str]) -> None:
    wanted: NDArray[np.uint8] = np.array(build(files, cache))
    store = store_of(cache)
    (store / CHECKSUMS).unlink()
    text = (store / MANIFEST).read_text().splitlines(keepends=True)
    (store / MANIFEST).write_text("".join(line for line in text if f'"{pixels.ROWS}"' not in line))
    rows = build(files, cache)
    assert len(decoded) == N
    assert not isinstance(rows, CheckedRows)
    assert np.array_equal(rows, wanted)


def test_in_a_cache_that_may_only_be_read_a_damaged_row_is_decoded_again(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = np.array(build(files, cache))
    flip(store_of(cache), 5 * ROW_BYTES)
    rows = build(files, cache)

    def refused(kind: arrays.Stores, store: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(arrays.Stores, "discard", refused)
    assert np.array_equal(rows[5], wanted[5])
    assert np.array_equal(build(files, cache)[5], wanted[5])
