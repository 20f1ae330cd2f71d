"""Photos that stand twice with different labels: the less probable label is to be corrected."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import pandas as pd
import pytest

from maskcls.data.photos import read_photos
from maskcls.reports.explore.photo_looks import look_at
from tests.conftest import DemoFaces
from tests.tune.audit.conftest import Knowing
from tune.audit.duplicates import contradictions
from tune.audit.findings import Finding, age_of, find


def photo(folder: Path, person: str, name: str) -> Path:
    (file,) = (folder / "train" / "images" / person).glob(f"{name}.*")
    return file


@pytest.fixture
def folder(demo_faces: DemoFaces, tmp_path: Path) -> Path:
    shutil.copytree(demo_faces(24, 4), tmp_path / "faces")
    return tmp_path / "faces"


def people_of(photos: pd.DataFrame, gender: int, group: int) -> list[str]:
    chosen = photos[(photos["gender"] == gender) & (photos["age_group"] == group)]
    return chosen["person"].unique().tolist()


def test_one_file_under_a_man_and_a_woman(folder: Path, photos: pd.DataFrame, knowing: Knowing) -> None:
    man, woman = people_of(photos, 0, 0)[0], people_of(photos, 1, 1)[0]
    for name in ("mask1", "normal"):  # the woman's folder also holds the man's photos
        source, target = photo(folder, man, name), photo(folder, woman, name)
        shutil.copyfile(source, target)
    table = read_photos(folder)
    true = table.assign(label=table["label"].where(table["person"] != woman, 0))  # predictions see a young man
    found = contradictions(knowing(table, true), look_at(table["file"].tolist()))
    assert [(one.what, one.person) for one in found] == [("gender", woman), ("age", woman)]
    gender, age = found
    assert (gender.value, gender.was, age.was) == ("male", "female", "30 to 59")
    assert age.value == str(table.loc[table["person"] == man, "age"].iloc[0])
    assert f"the same file as {man}/" in gender.why
    assert gender.score > 0.9


def test_a_recompressed_copy_in_another_mask_state(folder: Path, photos: pd.DataFrame, knowing: Knowing) -> None:
    person = photos["person"].iloc[0]
    copied = cv2.imread(str(photo(folder, person, "mask3")))
    cv2.imwrite(str(photo(folder, person, "normal")), copied, [cv2.IMWRITE_JPEG_QUALITY, 60])
    table = read_photos(folder)
    is_copy = table["key"].str.startswith(f"{person}/normal")
    true = table.assign(label=table["label"].where(~is_copy, table["label"] - 12))
    predictions = knowing(table, true)
    (found,) = contradictions(predictions, look_at(table["file"].tolist()))
    assert (found.what, found.file, found.value, found.was) == ("mask", "normal", "worn", "not worn")
    assert "looks the same" in found.why
    pytest.importorskip("cleanlab", reason="audits need cleanlab (the extra `audit`)")
    (joined,) = (one for one in find(predictions, [found]) if one.person == person)
    assert "predicted from this photo" in joined.why, "one correction, with both reasons"
    assert "looks the same" in joined.why


def test_twins_with_the_same_labels_are_no_contradiction(folder: Path, photos: pd.DataFrame, knowing: Knowing) -> None:
    one, other = people_of(photos, 0, 0)[:2]
    shutil.copyfile(photo(folder, one, "mask1"), photo(folder, other, "mask1"))
    table = read_photos(folder)
    found: list[Finding] = contradictions(knowing(table, table), look_at(table["file"].tolist()))
    assert found == []


def test_an_age_that_is_proposed_is_in_whole_years_or_a_group(photos: pd.DataFrame) -> None:
    """A column with a gap holds floats, and 34.0 is no age of a correction."""
    table = photos.iloc[:2].assign(age=[34.0, float("nan")], age_group=[1, 2])
    assert [age_of(table, row) for row in (0, 1)] == ["34", "over 59"]
