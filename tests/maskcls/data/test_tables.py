"""One reader for every table that people wrote: a right reading or one message, and nothing lost without a word."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from maskcls.data.contest_folder import scan
from maskcls.data.corrections import read_corrections
from maskcls.data.names import match
from maskcls.data.photos import list_photos, read_photos
from maskcls.data.splits import read_split
from maskcls.data.tables import Table, read_table
from maskcls.errors import DataError
from maskcls.files import write_csv
from maskcls.serving.submission import classes_of, read_classes

PERSON = "000002_male_Asian_45"


def read(folder: Path, content: str | bytes) -> Table:
    file = folder / "a.csv"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(file)


def edit(data: Path, old: str, new: str) -> None:
    table = data / "train/train.csv"
    text = table.read_text(encoding="utf-8")
    assert old in text
    table.write_text(text.replace(old, new), encoding="utf-8")


# Kinds of fault, each in the smallest input that showed it


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    write_csv(file, ("key", "text"), [("ü,1", 'said "no"'), (2, "b")])
    assert file.read_bytes() == 'key,text\n"ü,1","said ""no"""\n2,b\n'.encode()
    assert read_table(file).rows == [(2, {"key": "ü,1", "text": 'said "no"'}), (3, {"key": "2", "text": "b"})]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_line_ends_blanks_and_missing_cells_are_borne(tmp_path: Path, end: str) -> None:
    lines = ["\ufeffid , age,", " 1 ,", "", '\u200b2\xa0, "3"', ",,,,", '"4",5,,,']
    table = read(tmp_path, end.join(lines))
    assert table.columns == ("id", "age")
    assert [row for _, row in table.rows] == [{"id": "1", "age": ""}, {"id": "2", "age": "3"}, {"id": "4", "age": "5"}]
    assert [line for line, _ in table.rows] == [2, 4, 6]
    assert table.note == f"2 blank rows of {tmp_path}/a.csv are passed over."


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a line break in a cell": ('id,race\n1,"Asian\n2,Asian",\n', r"a\.csv, line 2: a quoted cell runs on into line 3"),
    "a quote left open": ('id,race\n1,a\n2,"Asian\n', r"a\.csv, line 3: a quote is opened and not closed"),
    "a quote inside": ('id,race\n1,"As"ian\n', r"a\.csv, line 2: a quote ends inside a cell"),
    "shifted cells": (
        "id,name,age\n1,Kim,2\n3,Kim, Lee,4\n",
        r"a\.csv, line 3: 4 cells, but 3 columns\. .*between quotes",
    ),
    "a column twice": ("id,age,age\n1,2,3\n", r"a\.csv names the column age more than once"),
    "UTF-16": ("id\n가\n".encode("utf-16"), r"\(it is in UTF-16\)\. .* UTF-8.*iconv -f UTF-16 -t UTF-8"),
    "UTF-16 without its mark": ("id\n1\n".encode("utf-16-be"), r"\(it is in UTF-16\)\. .*iconv -f UTF-16BE"),
    "cp949": ("id\n가\n".encode("cp949"), r"\(line 2 has the byte 0xb0, .* cp949.*\)\. .*iconv -f CP949"),
    "not text": (b"id\n\xff\n", r"\(line 2 has the byte 0xff, which is not UTF-8\)\. Expected comma-separated text in"),
    "zeros": (b"id\n1\0\n", r"\(it holds zero bytes\)"),
    "an endless cell": (b"id\n" + b"x" * 200_000, r"a\.csv can't be read as a table \(line 2: .*\)\."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_read_wrongly_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    content, message = REFUSED[name]
    with pytest.raises(DataError, match=message) as refused:
        read(tmp_path, content)
    assert "\n" not in str(refused.value)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"a\.csv lacks the columns sex, race; it has id, age\. Expected id, sex, race\. Rename"
    ):
        read(tmp_path, "id,age\n").require(["id", "sex", "race"])
    with pytest.raises(DataError, match=r"it has id;age\. .* separated by semicolons: save it with commas\."):
        read(tmp_path, "id;age\n").require(["id", "age"])


def test_a_quoted_cell_swallows_nobody(make_contest):
    data = make_contest(6)
    edit(data, "000002,male,Asian", '000002,male,"Asian')
    edit(data, "000006,female,Asian", '000006,female,Asian"')
    with pytest.raises(DataError, match=r"train\.csv, line 3: a quoted cell runs on into line 7, and swallows"):
        read_photos(data)


def test_blank_rows_of_a_spreadsheet_are_passed_over_and_counted_once(make_contest, tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskcls")
    data = make_contest(6)
    table = data / "train/train.csv"
    table.write_text(table.read_text() + ",,,,\n" * 20)
    contents = scan(data)
    assert contents.problems == []
    assert contents.notes == [f"20 blank rows of {table} are passed over."]
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").touch()
    (tmp_path / "info.csv").write_text("ImageID,ans\n a.jpg , 0 \n" + ",\n" * 20)
    assert list_photos(tmp_path / "info.csv")["key"].tolist() == ["a.jpg"]
    assert read_classes(tmp_path / "info.csv") == {"a.jpg": 0}
    assert caplog.messages == [f"20 blank rows of {tmp_path}/info.csv are passed over."] * 2


@pytest.mark.parametrize("encoding", ["utf-16", "cp949"])
def test_every_table_says_the_same_of_another_encoding(make_contest, tmp_path, encoding):
    data = make_contest(6)
    photos = read_photos(data)
    file = tmp_path / "a.csv"
    file.write_bytes("ImageID,ans,what,path\n가,0,swap,가\n".encode(encoding))
    (data / "train/train.csv").write_bytes(file.read_bytes())
    readers = (
        lambda: read_photos(data),
        lambda: list_photos(file),
        lambda: read_classes(file),
        lambda: read_corrections(str(file)),
        lambda: read_split(file, photos),
        lambda: list_photos(file.rename(tmp_path / "list.txt")),
    )
    for reader in readers:
        with pytest.raises(DataError, match=rf"can't be read as .*(?i:{encoding}).*\. Expected .* in UTF-8\. Save it"):
            reader()


def test_ids_without_their_zeros_are_corrected_and_that_is_said(make_contest, tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskcls")
    data = make_contest(6)
    edit(data, "\n00000", "\n")
    (tmp_path / "mine.csv").write_text("what,id,value\nage,000002,33\n")
    photos = read_photos(data, corrections=read_corrections(str(tmp_path / "mine.csv")))
    assert photos[photos["person"] == PERSON]["age"].tolist() == [33] * 7
    assert (
        "1 name of the corrections' ids differs in leading zeros: matched by number, as 000002 with 2." in caplog.text
    )


def test_paths_without_their_zeros_find_their_folders(make_contest, tmp_path):
    wanted = read_photos(make_contest([(f"{n:03}", "male", "Asian", "25", f"{n:03}") for n in (0, 7, 10)], "whole"))
    data = make_contest([(f"{n:03}", "male", "Asian", "25", f"{n:03}") for n in (0, 7, 10)])
    edit(data, "00", "")
    edit(data, "25,010", "25,10.0")
    contents = scan(data)
    assert contents.problems == []
    assert "3 names of the paths in train/train.csv differ in leading zeros: matched by number, as 0 with 000." in (
        contents.notes
    )
    assert read_photos(data)["key"].tolist() == wanted["key"].tolist()
    (tmp_path / "split.json").write_text('{"train": ["0"], "validation": ["7"], "holdout": ["10"]}')
    assert read_split(tmp_path / "split.json", wanted).train == ("000",)
    answers = tmp_path / "answers.csv"
    answers.write_text("ImageID,ans\n1.jpg,3\n")
    assert classes_of(["0001.jpg"], read_classes(answers), answers).tolist() == [3]


def test_a_number_that_two_names_have_matches_neither() -> None:
    assert match(["1"], ["01", "001"]).found == {}
    assert match(["1", "01"], ["001"]).found == {}
    assert match(["1", "01"], ["01", "001"]).found == {"01": "01", "1": "001"}
    assert match(["1498-1", "a1", "00a"], ["001498-1", "a01", "0a"]).found == {"1498-1": "001498-1"}


def test_names_are_compared_composed(make_contest, tmp_path):
    composed = "김민수"
    apart = unicodedata.normalize("NFD", composed)
    data = make_contest([("1", "male", "Asian", "25", apart), ("2", "male", "Asian", "45", "b")])
    edit(data, apart, composed)
    photos = read_photos(data)
    assert photos["person"].tolist() == ["b"] * 7 + [composed] * 7
    assert all(Path(file).is_file() for file in photos["file"])
    (tmp_path / "split.json").write_text(f'{{"train": ["{apart}"], "validation": ["b"], "holdout": []}}')
    assert read_split(tmp_path / "split.json", photos).train == (composed,)
    (tmp_path / "mine.csv").write_text(f"what,path,value\nage,{apart},33\n")
    corrected = read_photos(data, corrections=read_corrections(str(tmp_path / "mine.csv")))
    assert set(corrected[corrected["person"] == composed]["age"]) == {33}
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / f"{apart}.jpg").touch()
    (tmp_path / "info.csv").write_text(f"ImageID,ans\n{composed}.jpg,3\n")
    (tmp_path / "list.txt").write_text(f"images/{composed}.jpg\n")
    for table in ("info.csv", "list.txt"):
        assert list_photos(tmp_path / table)["file"].tolist() == [str(tmp_path / "images" / f"{apart}.jpg")]
    answers = read_classes(tmp_path / "info.csv")
    assert classes_of([f"{apart}.jpg"], answers, tmp_path / "info.csv").tolist() == [3]


def test_a_folder_whose_name_is_not_utf8_is_shown_escaped_in_one_message(make_contest):
    data = make_contest([("1", "male", "Asian", "25", "김민수"), ("2", "male", "Asian", "45", "b")])
    folder = data / "train/images/김민수"
    folder.rename(folder.with_name("김민수".encode("cp949").decode("utf-8", "surrogateescape")))
    (problem,) = scan(data).problems
    assert problem.message.startswith(
        r"train/images/\xb1\xe8\xb9μ\xf6 has a name that is not UTF-8 (in cp949 it is 김민수), so no row can"
    )
    f"{problem.where} {problem.message}".encode()


def test_one_folder_that_may_not_be_read_does_not_end_the_check(unprivileged):
    folder = unprivileged / "train/images"
    for person in ("a", "b", "c"):
        (folder / person).mkdir(parents=True)
        for name in (*(f"mask{i}" for i in range(1, 6)), "incorrect_mask", "normal"):
            (folder / person / f"{name}.jpg").write_bytes(b"x")
    rows = "".join(f"{person},male,Asian,25,{person}\n" for person in ("a", "b", "c"))
    (unprivileged / "train/train.csv").write_text(f"id,gender,race,age,path\n{rows}")
    (folder / "a").chmod(0)
    (folder / "b/mask1.jpg").unlink()
    contents = scan(unprivileged)
    assert len(contents.photos) == 7 + 6
    assert [problem.message for problem in contents.problems] == [
        "train/images/a cannot be read: Permission denied. Give yourself the right to read it (chmod u+rX).",
        "train/images/b has 6 photos instead of seven: mask1 missing. Copy the folder again.",
    ]
    for place in ("train/images", "train/train.csv", "train"):
        (unprivileged / place).chmod(0)
        (problem, *_) = scan(unprivileged).problems
        assert f"{unprivileged / place}" in problem.message
        assert "cannot be read: Permission denied. Give yourself the right" in problem.message
    (unprivileged / "train").chmod(0o700)
