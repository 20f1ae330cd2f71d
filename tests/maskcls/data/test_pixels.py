"""The pixel store: decoded once, whole or not there, within its bound, and right to the bit."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls.data import pixels
from maskcls.data.decoding.decode import decode
from maskcls.data.demo.folder import MIN_PERSONS
from maskcls.data.geometry import Geometry, load
from maskcls.data.pixels import default_cache, list_stores, open_or_build, prune
from maskcls.errors import CallError, DataError, RunError
from maskcls.stores.arrays import MANIFEST, SAMPLED_ROWS, sampled_checksum
from tests.conftest import DemoFaces
from tests.maskcls.data.tiny_store import GB, ROOMY, SIZE, STORE_BYTES, N, build, drawn, keys, store_of


def test_rows_are_the_geometrys_result_to_the_bit_and_read_only(files: list[str], cache: Path) -> None:
    rows = build(files, cache)
    assert rows.shape == (N, SIZE, SIZE, 3)
    assert rows.dtype == np.uint8
    for row, file in zip(rows, files, strict=True):
        assert np.array_equal(row, load(file, Geometry(SIZE)))
    with pytest.raises(ValueError, match="read-only"):
        rows[0] = 0


def test_a_second_run_decodes_nothing(files: list[str], cache: Path, decoded: list[str]) -> None:
    first = build(files, cache)
    assert sorted(decoded) == files
    again = build(files, cache)
    assert len(decoded) == N
    assert np.array_equal(first, again)


def test_a_copied_folder_needs_no_decoding(files: list[str], cache: Path, decoded: list[str], tmp_path: Path) -> None:
    build(files, cache)
    shutil.copytree(tmp_path / "photos", tmp_path / "moved")
    build([file.replace("/photos/", "/moved/") for file in files], cache)
    assert len(decoded) == N


@pytest.mark.parametrize("change", ["content", "order", "size", "fewer"])
def test_what_changes_the_rows_makes_another_store(
    files: list[str], cache: Path, decoded: list[str], change: str
) -> None:
    build(files, cache)
    if change == "content":
        cv2.imwrite(files[3], np.full((50, 50, 3), 200, np.uint8))
    wanted = {"order": files[::-1], "fewer": files[:-1]}.get(change, files)
    size = SIZE + 1 if change == "size" else SIZE
    rows = build(wanted, cache, size)
    assert len(decoded) == N + len(wanted)
    assert np.array_equal(rows[3], load(wanted[3], Geometry(size)))
    assert len(list_stores(cache)) == 2


@pytest.mark.parametrize("damage", ["short", "zeroed", "no manifest", "torn manifest", "no pixels", "other shape"])
def test_a_damaged_store_is_built_again(files: list[str], cache: Path, decoded: list[str], damage: str) -> None:
    wanted = np.array(build(files, cache))
    store = store_of(cache)
    manifest, data = store / "manifest.json", store / "pixels.u8"
    if damage == "short":
        os.truncate(data, STORE_BYTES - 1)
    elif damage == "zeroed":
        data.write_bytes(bytes(STORE_BYTES))
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "torn manifest":
        manifest.write_text(manifest.read_text()[:40])
    elif damage == "no pixels":
        data.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "shape": [N, SIZE, SIZE, 4]}))
    assert np.array_equal(build(files, cache), wanted)
    assert len(decoded) == 2 * N
    assert len(list_stores(cache)) == 1


def test_undecodable_photos_are_all_reported_and_nothing_stays(files: list[str], cache: Path) -> None:
    Path(files[2]).write_bytes(b"")
    Path(files[5]).write_bytes(Path(files[5]).read_bytes()[:200])
    with pytest.raises(DataError) as caught:
        build(files, cache)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"2 of {N} photos cannot be decoded:"
    assert lines[1].startswith(f"  {files[2]} is empty")
    assert lines[2].startswith(f"  {files[5]} is truncated")
    assert "--skip-bad" in lines[3]
    assert list_stores(cache) == []
    assert not list((cache / "pixels").glob(".building*"))


def test_a_long_list_of_undecodable_photos_is_cut(
    files: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files[:5]:
        Path(file).write_bytes(b"no photo")
    monkeypatch.setattr(pixels, "LISTED", 3)
    with pytest.raises(DataError, match="5 of 12 photos cannot be decoded:\n(  .*\n){3}  … and 2 more"):
        build(files, cache)


def test_a_missing_photo_is_reported(files: list[str], cache: Path) -> None:
    Path(files[1]).unlink()
    with pytest.raises(DataError, match=r"01\.png cannot be read: No such file"):
        build(files, cache)


def test_conversions_are_counted_and_logged(files: list[str], cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    for file in files[:2]:
        cv2.imwrite(file, np.full((40, 40), 90, np.uint8))
    with caplog.at_level("INFO", "maskcls"):
        build(files, cache)
    assert "Decoded 12 photos to 32 px" in caplog.text
    assert "2 grayscale" in caplog.text
    assert json.loads((store_of(cache) / "manifest.json").read_text())["conversions"] == {"grayscale": 2}


def test_faces_that_are_not_found_are_counted_and_reported_at_every_opening(
    files: list[str], cache: Path, decoded: list[str], demo_faces: DemoFaces, caplog: pytest.LogCaptureFixture
) -> None:
    """Drawn faces, some of which are found, and a flat photo that has none."""
    cv2.imwrite(files[0], np.full((40, 30, 3), 90, np.uint8))
    photos = [*map(str, sorted(demo_faces(MIN_PERSONS, 0).glob("train/images/*/[!.]*"))[::3]), files[0]]
    plain, haar = Geometry(SIZE), Geometry(SIZE, "haar")
    expected = [haar.crop(decode(file).rgb) for file in photos]
    missed = sum(cropped.face_missed for cropped in expected)
    assert 1 <= missed < len(photos) / 2
    note = f"No face was found in {missed} of {len(photos)} photos; they keep the plain crop."

    for opening in ("built", "found there"):
        caplog.clear()
        with caplog.at_level("INFO", "maskcls"):
            rows, _ = open_or_build(photos, photos, haar, cache, ROOMY)
        assert caplog.messages.count(note) == 1, opening
        assert np.array_equal(rows, [cropped.pixels for cropped in expected])
        assert len(decoded) == len(photos)
    assert json.loads((store_of(cache) / "manifest.json").read_text())["faces_missed"] == missed

    caplog.clear()
    with caplog.at_level("INFO", "maskcls"):
        middles, _ = open_or_build(photos, photos, plain, cache, ROOMY)
    assert "No face" not in caplog.text
    assert len(list_stores(cache)) == 2
    same = [np.array_equal(row, middle) for row, middle in zip(rows, middles, strict=True)]
    assert same == [cropped.face_missed for cropped in expected]


def test_wrong_calls_are_refused(files: list[str], cache: Path) -> None:
    with pytest.raises(CallError, match="got 0 files and 0 keys"):
        open_or_build([], [], Geometry(SIZE), cache, ROOMY)
    with pytest.raises(CallError, match="got 12 files and 1 keys"):
        open_or_build(files, ["a"], Geometry(SIZE), cache, ROOMY)


def _build_and_count(files: list[str], cache: Path, queue: multiprocessing.Queue[int]) -> None:
    count = 0
    real = decode

    def slow(file: str) -> object:
        nonlocal count
        count += 1
        time.sleep(0.03)
        return real(file)

    pixels.decode = slow  # type: ignore[assignment, attr-defined]
    build(files, cache)
    queue.put(count)


def _both(target: Callable[..., None], *arguments: object) -> Sequence[multiprocessing.process.BaseProcess]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    return processes


def test_of_two_processes_one_decodes_and_the_other_waits(files: list[str], cache: Path) -> None:
    queue: multiprocessing.Queue[int] = multiprocessing.get_context("fork").Queue()
    for process in _both(_build_and_count, files, cache, queue):
        process.join(60)
        assert process.exitcode == 0
    assert sorted(queue.get(timeout=5) for _ in range(2)) == [0, N]


def test_a_killed_builder_leaves_no_store_and_its_remains_are_cleared(files: list[str], cache: Path) -> None:
    queue: multiprocessing.Queue[int] = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=_build_and_count, args=(files * 20, cache, queue))
    process.start()
    deadline = time.monotonic() + 20
    while not list((cache / "pixels").glob(".building-*/pixels.u8")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(20)
    assert list_stores(cache) == []
    assert list((cache / "pixels").glob(".building-*"))
    build(files, cache)
    assert not list((cache / "pixels").glob(".building-*"))
    assert len(list_stores(cache)) == 1


def test_a_full_disk_is_reported_before_decoding(
    files: list[str], cache: Path, decoded: list[str], tmp_path: Path
) -> None:
    size = 100_000
    n = int(shutil.disk_usage(tmp_path).free // (3 * size**2)) + 1
    many = [files[0]] * n
    with pytest.raises(
        RunError, match=r"need .* GB, but the disk of .*/pixels has .* GB left\. Free some space there, or name another"
    ):
        open_or_build(many, many, Geometry(size), cache, float("inf"))
    assert decoded == []
    assert list_stores(cache) == []


def test_a_cache_that_is_a_file_is_reported(files: list[str], cache: Path) -> None:
    cache.write_text("")
    with pytest.raises(RunError, match=r"The cache folder .*/cache cannot take the decoded photos: .*--cache"):
        build(files, cache)


def test_a_read_only_cache_is_reported_but_serves_what_it_has(unprivileged: Path) -> None:
    files, cache = drawn(unprivileged / "photos"), unprivileged / "cache"
    build(files, cache)
    for path in (*cache.rglob("*"), cache):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert len(build(files, cache)) == N
    with pytest.raises(RunError, match=r"The cache folder .*/cache cannot take the decoded photos: Permission denied"):
        build(files[::-1], cache)


def test_prune_keeps_within_a_bound(files: list[str], cache: Path) -> None:
    for size in (16, 24, 32):
        build(files, cache, size)
    total = sum(info.n_bytes for info in list_stores(cache))
    assert prune(cache, total * GB) == []
    removed = prune(cache, (total - 1) * GB)
    assert [info.shape[1] for info in removed] == [16]
    assert [info.shape[1] for info in list_stores(cache)] == [32, 24]
    assert prune(cache / "nowhere", 0) == []


def test_list_names_what_a_store_holds(files: list[str], cache: Path, tmp_path: Path) -> None:
    build(files, cache)
    (info,) = list_stores(cache)
    assert (info.photos, info.shape[1], info.source) == (N, SIZE, str(tmp_path / "photos"))
    assert abs(info.last_used_s - time.time()) < 60
    (store_of(cache) / "manifest.json").unlink()
    assert [damaged.photos for damaged in list_stores(cache)] == [0]


def test_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASKCLS_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("MASKCLS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "maskcls"


def test_without_a_home_that_can_be_written_the_cache_lies_among_the_temporary_files(
    unprivileged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASKCLS_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(unprivileged))
    (home := unprivileged / "home").mkdir(mode=0o500)
    monkeypatch.setenv("HOME", str(home))
    assert default_cache() == unprivileged / f"maskcls-{os.getuid()}" / "cache"
    assert default_cache().parent.stat().st_mode & 0o777 == 0o700
    home.chmod(0o700)
    (home / ".cache" / "maskcls").mkdir(parents=True)
    home.chmod(0o500)
    assert default_cache() == home / ".cache" / "maskcls", "one that is there serves what it has"


def test_the_checksum_sees_a_lost_page() -> None:
    rows = np.random.default_rng(0).integers(1, 255, (SAMPLED_ROWS, 8, 8, 3), dtype=np.uint8)
    before = sampled_checksum(rows)
    for row in (0, SAMPLED_ROWS // 2, SAMPLED_ROWS - 1):
        damaged = rows.copy()
        damaged[row, 3] = 0
        assert sampled_checksum(damaged) != before


def test_a_store_knows_what_decoding_a_photo_took(files: list[str], cache: Path) -> None:
    _, name = open_or_build(files, keys(files), Geometry(SIZE), cache, ROOMY)
    assert pixels.decoding_s(cache, name) > 0
    manifest = store_of(cache) / MANIFEST
    content = json.loads(manifest.read_text())
    del content["decoding_s"]
    manifest.write_text(json.dumps(content))
    assert pixels.decoding_s(cache, name) == 0.0, "an earlier version made it"
    assert pixels.decoding_s(cache, "") == pixels.decoding_s(cache, "nowhere") == 0.0
