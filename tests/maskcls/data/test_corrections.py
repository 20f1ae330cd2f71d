from __future__ import annotations

import csv
import logging
import re
from pathlib import Path

import pandas as pd
import pytest

from maskcls.data.corrections import PUBLISHED, Correction, Corrections, is_contest, read_corrections
from maskcls.data.photos import read_photos
from maskcls.errors import CallError, DataError
from tests.maskcls.data.layouts.tables import write as write_photos

DEV = Path(__file__).parents[4] / "shared/faces/dev"
NAMES = {"incorrect_mask": 1, "mask1": 0, "mask2": 0, "mask3": 0, "mask4": 0, "mask5": 0, "normal": 2}


@pytest.fixture(autouse=True)
def _log_everything(caplog):
    caplog.set_level(logging.INFO, "maskcls")


def table(*people: tuple[str, str, int, int], race: str = "Asian") -> pd.DataFrame:
    """A photo table of people (id, path, gender, age)."""
    rows = [
        {
            "person_id": id_,
            "person": path,
            "key": f"{path}/{name}.jpg",
            "race": race,
            "gender": gender,
            "age": age,
            "mask": mask,
        }
        for id_, path, gender, age in people
        for name, mask in NAMES.items()
    ]
    return pd.DataFrame(rows)


def write(tmp_path: Path, text: str) -> str:
    (tmp_path / "mine.csv").write_text(text)
    return str(tmp_path / "mine.csv")


def labels(photos: pd.DataFrame, person: str) -> tuple[int, int, dict[str, int]]:
    mine = photos[photos["person"] == person]
    masks = {Path(key).stem: int(mask) for key, mask in zip(mine["key"], mine["mask"], strict=True)}
    assert mine["gender"].nunique() == mine["age"].nunique() == 1
    return int(mine["gender"].iloc[0]), int(mine["age"].iloc[0]), masks


def test_every_kind_of_correction(tmp_path, caplog):
    mine = write(
        tmp_path,
        "what,id,path,value,file\nswap,1,,,\ngender,,b,female,\nage,1,,41,\nage,,b,over 59,\n"
        "age,3,,under 30,\nmask,3,,worn,normal.jpg\n",
    )
    before = table(("1", "a", 0, 25), ("2", "b", 0, 35), ("3", "c", 1, 45), ("4", "d", 1, 60))
    kept = before.copy()
    after = read_corrections(mine).apply(before)
    assert labels(after, "a") == (0, 41, {**NAMES, "incorrect_mask": 2, "normal": 1})
    assert labels(after, "b") == (1, 60, NAMES)
    assert labels(after, "c") == (1, 29, {**NAMES, "normal": 0})
    assert labels(after, "d") == labels(before, "d")
    assert before.equals(kept)
    assert f"Corrections ({mine}): 6 of 6 applied." in caplog.text


@pytest.mark.parametrize(
    ("group", "before", "after"),
    [("under 30", 45, 29), ("30 to 59", 25, 30), ("30 to 59", 71, 59), ("30 to 59", 44, 44), ("over 59", 59, 60)],
)
def test_an_age_group_moves_an_age_to_its_nearest_year(tmp_path, group, before, after):
    mine = write(tmp_path, f"what,path,value\nage,a,{group}\n")
    assert labels(read_corrections(mine).apply(table(("1", "a", 0, before))), "a")[1] == after


def test_what_was_judged_and_rejected_is_not_applied(tmp_path, caplog):
    mine = write(
        tmp_path,
        "what,path,value,judged,score\ngender,a,female,rejected,0.9\nage,b,over 59,accepted,0.8\nswap,c,,,0.7\n"
        "gender,nobody,male,rejected,0.6\n",
    )
    photos = table(("1", "a", 0, 25), ("2", "b", 0, 35), ("3", "c", 1, 45), ("4", "d", 1, 60))
    corrections = read_corrections(mine)
    after = corrections.apply(photos)
    assert labels(after, "a") == (0, 25, NAMES)
    assert labels(after, "b") == (0, 60, NAMES)
    assert labels(after, "c") == (1, 45, {**NAMES, "incorrect_mask": 2, "normal": 1})
    assert corrections.judged_people(photos) == {"a", "b", "c"}
    assert "2 of 2 applied." in caplog.text


def test_people_who_are_not_there_are_named(tmp_path, caplog):
    mine = write(tmp_path, "what,id,value\ngender,9,male\ngender,1,female\ngender,8,male\n")
    after = read_corrections(mine).apply(table(("1", "a", 0, 25)))
    assert labels(after, "a")[0] == 1
    assert "1 of 3 applied." in caplog.text
    assert "nobody here for 2 of them: 9, 8." in caplog.text


def test_a_long_list_of_absent_people_is_cut(tmp_path, caplog):
    mine = write(tmp_path, "what,id\n" + "".join(f"swap,x{i}\n" for i in range(50)))
    read_corrections(mine).apply(table(("1", "a", 0, 25)))
    assert "x19 and 30 more." in caplog.text
    assert "x20" not in caplog.text


def test_was_guards_a_correction(tmp_path, caplog):
    mine = write(
        tmp_path,
        "what,path,was,value,file\ngender,a,female,male,\ngender,b,female,male,\n"
        "age,a,30 to 59,under 30,\nage,b,30 to 59,under 30,\n"
        "age,b,29,31,\nmask,a,incorrect,worn,normal\nmask,b,not worn,worn,normal\n",
    )
    after = read_corrections(mine).apply(table(("1", "a", 0, 25), ("2", "b", 1, 35)))
    assert labels(after, "a") == (0, 25, NAMES)
    assert labels(after, "b") == (0, 31, {**NAMES, "normal": 0})
    assert "3 of them expect another label than there is: a, a, a/normal." in caplog.text


def test_an_id_of_two_people_needs_the_path(tmp_path):
    photos = table(("003397", "003397_f", 1, 19), ("003397", "003397_m", 0, 60))
    mine = write(tmp_path, "what,id,path,value\nage,003397,,44\n")
    with pytest.raises(
        DataError, match=r"line 2: id 003397 stands for 2 people \(003397_f, 003397_m\)\. Give the path of the one"
    ):
        read_corrections(mine).apply(photos)
    mine = write(tmp_path, "what,id,path,value\nage,003397,003397_m,44\n")
    after = read_corrections(mine).apply(photos)
    assert labels(after, "003397_m")[1] == 44
    assert labels(after, "003397_f")[1] == 19


BAD_ROWS = {
    "turn,a,,": "what is 'turn'. Expected swap, gender, age, mask.",
    "gender,a,man,": "value is 'man'. Expected male, female.",
    "age,a,,": "value is ''. Expected an age of 1 to 120 years, or under 30, 30 to 59, over 59.",
    "age,a,200,": "value is '200'. Expected an age",
    "mask,a,worn,": "file is empty. Expected the photo's name without its extension",
    "mask,a,off,normal": "value is 'off'. Expected worn, incorrect, not worn.",
    "swap,a,male,": "a swap has no value, but got 'male'.",
    "gender,a,male,,maybe": "judged is 'maybe'. Expected accepted, rejected or nothing.",
    "swap,,,": "neither path nor id is given. Expected one of them.",
}


def test_bad_rows_are_listed_with_their_lines(tmp_path):
    mine = write(tmp_path, "what,id,value,file,judged\n" + "\n".join(BAD_ROWS) + "\nswap,good,,\n")
    with pytest.raises(DataError) as refused:
        read_corrections(mine)
    first, *lines = str(refused.value).splitlines()
    assert first == f"{mine} has 9 corrections that can't be understood:"
    for number, (line, expected) in enumerate(zip(lines, BAD_ROWS.values(), strict=True), start=2):
        assert line.startswith(f"  line {number}: {expected}")


def test_bad_files(tmp_path):
    with pytest.raises(
        CallError, match=r"--corrections \S*nowhere: there is no such file\. Expected published, none, or a CSV file\."
    ):
        read_corrections(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"has the columns id, gender\. Expected what, value, and path or id\."):
        read_corrections(write(tmp_path, "id,gender\n1,male\n"))
    (tmp_path / "bytes.csv").write_bytes(b"what,id\n\xff\xff\n")
    with pytest.raises(DataError, match=r"bytes\.csv can't be read as a table"):
        read_corrections(str(tmp_path / "bytes.csv"))


# The published ones


def contest(n: int = 2100, race: str = "Asian") -> pd.DataFrame:
    """Enough people for a contest folder, all the published corrections' among them, labelled as they expect it."""
    wanted = {row["id"]: row for row in csv.DictReader(PUBLISHED.open())}
    people = [
        (
            id_,
            f"p{id_}",
            int(row["was"] == "female"),
            29 if row["value"] == "60" else 40 if row["what"] == "age" else 20,
        )
        for id_, row in wanted.items()
    ]
    others = [(f"9{i:05d}", f"q{i}", 0, 30) for i in range(n - len(people))]
    return table(*people, *others, race=race)


def test_a_file_may_be_in_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.csv").write_text("what,id,value\nage,3,31\n")
    assert [row.value for row in read_corrections("~/c.csv").rows] == ["31"]


def test_published_corrections_apply_to_the_contest(caplog):
    before = contest()
    after = read_corrections("published").apply(before)
    changed = set(
        before["person_id"][(before[["gender", "age", "mask"]] != after[["gender", "age", "mask"]]).any(axis=1)]
    )
    swapped, worn = {"000020", "004418", "005227"}, {"000645", "003574", "000070", "003514"}
    assert swapped | worn < changed
    assert len(changed - swapped - worn) == 18
    assert labels(after, "p000020")[2] == {**NAMES, "incorrect_mask": 2, "normal": 1}
    assert labels(after, "p000645")[2] == {**NAMES, "incorrect_mask": 0}
    assert labels(after, "p006359")[0] == 0
    assert labels(after, "p001498-1")[0] == 1
    assert labels(after, "p001009")[1] == 40  # one team's word is not enough
    assert "Corrections (published): 25 of 25 applied." in caplog.text


def test_what_is_mended_already_is_reported(caplog):
    mended = contest()
    mended.loc[mended["person_id"] == "006359", "gender"] = 0
    read_corrections("published").apply(mended)
    assert "24 of 25 applied." in caplog.text
    assert "1 of them expect another label than there is: 006359." in caplog.text


@pytest.mark.parametrize(
    "photos",
    [
        pytest.param(contest(60), id="few people"),
        pytest.param(contest(race="White"), id="another race"),
        pytest.param(table(*((f"{i:06d}", f"p{i}", 0, 30) for i in range(2100))), id="other ids"),
    ],
)
def test_published_corrections_leave_other_data_alone(photos, caplog):
    after = read_corrections("published").apply(photos)
    assert after.equals(photos)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(
        "The published corrections are not applied: these are not the contest's people"
    )


def test_my_own_corrections_apply_to_any_data(tmp_path):
    text = PUBLISHED.read_text()
    assert re.search("^000020,,swap", text, re.M)
    after = read_corrections(write(tmp_path, text)).apply(table(("000020", "a", 0, 25), race="White"))
    assert labels(after, "a")[2] == {**NAMES, "incorrect_mask": 2, "normal": 1}


def test_the_published_file_holds_the_weak_ones_as_leads():
    rows = list(csv.DictReader(PUBLISHED.open()))
    applied = read_corrections("published").rows
    assert (len(rows), len(applied)) == (31, 25)
    assert {row["id"] for row in rows} - {row.id for row in applied} == {
        "001009",
        "001064",
        "001637",
        "001666",
        "001852",
        "004348",
    }
    assert len({row["id"] for row in rows}) == 31


def test_none(caplog):
    photos = table(("000020", "a", 0, 25))
    assert read_corrections("none").apply(photos).equals(photos)
    assert not caplog.messages


def test_the_labels_follow(make_contest):
    data = make_contest(6)
    wrong = Corrections(
        (Correction(2, "gender", id="000001", value="female"), Correction(3, "age", id="000001", value="60")), "mine"
    )
    photos = read_photos(data, corrections=wrong)
    assert set(photos[photos["person_id"] == "000001"]["label"]) == {5, 11, 17}
    assert set(photos[photos["person_id"] == "000001"]["age_group"]) == {2}


@pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")
def test_real_faces_are_not_the_contest():
    photos = read_photos(DEV)
    assert not is_contest(photos, {row.id for row in read_corrections("published").rows})


def test_corrections_of_a_table_with_gaps(tmp_path):
    rows = (
        "a/1.jpg,a,worn,male,,under_30",
        "b/1.jpg,a,,male,,under_30",
        "c/2.jpg,c,,,,",
    )
    table = write_photos(tmp_path, *rows)
    (tmp_path / "corrections.csv").write_text(
        "what,path,value,file,was\n"
        "age,a,over 59,,under 30\n"
        "gender,c,female,,\n"
        "age,c,44,,\n"
        "mask,a,incorrect,b/1.jpg,\n"
        "swap,c,,,\n"
        "age,a,30 to 59,,under 30\n"
    )
    photos = read_photos(table, corrections=read_corrections(str(tmp_path / "corrections.csv")))
    columns = ["mask", "gender", "age_group", "label"]
    assert photos[columns].to_numpy().tolist() == [[0, 0, 2, 2], [1, 0, 2, 8], [-1, 1, 1, -1]]
    assert photos["age"].isna().tolist() == [True, True, False]
    (tmp_path / "corrections.csv").write_text("what,path,value,file\nmask,a,incorrect,1\n")
    with pytest.raises(DataError, match=r"line 2: a has 2 photos that are called 1 \(a/1\.jpg, b/1\.jpg\)\. Give"):
        read_photos(table, corrections=read_corrections(str(tmp_path / "corrections.csv")))
