"""The benchmark of growth records its measurements; the pixels are in memory once, however many trials share them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcls.data.photos import read_photos
from maskcls.data.splits import split_people
from tests.benchmarks import data_growth
from tests.commands import call

STEPS = ["reading the folder", "splitting the people", "decoding into the pixel store", "opening the pixel store"]


@pytest.mark.soak
def test_more_photos_are_measured_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    words = [
        "--part",
        "photos",
        "--photos",
        "42",
        "--photos",
        "80",
        "--rounds",
        "2",
        "--image-size",
        "32",
        "--out",
        out,
    ]
    said = call(data_growth.main, *words)
    assert said.status == 0, said.err
    assert "42 photos" in said.out
    record = json.loads(out.read_text())
    assert record["settings"]["drawn_people"] == 12
    assert list(record["results"]) == ["photos"]
    assert list(record["results"]["photos"]) == ["42", "80"]
    for steps in record["results"]["photos"].values():
        assert list(steps) == STEPS
        for step in steps.values():
            assert step["seconds"]["n"] == 2
            assert min(step["seconds"]["values"]) > 0
            assert all(
                rss >= own > 0
                for rss, own in zip(step["peak_rss_mb"]["values"], step["peak_own_mb"]["values"], strict=True)
            )


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_trials_share_the_pixels(tmp_path: Path) -> None:
    out = tmp_path / "growth.json"
    words = [
        "--part",
        "trials",
        "--photos",
        "252",
        "--processes",
        "1",
        "--processes",
        "2",
        "--image-size",
        "64",
        "--out",
        out,
    ]
    said = call(data_growth.main, *words)
    assert said.status == 0, said.err
    assert "of it the pixel store" in said.out
    alone, two = (json.loads(out.read_text())["results"]["trials"][n] for n in ("1", "2"))
    store_mb = 252 * 64 * 64 * 3 / 1e6
    assert alone["store_pss_mb"] == pytest.approx(store_mb, abs=0.1)
    assert two["store_pss_mb"] == pytest.approx(store_mb, abs=0.1)
    assert two["store_rss_mb"] == pytest.approx(2 * store_mb, abs=0.2)
    assert two["own_mb"] > 1.5 * alone["own_mb"]
    assert two["rss_mb"] > two["pss_mb"] > alone["pss_mb"]


def test_copied_people_are_people_of_their_own(tmp_path: Path) -> None:
    drawn = data_growth._drawn(tmp_path / "drawn", 42)
    photos = read_photos(data_growth._folder(drawn, tmp_path, 200))
    assert len(photos) == 203
    assert photos["person"].nunique() == 29
    sides = split_people(photos)
    assert len(sides.train) + len(sides.validation) + len(sides.holdout) == 29
    assert min(len(sides.validation), len(sides.holdout)) >= 4  # in one group, all copies would be on one side
