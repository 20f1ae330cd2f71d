"""Folders named by labels: each photo has the labels of its folders, and a folder of another name is a problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.data.layouts.scan import check_layouts, scan
from maskcls.data.photos import read_photos
from maskcls.errors import DataError


def photo(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"\xff\xd8\xff" + str(file).encode())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for path in ("Worn/male/under 30/a.jpg", "not_worn/female/30-59/b.jpg", "incorrect/unknown/over_59/c.jpg"):
        photo(tmp_path / path)
    return tmp_path


def test_what_can_be_read_is_known_without_reading_it(data: Path) -> None:
    check_layouts(data)
    (data / "notes").mkdir()
    for name in ("photos.csv", "people.parquet"):
        (data / "notes" / name).touch()
        check_layouts(data / "notes" / name)
    check_layouts(data / "notes")
    for refused in (data / "Worn", data / "Worn/male/under 30/a.jpg", data / "nowhere"):
        with pytest.raises(DataError, match="Expected the contest's layout"):
            check_layouts(refused)


def test_the_folders_are_the_labels(data: Path) -> None:
    photos = read_photos(data, people_from="none").set_index("key")
    assert photos["label"].to_dict() == {
        "Worn/male/under 30/a.jpg": 0,
        "not_worn/female/30-59/b.jpg": 16,
        "incorrect/unknown/over_59/c.jpg": -1,
    }
    assert photos["age"].isna().all()
    assert sorted(photos["age_group"]) == [0, 1, 2]


def test_people_are_asked_for_and_may_be_folders_below_the_age_group(data: Path) -> None:
    with pytest.raises(DataError, match=r"nothing in the folders' names says whom a photo shows"):
        read_photos(data)
    with pytest.raises(DataError, match=r"stands in no folder of one person"):
        read_photos(data, people_from="folder")
    for name in ("a", "b", "c"):
        file = next(data.rglob(f"{name}.jpg"))
        photo(file.parent / "anna" / file.name) if name == "a" else photo(file.parent / name / file.name)
        file.unlink()
    assert sorted(read_photos(data, people_from="folder")["person"]) == ["anna", "b", "c"]


def test_what_has_no_place_is_named(data: Path) -> None:
    photo(data / "wron/male/under_30/d.jpg")
    photo(data / "worn/male/e.jpg")
    photo(data / "worn/male/young/f.jpg")
    (data / "worn" / "notes.txt").write_text("x")
    contents = scan(data, "none")
    assert [problem.message.partition(". ")[0] for problem in contents.problems] == [
        "worn/male/e.jpg stands above the folders <mask>/<gender>/<age_group>",
        "worn/male/young is no folder of a label",
        "wron is no folder of a label",
    ]
    assert "Expected worn, incorrect or not_worn. Did you mean worn?" in contents.problems[-1].message
    assert "Not used: 1 file that is not a photo, as worn/notes.txt." in contents.notes
    assert len(read_photos(data, people_from="none", skip_bad=True)) == 3


def test_such_folders_without_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "worn/male/under_30").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has no photos in <mask>/<gender>/<age_group>/"):
        read_photos(tmp_path, people_from="none")
