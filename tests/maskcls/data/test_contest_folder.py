"""The contest's layout, with every oddity of its folders, becomes one row per photo, or a list of what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from maskcls.data.checks import check_folder
from maskcls.data.contest_folder import scan
from maskcls.data.corrections import read_corrections
from maskcls.data.photos import read_photos
from maskcls.errors import DataError
from maskcls.labels import CLASS_NAMES

DEV = Path(__file__).parents[4] / "shared/faces/dev"
needs_faces = pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")


def edit(data: Path, old: str, new: str) -> None:
    table = data / "train/train.csv"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new, 1), encoding="utf-8")


def person_folder(data: Path, i: int) -> Path:
    return sorted((data / "train/images").iterdir())[i]


def test_the_contests_folder_becomes_one_row_per_photo(make_contest):
    data = make_contest(6)
    photos = read_photos(data)
    assert len(photos) == 42
    assert list(photos.index) == list(range(42))
    assert sorted(set(photos["label"])) == list(range(18))
    row = photos[photos["key"] == "000006_female_Asian_60/incorrect_mask.jpg"].iloc[0]
    assert (row["person"], row["person_id"], row["race"]) == ("000006_female_Asian_60", "000006", "Asian")
    assert (row["gender"], row["age"], row["age_group"], row["mask"]) == (1, 60, 2, 1)
    assert CLASS_NAMES[row["label"]] == "incorrect, female, over 59"
    assert row["file"] == str(data / "train/images" / row["key"])
    assert row["size_bytes"] == Path(row["file"]).stat().st_size
    assert photos["key"].tolist() == sorted(photos["key"])


def test_the_contests_oddities(make_contest):
    data = make_contest(
        [
            ("003397", "female", "Asian", "19", "003397_female_Asian_19"),
            ("003397", "male", "Asian", "60", "003397_male_Asian_60"),
            ("001498-1", "male", "Asian", "23", "001498-1_male_Asian_23"),
            ("001498-2", "male", "Asian", "23", "001498-2_male_Asian_23"),
        ]
    )
    folder = person_folder(data, 0)
    (folder / "._mask1.jpg").write_bytes(b"litter")
    (folder / ".DS_Store").write_bytes(b"litter")
    (data / "train/images/._003397_male_Asian_60").write_bytes(b"litter")
    (data / "train/images/.hidden").mkdir()
    photos = read_photos(data)
    assert len(photos) == 28
    assert set(photos["person_id"]) == {"003397", "001498-1", "001498-2"}
    assert photos.groupby("person")["gender"].first()["003397_male_Asian_60"] == 0
    assert {Path(file).suffix for file in photos["file"]} == {".jpg", ".jpeg", ".png"}


def test_the_tables_text_may_vary(make_contest):
    data = make_contest(6)
    table = data / "train/train.csv"
    table.write_text("\ufeff" + table.read_text().replace("\n", "\r\n").replace(",male,", ", Male ,"), encoding="utf-8")
    assert len(read_photos(data)) == 42


def remove_table(data):
    (data / "train/train.csv").unlink()


def remove_images(data):
    (data / "train/images").rename(data / "elsewhere")


def empty_images(data):
    remove_images(data)
    (data / "train/images").mkdir()


def binary_table(data):
    (data / "train/train.csv").write_bytes(b"\xff\xfe\x00\xd8")


def remove_photos(data):
    for name in ("mask3.jpg", "normal.jpg"):
        (person_folder(data, 2) / name).unlink()


ONE_PROBLEM = {
    "no table": (remove_table, r"has no train/train\.csv\. Expected .* --data names\. Check the path\."),
    "no images": (remove_images, r"but no folder train/images\. .* Put the people's folders there\."),
    "empty images": (empty_images, r"train/images is empty\. Expected one folder per person"),
    "binary table": (
        binary_table,
        r"train\.csv can't be read as a table \(.*\)\. Expected comma-separated text in UTF-8",
    ),
    "empty table": (
        lambda data: (data / "train/train.csv").write_text(""),
        r"train\.csv is empty\. Expected a heading id,gender,race",
    ),
    "no rows": (
        lambda data: (data / "train/train.csv").write_text("id,gender,race,age,path\n"),
        r"has a heading, but no rows\. Expected one row per person",
    ),
    "column": (
        lambda data: edit(data, "gender,", "sex,"),
        r"lacks the column gender; it has id, sex, race, age, path\. Expected id, gender",
    ),
    "gender": (
        lambda data: edit(data, "000002,male", "000002,man"),
        r"train/train\.csv, line 3 \(000002_male_Asian_45\): gender is 'man'\. "
        r"Expected male or female\. Correct the row\.",
    ),
    "age": (
        lambda data: edit(data, "Asian,45,", "Asian,old,"),
        r"line 3 \(.*\): age is 'old'\. Expected a number of years from 1 to 120",
    ),
    "no age": (lambda data: edit(data, "Asian,45,", "Asian,nan,"), r"line 3 \(.*\): age is 'nan'\. Expected a number"),
    "path": (
        lambda data: edit(data, "000002_male_Asian_45", "../x"),
        r"line 3 \(\.\./x\): path is '\.\./x'\. Expected the name of a folder",
    ),
    "twice": (
        lambda data: edit(data, "000002_male_Asian_45", "000001_male_Asian_25"),
        r"line 3 \(000001_male_Asian_25\): the path stands in line 2 too\. "
        r"Expected one row per person\. Remove the wrong one\.",
    ),
    "person folder": (
        lambda data: person_folder(data, 1).rename(data / "away"),
        r"train/images/000002_male_Asian_45 is missing, but stands in train/train\.csv\. "
        r"Expected a folder with seven photos",
    ),
    "fewer than seven": (
        remove_photos,
        r"train/images/000003_male_Asian_60 has 5 photos instead of seven: mask3, normal missing\. "
        r"Copy the folder again\.",
    ),
    "unknown name": (
        lambda data: (person_folder(data, 0) / "mask6.jpg").write_bytes(b"x"),
        r"000001_male_Asian_25/mask6\.jpg is none of mask1 to mask5, incorrect_mask and normal\. "
        r".* Rename or remove it\.",
    ),
    "two of a name": (
        lambda data: (person_folder(data, 0) / "mask1.png").write_bytes(b"x"),
        r"000001_male_Asian_25/mask1\.png stands beside mask1\.jpeg\. Expected one photo of each name",
    ),
    "empty photo": (
        lambda data: (person_folder(data, 0) / "mask1.jpeg").write_bytes(b""),
        r"000001_male_Asian_25/mask1\.jpeg is empty \(0 bytes\)\. Expected a photo\. Copy it again\.",
    ),
}


@pytest.mark.parametrize("name", ONE_PROBLEM)
def test_one_problem_is_one_message(make_contest, name):
    data = make_contest(6)
    spoil, message = ONE_PROBLEM[name]
    spoil(data)
    with pytest.raises(DataError, match=message) as refused:
        read_photos(data)
    assert "\n" not in str(refused.value)


def test_wrong_folders_are_named(make_contest, tmp_path):
    with pytest.raises(
        DataError, match=r"nowhere does not exist\. Expected the contest's layout: train/train\.csv and train/images"
    ):
        read_photos(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty is empty\. Expected"):
        read_photos(tmp_path / "empty")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file is a file, but no table of photos"):
        read_photos(tmp_path / "file")
    data = make_contest(6)
    with pytest.raises(DataError, match=re.escape(f"Did you mean --data {data}?")):
        read_photos(data / "train")


def spoil_much(data):
    edit(data, "000001,male", "000001,man")
    edit(data, "000002_male_Asian_45", "000003_male_Asian_60")
    remove_photos(data)  # of 000003, who is out already
    (person_folder(data, 3) / "mask1.jpeg").write_bytes(b"")
    (person_folder(data, 4) / "mask2.png").unlink()


def test_all_problems_come_at_once_most_important_first(make_contest):
    data = make_contest(6)
    spoil_much(data)
    with pytest.raises(DataError) as refused:
        read_photos(data)
    first, *lines, last = str(refused.value).splitlines()
    assert first.endswith("has 5 problems:")
    for pattern, line in zip(("too", "gender", "normal missing", "mask2 missing", "empty"), lines, strict=True):
        assert pattern in line
    assert last == (
        f"`python -m maskcls.check --data {data}` lists all of them. "
        "Mend them, or leave those people and photos out of the training with --skip-bad."
    )


def test_a_long_list_is_cut(make_contest):
    data = make_contest(24)
    table = data / "train/train.csv"
    table.write_text(table.read_text().replace("male,Asian", "x,Asian").replace("fex,", "x,"))
    with pytest.raises(DataError) as refused:
        read_photos(data)
    lines = str(refused.value).splitlines()
    assert lines[0].endswith("has 24 problems:")
    assert lines[-2] == "  … and 4 more."
    assert len(lines) == 1 + 20 + 2


def test_skip_bad_leaves_out_and_says_how_many(make_contest, caplog):
    data = make_contest(6)
    spoil_much(data)
    photos = read_photos(data, skip_bad=True)
    assert set(photos["person"]) == {"000004_female_Asian_25", "000005_female_Asian_45", "000006_female_Asian_60"}
    assert len(photos) == 6 + 6 + 7
    assert (
        "3 rows of train.csv and 1 further photo files are left out; 2 people have fewer than seven photos."
        in caplog.text
    )


def test_skip_bad_needs_something_to_keep(make_contest):
    data = make_contest(1)
    edit(data, "000001,male", "000001,man")
    with pytest.raises(DataError, match="gender is 'man'"):
        read_photos(data, skip_bad=True)
    remove_table(data)
    with pytest.raises(DataError, match=r"has no train/train\.csv"):
        read_photos(data, skip_bad=True)


def test_notes_are_no_problems(make_contest):
    data = make_contest(6)
    (data / "train/images/stranger").mkdir()
    (person_folder(data, 0) / "Thumbs.db").touch()
    contents = scan(data)
    assert not contents.problems
    assert contents.notes == [
        "Not used: 1 folder of train/images without a row in train/train.csv, as stranger.",
        "Not used: 1 file that is not a photo (hidden, or of another kind), "
        "as train/images/000001_male_Asian_25/Thumbs.db.",
    ]


@needs_faces
def test_real_faces():
    photos = read_photos(DEV, corrections=read_corrections("published"))
    assert (len(photos), photos["person"].nunique()) == (3234, 462)
    assert photos["mask"].value_counts().to_dict() == {0: 5 * 462, 1: 462, 2: 462}
    assert photos.equals(read_photos(DEV, corrections=read_corrections("none")))


def replaced(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """A change of a data folder: in place of its first person's mask5 stands something else."""

    def change(data: Path) -> None:
        folder = person_folder(data, 0)
        (folder / "mask5.png").unlink()
        make(folder)

    return change


WRONG_DIAGNOSES = {
    "a film": (lambda folder: (folder / "mask5.mov").write_bytes(b"film"), r"But mask5\.mov is not a photo\."),
    "a folder": (lambda folder: (folder / "mask5.jpg").mkdir(), r"But mask5\.jpg is not a file\."),
    "a link": (
        lambda folder: (folder / "mask5.jpg").symlink_to("nowhere"),
        r"But mask5\.jpg is a link to what is not there\.",
    ),
}


@pytest.mark.parametrize("name", WRONG_DIAGNOSES)
def test_what_stands_in_the_place_of_a_missing_photo_is_named(make_contest, name):
    data = make_contest(6)
    make, message = WRONG_DIAGNOSES[name]
    replaced(make)(data)
    (problem,) = scan(data).problems
    assert re.search(
        rf"has 6 photos instead of seven: mask5 missing\. {message} Replace it by a photo\.", problem.message
    )


def test_a_heic_photo_in_a_persons_folder_is_not_missing(make_contest):
    data = make_contest(24)
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    replaced(lambda folder: (folder / "mask5.HEIC").write_bytes(heic))(data)
    (problem,) = check_folder(data)
    assert problem.where == "train/images/000001_male_Asian_25/mask5.HEIC"
    assert (
        "mask5.HEIC is a HEIC photo, as phones write them, which is not read here. Save it as JPEG" in problem.message
    )
    assert len(read_photos(data)) == 24 * 7
