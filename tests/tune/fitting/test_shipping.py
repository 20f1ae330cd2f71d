"""A node that does not see the photos gets them decoded from the driver's, once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from maskcls.data.dataset import PHOTOS, FaceDataset, prepare
from maskcls.errors import OutOfReach
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.photo_limits import StatedLimits
from tests.conftest import DemoFaces
from tests.tune.searches import new_run
from tune.fitting import shipping
from tune.fitting.request import FitRequest
from tune.fitting.shipping import ShippedPixels
from tune.runs.folder import SearchRun


@pytest.fixture
def driver(tmp_path: Path, demo_faces: DemoFaces) -> FaceDataset:
    """The photos where the driver is, and a run that has them."""
    faces = prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path / "cache"))
    faces.save(new_run(tmp_path).data)
    return faces


def on_a_node(tmp_path: Path) -> FaceDataset:
    """What a worker has on a node that sees none of the photos."""
    run = SearchRun(tmp_path / "one")
    faces = FitRequest("0000", {}, run.trial("0000"), run.path, 1, 0.0).dataset(CacheOptions(tmp_path / "of the node"))
    files = [file.replace("/train/images/", "/elsewhere/") for file in faces.photos["file"]]
    return replace(faces, photos=faces.photos.assign(file=files))


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_without_the_photos_is_given_them_once(
    driver: FaceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shipping, "AT_A_TIME", 50)
    run, node = tmp_path / "one", on_a_node(tmp_path)
    with shipping.shipping(run, driver.cache, wanted=True):
        pixels, digest = node.known_pixels(32)
        assert np.array_equal(pixels, driver.pixels(32))
        assert digest == driver.known_pixels(32)[1]
    assert not ShippedPixels(run).is_there
    caplog.clear()
    with caplog.at_level(logging.INFO, "maskcls"):
        assert np.array_equal(on_a_node(tmp_path).pixels(32), pixels)
    assert "photos to 32 px" not in caplog.text, "neither decoded nor shipped again"


@pytest.mark.usefixtures("ray_cluster")
def test_photos_are_decoded_there_within_the_runs_limits(driver: FaceDataset, tmp_path: Path) -> None:
    small = CacheOptions(tmp_path / "empty", limits=StatedLimits(megapixels=0.001))
    with shipping.shipping(tmp_path / "one", small, wanted=True), pytest.raises(OutOfReach, match="megapixels"):
        on_a_node(tmp_path).pixels(32)


def test_a_node_without_the_photos_says_so_where_nothing_is_shipped(driver: FaceDataset, tmp_path: Path) -> None:
    with (
        shipping.shipping(tmp_path / "one", driver.cache, wanted=False),
        pytest.raises(OutOfReach, match=r"/elsewhere/.* cannot be read: No such file or directory"),
    ):
        on_a_node(tmp_path).pixels(32)


class Parts:
    """Gives rows that have their numbers as pixels, a quarter at a time, and is cut before some of them."""

    is_there = True

    def __init__(self, until: int) -> None:
        self.until, self.asked_from = until, -1

    def rows(
        self, image_size: int, face_crop: str, n_photos: int, first: int
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        self.asked_from = first
        for start in range(first, self.until, n_photos // 4):
            stop = min(start + n_photos // 4, self.until)
            yield start, np.tile(np.arange(start, stop, dtype=np.uint8)[:, None, None, None], (1, 32, 32, 3))


@pytest.mark.parametrize(("harm", "asked_from"), [("none", 62), ("a note is torn", 61), ("a row is lost", 40)])
def test_a_store_that_came_in_part_is_none_and_goes_on_where_it_was_cut(
    driver: FaceDataset, tmp_path: Path, harm: str, asked_from: int
) -> None:
    stores = tmp_path / "of the node" / "pixels"
    with pytest.raises(OutOfReach, match=r"62 of 126 decoded photos came\."):
        replace(on_a_node(tmp_path), source=Parts(62)).pixels(32)
    (building,) = stores.glob(".building-*/")
    assert list(stores.glob("[!.]*/")) == []
    if harm == "a note is torn":
        (building / "received.u32").write_bytes((building / "received.u32").read_bytes()[:-1])
    elif harm == "a row is lost":
        with (building / "pixels.u8").open("r+b") as pixels:
            pixels.seek(40 * 32 * 32 * 3)
            pixels.write(b"\xff")
    rest = Parts(126)
    found = replace(on_a_node(tmp_path), source=rest).pixels(32)
    assert rest.asked_from == asked_from
    assert (found[:, 0, 0, 0] == np.arange(126)).all()
    assert sorted(file.name for file in next(stores.glob("[!.]*/")).iterdir()) == [
        *("checksums.u32", "manifest.json", "pixels.u8"),
    ]
    assert (tmp_path / "one" / "data" / PHOTOS).exists()
