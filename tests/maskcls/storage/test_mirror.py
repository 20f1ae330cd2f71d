"""Photos at an address are fetched once into the cache, and read as those of a folder."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from maskcls.data.dataset import prepare
from maskcls.data.photos import read_photos
from maskcls.errors import DataError, OutOfReach
from maskcls.storage import mirror
from maskcls.storage.mirror import fetched
from maskcls.storage.store import Store
from maskcls.stores.cache_options import CacheOptions
from tests.conftest import DemoFaces
from tests.s3 import S3


def put(folder: Path, store: Store) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            store.put(file.relative_to(folder).as_posix(), file.read_bytes())


def again(address: str, cache: Path) -> Path:
    """As another process asks for it."""
    fetched.cache_clear()
    return fetched(address, cache)


def objects_fetched(s3: S3) -> list[str]:
    found = [one.removeprefix("GET /bucket/") for one in s3.requests if one.startswith("GET /bucket/")]
    s3.requests.clear()
    return [name for name in found if name]


@pytest.fixture
def few(tmp_path: Path) -> Path:
    """A table, and two photos of which nobody looks at the content."""
    folder = tmp_path / "few"
    (folder / "a").mkdir(parents=True)
    (folder / "photos.csv").write_text("file,person,mask,gender,age\na/1.jpg,a,worn,male,20\na/2.jpg,a,worn,male,20\n")
    for name in ("1", "2"):
        (folder / "a" / f"{name}.jpg").write_bytes(b"\xff\xd8\xff" + name.encode())
    return folder


@pytest.mark.slow
def test_the_contests_folder_at_an_address_gives_the_same_photos(s3: S3, tmp_path: Path, demo_faces: DemoFaces) -> None:
    here = demo_faces(18, 1)
    put(here, Store(s3.address(f"{tmp_path.name}/faces")))
    there = prepare(fetched(s3.address(f"{tmp_path.name}/faces"), tmp_path / "cache"), cache=CacheOptions(tmp_path))
    assert there.digest == prepare(here, cache=CacheOptions(tmp_path)).digest
    other = prepare(again(s3.address(f"{tmp_path.name}/faces"), tmp_path / "other cache"), cache=CacheOptions(tmp_path))
    assert other.photos["mtime_ns"].tolist() == there.photos["mtime_ns"].tolist(), "another machine decodes the same"


def test_a_table_is_found_with_its_photos(s3: S3, few: Path, tmp_path: Path) -> None:
    put(few, Store(s3.address(tmp_path.name)))
    photos = read_photos(fetched(s3.address(f"{tmp_path.name}/photos.csv"), tmp_path / "cache"))
    assert [Path(file).read_bytes()[-1:] for file in photos["file"]] == [b"1", b"2"]


def test_what_is_here_is_not_fetched_again_and_what_changed_is(s3: S3, few: Path, tmp_path: Path) -> None:
    address, cache = s3.address(f"{tmp_path.name}"), tmp_path / "cache"
    store = Store(address)
    put(few, store)
    place = again(address, cache)
    objects_fetched(s3)
    assert again(address, cache) == place
    assert objects_fetched(s3) == []
    store.put("a/1.jpg", b"another photo")
    store.delete("a/2.jpg")
    again(address, cache)
    assert set(objects_fetched(s3)) == {f"{tmp_path.name}/a/1.jpg"}
    assert (place / "a" / "1.jpg").read_bytes() == b"another photo"
    assert not (place / "a" / "2.jpg").exists()


def test_a_fetching_that_was_cut_goes_on(s3: S3, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, cache = s3.address(tmp_path.name), tmp_path / "cache"
    put(few, Store(address))
    monkeypatch.setattr(mirror, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(mirror, "_AT_A_TIME", 1)
    s3.faults += ["", "", ""] + 4 * ["500"]  # the list, and the first object with its size
    with pytest.raises(OutOfReach, match="is out of reach"):
        again(address, cache)
    s3.faults.clear()
    objects_fetched(s3)
    place = again(address, cache)
    assert len(set(objects_fetched(s3))) == 2
    assert sorted(file.name for file in place.rglob("*.*")) == ["1.jpg", "2.jpg", "photos.csv"]


def test_what_was_fetched_is_listed_by_its_address_and_removed_where_nobody_uses_it(
    s3: S3, few: Path, tmp_path: Path
) -> None:
    cache, addresses = tmp_path / "cache", [s3.address(f"{tmp_path.name}/{name}") for name in ("one", "two")]
    places = []
    for number, address in enumerate(addresses):
        put(few, Store(address))
        places.append(again(address, cache))
        os.utime(f"{places[-1]}.used", (number, number))
    found = mirror.list_stores(cache)
    assert [(one.source, one.photos, one.in_use) for one in found] == [(one, 3, True) for one in reversed(addresses)]
    assert found[0].n_bytes == sum(file.stat().st_size for file in few.rglob("*.*"))
    assert mirror.prune(cache, 0.0) == []
    for place in places:
        os.close(mirror._held.pop(place))  # as at the process's end
    assert [one.source for one in mirror.prune(cache, 1.5 * found[0].n_bytes / 1e9)] == addresses[:1], "used longer ago"
    assert [place.exists() for place in places] == [False, True]
    assert again(addresses[0], cache) == places[0]
    assert (places[0] / "a" / "1.jpg").exists()


def test_nothing_at_the_address_is_said(s3: S3, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(f"--data s3://bucket/{tmp_path.name}: nothing is there. Expected a")):
        fetched(s3.address(tmp_path.name), tmp_path / "cache")


def test_a_folder_may_have_an_address_too(few: Path, tmp_path: Path) -> None:
    place = fetched(few.as_uri(), tmp_path / "cache")
    assert len(read_photos(place)) == 2
    shutil.rmtree(few)
    assert len(read_photos(place)) == 2
