from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskcls.data import dataset as facedata
from maskcls.data.dataset import FaceDataset, demo_folder, prepare
from maskcls.data.decoding.decode import decode
from maskcls.data.geometry import Geometry
from maskcls.data.pixels import prune
from maskcls.errors import CallError, DataError
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import FitData

DEV = Path(__file__).parents[4] / "shared/faces/dev"
needs_faces = pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def first_photo(data: Path) -> Path:
    return min((data / "train/images").rglob("mask1.*"))


def test_rows_of_table_and_pixels_agree(make_contest, cache):
    faces = prepare(make_contest(24), cache=CacheOptions(cache))
    pixels = faces.pixels(32)
    assert pixels.shape == (168, 32, 32, 3)
    assert not pixels.flags.writeable
    for row in (0, 71, 167):
        assert np.array_equal(pixels[row], Geometry(32).apply(decode(faces.photos["file"][row]).rgb))
    sides = [set(faces.rows(name).tolist()) for name in ("train", "validation", "holdout")]
    assert set.union(*sides) == set(range(168))
    assert sum(map(len, sides)) == 168
    assert set(faces.photos["person"][faces.rows("holdout")]) == set(faces.split.holdout)


def test_a_face_crop_reaches_the_pixels(make_contest, cache, caplog):
    everybody = prepare(make_contest(24), cache=CacheOptions(cache))
    faces = replace(everybody, photos=everybody.photos[:14])
    with caplog.at_level("INFO", "maskcls"):
        pixels = faces.pixels(32, face_crop="haar")
    assert "of 14 photos; they keep the plain crop" in caplog.text
    assert np.array_equal(pixels[9], Geometry(32, "haar").apply(decode(faces.photos["file"][9]).rgb))
    with pytest.raises(CallError, match="face_crop is one of none, yunet, haar, but got 'nose'"):
        faces.pixels(32, face_crop="nose")


def test_saved_and_loaded_data_are_the_same(make_contest, cache, tmp_path):
    faces = prepare(
        make_contest(
            [("NA", "male", "null", str(age), f'{i:03d} NA, "x" é') for i, age in enumerate([25, 45, 60] * 4)]
            + [("001", "female", "", str(age), f"f{i}") for i, age in enumerate([25, 45, 60] * 4)]
        ),
        cache=CacheOptions(cache),
    )
    faces.save(tmp_path / "run/data")
    loaded = FaceDataset.load(tmp_path / "run/data", CacheOptions(cache, 3.0))
    assert loaded.photos.equals(faces.photos)
    assert (loaded.split, loaded.digest, loaded.cache.pixel_gb) == (faces.split, faces.digest, 3.0)
    assert sorted(file.name for file in (tmp_path / "run/data").iterdir()) == ["photos.csv", "split.json"]
    assert pickle.loads(pickle.dumps(faces)).digest == faces.digest
    # Names that no CSV of the contest's can hold, but a folder can.
    hostile = faces.photos.assign(key=[f"\r=1\x1b,{i}" for i in range(len(faces.photos))])
    replace(faces, photos=hostile).save(tmp_path / "hostile")
    assert FaceDataset.load(tmp_path / "hostile", CacheOptions(cache)).photos.equals(hostile)


def test_a_fit_of_a_run_looks_at_no_photo_again(make_contest, cache, tmp_path):
    data = make_contest(24)
    faces = prepare(data, cache=CacheOptions(cache))
    before = np.array(faces.pixels(32))
    faces.save(tmp_path / "run")
    loaded = FaceDataset.load(tmp_path / "run", CacheOptions(cache))
    data.rename(tmp_path / "elsewhere")
    given = FitData.of(loaded, Recipe(image_size=32))
    assert np.array_equal(given.pixels, before)
    assert given.pixels_digest


def test_photos_that_changed_after_the_run_began_are_decoded_only_where_their_store_is_gone(
    make_contest, cache, tmp_path, caplog
):
    data = make_contest(24)
    faces = prepare(data, cache=CacheOptions(cache))
    first = first_photo(data)
    row = faces.photos["file"].tolist().index(str(first))
    before = np.array(FitData.of(faces, Recipe(image_size=32)).pixels)
    first.write_bytes(max((data / "train/images").rglob("normal.*")).read_bytes())
    still = FitData.of(faces, Recipe(image_size=32))
    assert np.array_equal(still.pixels, before)
    assert "another size or time" not in caplog.text
    digest = still.pixels_digest
    del still
    prune(cache, 0)
    now = FitData.of(faces, Recipe(image_size=32))
    assert not np.array_equal(now.pixels[row], before[row])
    assert now.pixels_digest not in ("", digest), "features of the changed photos have stores of their own"
    assert f"1 of 168 photos have another size or time than when they were listed, as {first}." in caplog.text
    old = replace(faces, photos=faces.photos.drop(columns="mtime_ns"))
    assert FitData.of(old, Recipe(image_size=32)).pixels_digest == now.pixels_digest, "a run from before the column"
    assert prepare(data, cache=CacheOptions(cache)).known_pixels(32)[1] == now.pixels_digest


def test_what_is_not_saved_is_not_loaded(make_contest, cache, tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere/photos\.csv is missing: .* does not hold the photos and the split of a run\."
    ):
        FaceDataset.load(tmp_path / "nowhere", CacheOptions(cache))
    prepare(make_contest(24), cache=CacheOptions(cache)).save(tmp_path)
    (tmp_path / "split.json").write_text("{")
    with pytest.raises(DataError, match=r"split\.json can't be read: The split is not JSON"):
        FaceDataset.load(tmp_path, CacheOptions(cache))
    (tmp_path / "photos.csv").write_text("")
    with pytest.raises(DataError, match=r"photos\.csv can't be read: .*\. Expected the table of photos"):
        FaceDataset.load(tmp_path, CacheOptions(cache))


def test_the_digest_knows_labels_and_files_but_not_places(make_contest, cache, tmp_path):
    data = make_contest(24)
    digest = prepare(data, cache=CacheOptions(cache)).digest
    assert len(digest) == 12
    moved = data.rename(tmp_path / "elsewhere")
    assert prepare(moved, cache=CacheOptions(cache)).digest == digest
    mine = tmp_path / "mine.csv"
    mine.write_text("what,id,value\ngender,000001,female\n")
    assert prepare(moved, corrections=str(mine), cache=CacheOptions(cache)).digest != digest
    first_photo(moved).write_bytes(first_photo(moved).read_bytes() + b"\0")
    assert prepare(moved, cache=CacheOptions(cache)).digest != digest


def test_seed_and_file_decide_the_split(make_contest, cache, tmp_path):
    data = make_contest(24)
    faces = prepare(data, split_seed=1, cache=CacheOptions(cache))
    assert faces.split == prepare(data, split_seed=1, cache=CacheOptions(cache)).split
    assert faces.split != prepare(data, split_seed=2, cache=CacheOptions(cache)).split
    (tmp_path / "mine.json").write_text(faces.split.to_json())
    assert prepare(data, split_file=tmp_path / "mine.json", cache=CacheOptions(cache)).split == faces.split


def test_wrong_calls_are_reported_before_the_data_is_read(tmp_path, cache):
    with pytest.raises(CallError, match=r"--corrections \S*none\.csv: there is no such file"):
        prepare(tmp_path / "nowhere", corrections=str(tmp_path / "none.csv"), cache=CacheOptions(cache))


def test_a_class_with_nobody_in_training_is_named(make_contest, cache, tmp_path):
    data = make_contest(24)
    everybody = sorted(folder.name for folder in (data / "train/images").iterdir())
    old_men = [person for person in everybody if person.endswith("_male_Asian_60")]
    others = [person for person in everybody if person not in old_men]
    (tmp_path / "mine.json").write_text(
        json.dumps({"train": others[:15], "validation": others[15:], "holdout": old_men})
    )
    with pytest.raises(DataError) as refused:
        prepare(data, split_file=tmp_path / "mine.json", cache=CacheOptions(cache))
    assert str(refused.value) == (
        "Classes with nobody in training (people: 15 in train, 5 in validation, 4 in holdout): "
        "2 (worn, male, over 59); "
        "8 (incorrect, male, over 59); 14 (not worn, male, over 59). Expected somebody of each. "
        f"Move some to train in {tmp_path / 'mine.json'}."
    )
    with pytest.raises(
        DataError, match=r"A class with nobody in the whole folder: 17 \(not worn, female, over 59\)\. .*Add people"
    ):
        prepare(_without(data, "_female_Asian_60", "normal"), skip_bad=True, cache=CacheOptions(cache))


def _without(data: Path, person: str, photo: str) -> Path:
    for folder in (data / "train/images").iterdir():
        if folder.name.endswith(person):
            next(folder.glob(photo + ".*")).unlink()
    return data


def test_nobody_to_validate_on(make_contest, cache):
    data = make_contest(6)
    photos = sorted((data / "train/images").rglob("mask1.*"))
    for photo in photos:
        photo.write_bytes(photos[0].read_bytes())
    with pytest.raises(
        DataError,
        match=r"Nobody is left for validation \(people: 6 in train, 0 in validation, 0 in holdout\)\. Expected",
    ):
        prepare(data, cache=CacheOptions(cache))


def test_bad_photos_surface_with_the_pixels_or_are_left_out(make_contest, cache, caplog, tmp_path):
    data = make_contest(24)
    first_photo(data).write_bytes(b"no photo")
    faces = prepare(data, cache=CacheOptions(cache))
    assert len(faces.photos) == 168
    with pytest.raises(DataError, match=r"mask1\.jpeg is not an image that can be decoded"):
        faces.pixels(32)
    assert "left out" not in caplog.text

    everybody = faces.split.to_json()
    (tmp_path / "mine.json").write_text(everybody)
    kept = prepare(data, skip_bad=True, cache=CacheOptions(cache), split_file=tmp_path / "mine.json")
    assert "--skip-bad: 1 photos that can't be decoded are left out." in caplog.text
    assert len(kept.photos) == 167
    assert kept.pixels(32).shape == (167, 32, 32, 3)


def test_a_split_may_name_people_whom_skip_bad_left_out(make_contest, cache, tmp_path):
    data = make_contest(24)
    (tmp_path / "mine.json").write_text(prepare(data, cache=CacheOptions(cache)).split.to_json())
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace("000002,male", "000002,man"))
    faces = prepare(data, skip_bad=True, cache=CacheOptions(cache), split_file=tmp_path / "mine.json")
    assert faces.photos["person"].nunique() == 23
    assert sum(len(side) for side in (faces.split.train, faces.split.validation, faces.split.holdout)) == 23


def test_a_second_run_decodes_nothing(make_contest, cache, monkeypatch):
    data = make_contest(24)
    first_photo(data).write_bytes(b"no photo")
    first = prepare(data, skip_bad=True, cache=CacheOptions(cache)).pixels(32)

    def refuse(*_):
        raise AssertionError("a photo is decoded again")

    monkeypatch.setattr("maskcls.data.checks.check", refuse)
    monkeypatch.setattr("maskcls.data.pixels.decode", refuse)
    assert np.array_equal(prepare(data, skip_bad=True, cache=CacheOptions(cache)).pixels(32), first)


def test_demo_faces_are_drawn_once(cache, monkeypatch):
    monkeypatch.setattr(facedata, "DEMO_PERSONS", 24)
    faces = prepare(None, cache=CacheOptions(cache))
    assert faces.photos["person"].nunique() == 24
    assert len(faces.photos) == 24 * 7
    folder = demo_folder(cache)
    drawn = folder.stat().st_mtime_ns
    assert prepare(None, cache=CacheOptions(cache)).digest == faces.digest
    assert folder.stat().st_mtime_ns == drawn


@needs_faces
def test_real_faces(cache, tmp_path):
    faces = prepare(DEV, cache=CacheOptions(cache))
    assert tuple(len(faces.rows(name)) for name in ("train", "validation", "holdout")) == (7 * 324, 7 * 69, 7 * 69)
    faces.save(tmp_path)
    loaded = FaceDataset.load(tmp_path, CacheOptions(cache))
    assert loaded.photos.equals(faces.photos)


def test_a_refusal_lists_all_that_check_would_in_one_go(make_contest, cache):
    data = make_contest()
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace(",female,Asian,25,", ",femal,Asian,25,", 1))
    spoilt = next((data / "train/images").glob("*/mask1*"))
    spoilt.write_bytes(spoilt.read_bytes()[:40])
    with pytest.raises(DataError) as refused:
        prepare(data, cache=CacheOptions(cache))
    assert "femal" in str(refused.value)
    assert spoilt.name in str(refused.value)


def test_an_error_in_the_corrections_is_not_replaced_by_those_of_the_folder(make_contest, cache, tmp_path):
    data = make_contest(24)
    first_photo(data).write_bytes(b"no photo")
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace("\n000002,", "\n000001,"))
    (tmp_path / "mine.csv").write_text("what,id,value\ngender,000001,female\n")
    with pytest.raises(DataError, match=r"mine\.csv, line 2: id 000001 stands for 2 people"):
        prepare(data, corrections=str(tmp_path / "mine.csv"), cache=CacheOptions(cache))


def test_a_refusal_names_no_class_that_another_split_or_other_labels_may_have(make_contest, cache, tmp_path):
    """Nobody is a woman over 59, unless the corrections say so."""
    data = make_contest(24)
    lone = [folder for folder in sorted((data / "train/images").iterdir()) if folder.name.endswith("_female_Asian_60")]
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace(",female,Asian,60,", ",female,Asian,50,"))
    table.write_text(table.read_text().replace("000002,male", "000002,man"))
    (tmp_path / "mine.csv").write_text(f"what,path,value\nage,{lone[0].name},61\n")
    asked: dict[str, dict[str, Any]] = {"default": {}, "own labels": {"corrections": str(tmp_path / "mine.csv")}}
    asked["own split"] = {"split_file": tmp_path / "mine.json"}
    (tmp_path / "mine.json").write_text("{}")
    for name, options in asked.items():
        with pytest.raises(DataError, match="man") as refused:
            prepare(data, cache=CacheOptions(cache), **options)
        assert ("nobody in" in str(refused.value)) == (name == "default"), name


def test_classes_that_validation_lacks_are_reported(make_contest, cache, caplog):
    prepare(make_contest(24), cache=CacheOptions(cache))
    lacking = [message for message in caplog.messages if "validation people have" in message]
    assert len(lacking) == 1
    assert "of the 18 classes" in lacking[0]
