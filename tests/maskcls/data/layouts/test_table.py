"""A table of photos: what it says is what is read, and each thing that is wrong is named once, with its line."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskcls.data.layouts.scan import scan
from maskcls.data.layouts.write import write_table
from maskcls.data.photos import read_photos
from maskcls.errors import CallError, DataError
from tests.maskcls.data.layouts.tables import GOOD, HEADING, write

LABELS = ["key", "person", "mask", "gender", "age", "age_group", "label"]


def test_one_row_per_photo_with_its_gaps(tmp_path: Path) -> None:
    photos = read_photos(write(tmp_path, *GOOD))
    expected = [
        ("a/1.jpg", "anna", 0, 1, 31.0, 1, 4),
        ("a/2.jpg", "anna", 2, 1, 31.0, 1, 16),
        ("b/1.jpg", "ben", 1, 0, np.nan, 2, 8),
        ("b/2.jpg", "ben", 0, 0, np.nan, 2, 2),
        ("c/1.jpg", "carl", 0, -1, np.nan, -1, -1),
    ]
    pd.testing.assert_frame_equal(photos[LABELS], pd.DataFrame(expected, columns=LABELS))
    assert photos["file"].tolist() == [str(tmp_path / key) for key in photos["key"]]
    assert photos["size_bytes"].tolist() == [Path(file).stat().st_size for file in photos["file"]]


def test_ages_are_whole_numbers_where_all_are_known(tmp_path: Path) -> None:
    assert read_photos(write(tmp_path, *GOOD[:2]))["age"].dtype == np.int64


def test_a_folder_with_the_table_is_the_table(tmp_path: Path) -> None:
    table = write(tmp_path, *GOOD)
    pd.testing.assert_frame_equal(read_photos(tmp_path), read_photos(table))


def test_words_are_read_in_any_case_and_with_any_gap(tmp_path: Path) -> None:
    rows = ("1.jpg,a,Not Worn,MALE,,Under 30", "2.jpg,b,not-worn,Female,,30-59", "3.jpg,c, INCORRECT ,male,61.5,")
    photos = read_photos(write(tmp_path, *rows, heading="File,PERSON,mask,Gender,AGE,Age Group"))
    assert photos["label"].tolist() == [12, 16, 8]


def test_a_person_is_the_same_in_all_photos_so_gaps_are_filled(tmp_path: Path) -> None:
    table = write(tmp_path, "1.jpg,a,worn,male,25,", "2.jpg,a,incorrect,,,", "3.jpg,a,,,,")
    assert read_photos(table)["label"].tolist() == [0, 6, -1]
    assert "2 photos without gender or age have them from other photos of the same person." in scan(table).notes


def test_other_columns_are_kept_as_text_and_a_key_names_the_photo(tmp_path: Path) -> None:
    heading = f"{HEADING},key,light,label,masks"
    photos = read_photos(write(tmp_path, "x/1.jpg,a,worn,male,25,,007,dim,3,x", heading=heading))
    assert photos[["key", "light", "label", "masks"]].iloc[0].tolist() == ["007", "dim", 0, "x"]
    assert "extra" not in photos
    assert any("Column label is not read: that name has another meaning" in note for note in scan(tmp_path).notes)


def test_a_column_that_seems_misspelt_is_noted(tmp_path: Path) -> None:
    table = write(tmp_path, "1.jpg,a,worn,male", heading="file,person,maks,gender")
    assert "Column maks of photos.csv says nothing about the labels. Did you mean mask?" in scan(table).notes


def test_files_are_found_in_any_unicode_form_and_behind_backslashes(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "한국/김.jpg")
    table = write(tmp_path, "한국/김.jpg,a,worn,male,25,", "b/1.jpg,b,worn,male,25,")
    text = table.read_text().replace("한국/김.jpg", decomposed).replace("b/1.jpg", "b\\1.jpg")
    table.write_text(text)
    assert read_photos(table)["key"].tolist() == ["한국/김.jpg", "b/1.jpg"]


WRONG = {
    "a word": ("1.jpg,a,not_wron,male,25,", r"line 2 \(1\.jpg\): mask is 'not_wron'\. Expected worn, .* not_worn\?"),
    "a gender": ("1.jpg,a,worn,mail,25,", r"gender is 'mail'\. Expected male or female\. Did you mean male\?"),
    "an age group": ("1.jpg,a,worn,male,,young", r"age_group is 'young'\. Expected under_30, 30_to_59 or over_59\."),
    "an age": ("1.jpg,a,worn,male,121,", r"age is '121'\. Expected a number of years from 1 to 120\."),
    "age and group": ("1.jpg,a,worn,male,31,over_59", r"age is 31, which is 30_to_59, but age_group is over_59\."),
    "nobody": ("1.jpg,,worn,male,31,", r"person is empty\. Expected who is on the photo\."),
    "no path": (",a,worn,male,31,", r"photos\.csv, line 2: file is ''\. Expected a photo's path"),
    "the folder": (".,a,worn,male,31,", r"file is '\.'\. Expected a photo's path"),
    "no such file": ("x/y.jpg,a,worn,male,31,", r"line 2 \(x/y\.jpg\): there is no such file\."),
    "no photo": ("note.txt,a,worn,male,31,", r"the file is not a photo\."),
    "an empty file": ("empty.jpg,a,worn,male,31,", r"the photo is empty \(0 bytes\)\."),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_problem_has_one_message_and_skip_bad_leaves_it_out(tmp_path: Path, name: str) -> None:
    row, message = WRONG[name]
    good = "good.jpg,good,worn,male,31,"
    write(tmp_path, "1.jpg", good)
    (tmp_path / "note.txt").write_text("a note")
    (tmp_path / "empty.jpg").touch()
    table = write(tmp_path, row, good, files=False)
    with pytest.raises(DataError, match=message) as refused:
        read_photos(table)
    assert "\n" not in str(refused.value)
    assert read_photos(table, skip_bad=True)["person"].tolist() == ["good"]


TOGETHER = {
    "the same row": (
        ["1.jpg,a,worn,male,31,"] * 2,
        r"line 3 \(1\.jpg\): the photo stands in photos\.csv, line 2 too",
        1,
    ),
    "another label": (
        ["1.jpg,a,worn,male,31,", "1.jpg,a,incorrect,male,31,"],
        r"the photo stands in photos\.csv, line 2 too",
        0,
    ),
    "another path": (["1.jpg,a,worn,male,31,", "./1.jpg,a,worn,male,31,"], r"the photo stands in .*line 2 too", 0),
    "two genders": (
        ["1.jpg,a,worn,male,31,", "2.jpg,a,worn,female,31,"],
        r"line 3 \(2\.jpg\): a is female here, but male in photos\.csv, line 2\. Expected one gender",
        0,
    ),
    "two ages": (
        ["1.jpg,a,worn,male,31,", "2.jpg,a,worn,male,35,"],
        r"a is 35 years old here, but 31 years old in photos\.csv, line 2",
        0,
    ),
    "two groups": (
        ["1.jpg,a,worn,male,31,", "2.jpg,a,worn,male,,over_59"],
        r"a is over_59 here, but 30_to_59 in photos\.csv, line 2",
        0,
    ),
    "lost zeros": (
        ["1.jpg,001,worn,male,31,", "2.jpg,1,worn,male,31,"],
        r"person is 1, and 001 in photos\.csv, line 2: they differ in leading zeros",
        0,
    ),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_contradict_each_other_are_one_problem(tmp_path: Path, name: str) -> None:
    rows, message, left = TOGETHER[name]
    table = write(tmp_path, *rows, "good.jpg,good,worn,male,31,")
    with pytest.raises(DataError, match=message) as refused:
        read_photos(table)
    assert "\n" not in str(refused.value)
    assert len(read_photos(table, skip_bad=True)) == left + 1


NOTHING = {
    "no file": (["name,person", "1.jpg,a"], r"photos\.csv lacks the column file; it has name, person\."),
    "semicolons": (["file;person", "1.jpg;a"], r"Its cells are separated by semicolons"),
    "no rows": (["file,person"], r"has a heading, but no rows"),
    "empty": ([], r"is empty\. Expected a heading file,person,mask"),
    "a column twice": (
        ["file,person,Person", "1.jpg,a,a"],
        r"has the columns person and Person, which are both person",
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_table_that_names_no_photo_is_refused(tmp_path: Path, name: str) -> None:
    lines, message = NOTHING[name]
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=message):
            read_photos(tmp_path, skip_bad=skip_bad)


def test_a_table_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"photos\.csv does not exist\. Expected the contest's layout: .* or photos\.csv"
    ):
        read_photos(tmp_path / "photos.csv")


def test_parquet_is_the_same_table(tmp_path: Path) -> None:
    table = write(tmp_path, *GOOD)
    frame = pd.read_csv(table)  # ages as floats with nan, as pandas has them
    frame.to_parquet(tmp_path / "photos.parquet")
    columns = [name for name in read_photos(table) if name not in ("file",)]
    read = read_photos(tmp_path / "photos.parquet")
    pd.testing.assert_frame_equal(read[columns], read_photos(table)[columns])
    frame.assign(mask="x").to_parquet(tmp_path / "photos.parquet")
    with pytest.raises(DataError, match=r"photos\.parquet, row 1 \(a/1\.jpg\): mask is 'x'"):
        read_photos(tmp_path / "photos.parquet")


def test_people_by_number_in_parquet_have_no_decimal_point(tmp_path: Path) -> None:
    write(tmp_path, *GOOD)
    frame = pd.read_csv(tmp_path / "photos.csv").assign(person=[1.0, 1.0, 2.0, 2.0, 3.0])
    frame.to_parquet(tmp_path / "photos.parquet")
    assert read_photos(tmp_path / "photos.parquet")["person"].tolist() == ["1", "1", "2", "2", "3"]


def test_what_is_no_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "photos.parquet").write_text("file,person\n")
    with pytest.raises(DataError, match=r"photos\.parquet can't be read as Parquet"):
        read_photos(tmp_path)


NOBODY = ("a/1.jpg,worn,male,25", "a/2.jpg,worn,male,25", "b/1.jpg,worn,female,25")


def test_without_people_it_must_be_said_whom_a_photo_shows(tmp_path: Path) -> None:
    table = write(tmp_path, *NOBODY, heading="file,mask,gender,age")
    message = (
        r"nothing in photos\.csv says whom a photo shows, .* scores too good\. 2 photos of 3 stand in a folder with "
        r"others, as in a\. Add a column person; or give --people-from folder .* or --people-from none"
    )
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=message):
            read_photos(table, skip_bad=skip_bad)
    assert read_photos(table, people_from="folder")["person"].tolist() == ["a", "a", "b"]
    assert read_photos(table, people_from="none")["person"].tolist() == ["a/1.jpg", "a/2.jpg", "b/1.jpg"]
    with pytest.raises(CallError, match=r"--people-from expects folder or none, but got 'file'\."):
        read_photos(table, people_from="file")


def test_a_photo_in_no_folder_has_no_person_from_its_folder(tmp_path: Path) -> None:
    table = write(tmp_path, *NOBODY, "3.jpg,worn,female,25", heading="file,mask,gender,age")
    with pytest.raises(DataError, match=r"line 5 \(3\.jpg\): the photo stands in no folder of one person"):
        read_photos(table, people_from="folder")


def test_people_that_are_named_stay_and_gaps_are_filled(tmp_path: Path) -> None:
    table = write(tmp_path, "a/1.jpg,anna", "a/2.jpg,", heading="file,person")
    with pytest.raises(DataError, match=r"person is empty"):
        read_photos(table)
    assert read_photos(table, people_from="folder")["person"].tolist() == ["a", "anna"]


def test_every_place_of_a_message_is_a_line_of_the_table(tmp_path: Path) -> None:
    rows = [row for row, _ in WRONG.values()]
    places = [problem.where for problem in scan(write(tmp_path, *rows, files=False)).problems]
    assert len(places) >= len(rows)
    assert all(re.fullmatch(r"photos\.csv, line \d+", place) for place in places)


def test_of_several_layouts_in_one_folder_one_is_read_and_that_is_said(tmp_path: Path, make_contest: Any) -> None:
    data = make_contest(6)
    write_table(read_photos(data), data / "photos.csv")
    (note,) = [note for note in scan(data).notes if "beside" in note]
    assert note == f"train.csv is read, and photos.csv beside it is not. To read that: --data {data}/photos.csv."
    with pytest.raises(DataError, match=rf"lacks the column file; .* Did you mean --data {data}\?"):
        read_photos(data / "train" / "train.csv")
