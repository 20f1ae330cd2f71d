"""A table that is written gives the photos back as they were, whatever layout they came in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskcls.data.corrections import read_corrections
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.layouts.write import check_table, write_table
from maskcls.data.photos import read_photos
from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions
from tests.maskcls.data.layouts.tables import GOOD, HEADING, write


def test_the_contests_folder_as_a_table_is_the_folder_to_the_bit(demo_faces: Any, tmp_path: Path) -> None:
    folder, table = demo_faces(24, 4), tmp_path / "photos.csv"
    write_table(read_photos(folder), table)
    corrections = read_corrections("published")
    pd.testing.assert_frame_equal(
        read_photos(table, corrections=corrections), read_photos(folder, corrections=corrections)
    )
    of_folder, of_table = (prepare(data, cache=CacheOptions(tmp_path / "cache")) for data in (folder, table))
    assert (of_table.digest, of_table.split) == (of_folder.digest, of_folder.split)
    of_folder.save(tmp_path / "one")
    of_table.save(tmp_path / "other")
    for name in ("photos.csv", "split.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_gaps_and_further_columns_come_back(tmp_path: Path) -> None:
    table = write(tmp_path / "a", *(f"{row},{row[0]} x" for row in GOOD), heading=f"{HEADING},light")
    photos = read_photos(table)
    write_table(photos, tmp_path / "again.csv")
    pd.testing.assert_frame_equal(read_photos(tmp_path / "again.csv"), photos)


def test_a_run_keeps_gaps_and_further_columns(tmp_path: Path) -> None:
    table = write(tmp_path / "a", *(f"{row},007" for row in GOOD), heading=f"{HEADING},light")
    photos = read_photos(table)
    from maskcls.data.splits import Split

    faces = FaceDataset(photos, Split(("anna",), ("ben",)), CacheOptions(tmp_path / "cache"))
    faces.save(tmp_path / "run")
    loaded = FaceDataset.load(tmp_path / "run", faces.cache)
    pd.testing.assert_frame_equal(loaded.photos, photos)
    assert loaded.digest == faces.digest


def test_a_place_where_no_table_can_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there.csv").touch()
    for name, message in (
        ("there.csv", r"--write-table .* is there already"),
        ("photos.txt", r"expected the name of a CSV file"),
        ("no/photos.csv", r"there is no folder"),
    ):
        with pytest.raises(CallError, match=message):
            check_table(tmp_path / name, "--write-table")
