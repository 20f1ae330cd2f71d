"""Photos without all labels, and extra photos: where they go in splits, and what is said of them."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskcls.data.checks import inspect_folder
from maskcls.data.dataset import FaceDataset, prepare
from maskcls.data.layouts.write import write_table
from maskcls.data.photos import list_photos, read_photos
from maskcls.data.shortages import people_by_label, shortages, too_few_for_folds
from maskcls.data.splits import SIDES, Split, count_groups, folds, read_split, scored_people, split_people
from maskcls.errors import DataError
from maskcls.stores.cache_options import CacheOptions
from tests.maskcls.data.layouts.gappy import MANY, gappy
from tests.maskcls.data.layouts.tables import write


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, demo_faces: Any) -> Path:
    return gappy(tmp_path_factory.mktemp("gappy"), demo_faces(24, 4))


@pytest.fixture(scope="module")
def photos(table: Path) -> pd.DataFrame:
    return read_photos(table)


def test_the_table_has_what_it_is_to_show(photos: pd.DataFrame) -> None:
    counts = photos["person"].value_counts()
    assert (counts.min(), counts.max()) == (1, MANY)
    for column in ("mask", "gender", "age_group", "label"):
        assert (photos[column] == -1).any(), column
    assert (photos["age"].isna() & (photos["label"] != -1)).any()
    assert 0 < len(scored_people(photos)) < photos["person"].nunique()


def test_people_who_cannot_be_scored_are_in_training_alone(photos: pd.DataFrame) -> None:
    unscored = set(photos["person"]) - scored_people(photos)
    for seed in range(5):
        split = split_people(photos, seed)
        assert unscored < set(split.train)
        assert sorted(person for side in SIDES for person in split.side(side)) == sorted(set(photos["person"]))
    persons = (*split.train, *split.validation)
    parts = folds(photos, 3, 0, persons)
    assert all(unscored < set(part.train) for part in parts)
    validated = sorted(person for part in parts for person in part.validation)
    assert validated == sorted(set(persons) - unscored)
    assert count_groups(photos, persons) == len(validated)


def test_they_move_nobody_else(photos: pd.DataFrame) -> None:
    scored = scored_people(photos)
    alone = split_people(photos[photos["person"].isin(list(scored))].reset_index(drop=True))
    split = split_people(photos)
    assert (split.validation, split.holdout) == (alone.validation, alone.holdout)
    assert set(split.train) & scored == set(alone.train)


def test_a_class_of_few_people_is_in_training(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,p{i},worn,male,25," for i in range(30)] + ["x.jpg,x,incorrect,male,25,"]
    table = read_photos(write(tmp_path, *rows))
    assert all("x" in split_people(table, seed).train for seed in range(10))


def test_a_split_of_ones_own_may_not_score_whom_it_cannot(photos: pd.DataFrame, tmp_path: Path) -> None:
    split = split_people(photos)
    unscored = min(set(photos["person"]) - scored_people(photos))
    train = tuple(person for person in split.train if person != unscored)
    wrong = replace(split, train=train, validation=(*split.validation, unscored))
    (tmp_path / "split.json").write_text(wrong.to_json())
    with pytest.raises(DataError, match=rf"names {unscored} in validation or holdout, but none of their photos can be"):
        read_split(tmp_path / "split.json", photos)


def test_shortages_are_said_with_their_numbers(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,p{i},worn,male,25," for i in range(4)] + ["a.jpg,a,worn,female,25,", "b.jpg,b,worn,,,"]
    table = read_photos(write(tmp_path, *rows))
    split = Split(("a", "b", "p0", "p1"), ("p2",), ("p3",))
    counts = people_by_label(table, set(table["person"]))
    assert len(counts) == 8 + 18
    assert {name: people for name, people in counts.items() if people} == {
        "mask worn": 5,
        "gender male": 4,
        "gender female": 1,
        "age group under 30": 5,
        "0 (worn, male, under 30)": 4,
        "3 (worn, female, under 30)": 1,
    }
    labels, people = shortages(table, split)
    assert labels.startswith("22 labels and classes have fewer people than the split has sides, so that a side is ")
    assert "People in train + validation + holdout: mask incorrect: 0 + 0 + 0; mask not worn: 0 + 0 + 0; " in labels
    assert "; and 18 more. Add people of that gender and age, and their photos, or say who is on which side" in labels
    assert people.startswith("1 person is in training alone, because none of their photos has mask, gender and age")
    assert too_few_for_folds(table, split, 3) == (
        "2 labels and classes have fewer people in training and validation than there are folds (3), so that a fold is "
        "scored without them: gender female: 1 person; 3 (worn, female, under 30): 1 person. Add people of that gender "
        "and age, and their photos, or make fewer folds."
    )
    assert not too_few_for_folds(table, Split(("p0", "p1"), ("p2", "a")), 1)


def test_a_label_that_nobody_has_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    rows = [f"{i}.jpg,p{i},worn,male,{20 + 7 * i}," for i in range(8)]
    with pytest.raises(DataError, match=r"Classes with nobody .* No photo has mask incorrect, mask not worn, gender"):
        prepare(write(tmp_path / "a", *rows), cache=CacheOptions(tmp_path))
    rows = [f"{i}.jpg,p{i},worn,,," for i in range(8)]
    with pytest.raises(DataError, match=r"None of the 8 photos has mask, gender and age group"):
        prepare(write(tmp_path / "b", *rows), cache=CacheOptions(tmp_path))


def test_a_prepared_table_with_gaps_is_kept_and_read_again(table: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "maskcls")
    faces = prepare(table, cache=CacheOptions(tmp_path))
    assert "people are in training alone" in caplog.text
    faces.save(tmp_path / "data")
    again = FaceDataset.load(tmp_path / "data", faces.cache)
    pd.testing.assert_frame_equal(again.photos, faces.photos)
    assert (again.digest, again.split) == (faces.digest, faces.split)
    changed = faces.photos.assign(gender=faces.photos["gender"].where(faces.photos["gender"] != -1, 1))
    assert replace(faces, photos=changed).digest != faces.digest, "a label that is known counts, though no class is"


def test_check_lists_a_table_with_gaps_as_fine(table: Path) -> None:
    inspection = inspect_folder(table)
    assert not inspection.problems
    assert len(inspection.photos) == len(read_photos(table))
    assert any("in training alone" in note for note in inspection.notes)


def test_the_photos_of_a_table_are_predicted_in_its_order(table: Path, tmp_path: Path) -> None:
    listed = list_photos(table)
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert listed["key"].tolist() == [key or file for key, file in zip(rows["key"], rows["file"], strict=True)]
    twice = write(tmp_path, "1.jpg,a,,,,", "./1.jpg,a,,,,")
    with pytest.raises(DataError, match=r"names 1\.jpg more than once"):
        list_photos(twice)


# Extra photos


@pytest.fixture(scope="module")
def extra(tmp_path_factory: pytest.TempPathFactory, demo_faces: Any) -> Path:
    """Other drawn people, without their ages."""
    file = tmp_path_factory.mktemp("extra") / "photos.csv"
    photos = read_photos(demo_faces(6, 9))
    write_table(photos.assign(age=float("nan"), age_group=-1, person="new " + photos["person"], light="dim"), file)
    return file


def test_extra_photos_are_trained_on_and_nothing_else(extra: Path, demo_faces: Any, tmp_path: Path) -> None:
    cache = CacheOptions(tmp_path)
    data = demo_faces(24, 4)
    alone, faces = prepare(data, cache=cache), prepare(data, extra=extra, cache=cache)
    assert len(faces.photos) == len(alone.photos) + 42
    assert (faces.split.validation, faces.split.holdout) == (alone.split.validation, alone.split.holdout)
    assert set(faces.split.train) - set(alone.split.train) == set(faces.photos.loc[faces.photos["extra"], "person"])
    assert faces.digest != alone.digest
    assert faces.photos["light"].tolist() == [""] * len(alone.photos) + ["dim"] * 42
    assert len(faces.photos["key"].unique()) == len(faces.photos)
    for part in folds(faces.photos, 3):
        assert not {*part.validation} & set(faces.photos.loc[faces.photos["extra"], "person"])
    faces.save(tmp_path / "data")
    again = FaceDataset.load(tmp_path / "data", cache)
    pd.testing.assert_frame_equal(again.photos, faces.photos)
    assert again.digest == faces.digest


def test_extra_people_are_in_the_training_of_a_split_of_ones_own(
    extra: Path, demo_faces: Any, tmp_path: Path, caplog: Any
) -> None:
    alone = prepare(demo_faces(24, 4), cache=CacheOptions(tmp_path))
    (tmp_path / "split.json").write_text(alone.split.to_json())
    faces = prepare(demo_faces(24, 4), extra=extra, split_file=tmp_path / "split.json", cache=CacheOptions(tmp_path))
    assert Counter(person.startswith("new ") for person in faces.split.train)[True] == 6
    assert "does not name" not in caplog.text


def test_extra_photos_of_the_datas_people_are_refused(tmp_path: Path, demo_faces: Any) -> None:
    data = demo_faces(24, 4)
    photos, cache = read_photos(data), CacheOptions(tmp_path)
    write_table(photos, tmp_path / "same.csv")
    with pytest.raises(DataError, match=r"--extra .*same\.csv has 24 people of the data: .* and 19 more\. Extra"):
        prepare(data, extra=tmp_path / "same.csv", cache=cache)
    write_table(photos.assign(person="new " + photos["person"]).head(7), tmp_path / "renamed.csv")
    with pytest.raises(DataError, match=r"renamed\.csv has 7 photos of the data, byte for byte, under other people"):
        prepare(data, extra=tmp_path / "renamed.csv", cache=cache)
