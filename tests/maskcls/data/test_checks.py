from __future__ import annotations

import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls.data.checks import bad_photos, check_folder, decode_all, inspect_folder, without_bad_photos
from maskcls.data.photos import read_photos
from maskcls.data.problems import KINDS, Problem, ordered
from maskcls.errors import DataError, NoSuchPath

DEV = Path(__file__).parents[4] / "shared/faces/dev"


def person_folder(data: Path, i: int) -> Path:
    return sorted((data / "train/images").iterdir())[i]


def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    return bytes(cv2.imencode(suffix, pixels)[1].tobytes())


def turned(jpeg: bytes, orientation: int) -> bytes:
    """With an EXIF block that says how the photo was held."""
    exif = b"Exif\0\0II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, orientation, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]


NOISE = np.random.default_rng(0).integers(0, 256, (20, 16, 3), np.uint8)

BROKEN = {
    "truncated": (encode(NOISE, ".jpg")[:-40], "is truncated"),
    "no image": (b"<html>not found</html>", "is not an image that can be decoded"),
    "1x1": (encode(NOISE[:1, :1]), "is 1x1 px"),
    "empty": (b"", r"is empty \(0 bytes\)"),
}
CONVERTED = {
    "grayscale": (encode(NOISE[:, :, 0]), "1 photos are turned from grayscale into RGB when they are read."),
    "transparent": (encode(np.dstack([NOISE, NOISE[:, :, :1]])), "1 photos are laid over white when they are read."),
    "16-bit": (
        encode(NOISE.astype(np.uint16) * 257),
        "1 photos are brought from 16 bits a colour to 8 when they are read.",
    ),
    "turned": (turned(encode(NOISE, ".jpg"), 6), "1 photos are turned as their EXIF data say when they are read."),
}


def test_a_good_folder_has_no_problems(make_contest):
    inspection = inspect_folder(make_contest(24))
    assert inspection.problems == []
    assert inspection.notes == []
    assert len(inspection.photos) == 24 * 7


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_photo_is_named(make_contest, name):
    data = make_contest(24)
    content, message = BROKEN[name]
    file = person_folder(data, 0) / "mask2.png"
    file.write_bytes(content)
    problems = check_folder(data)
    assert [(problem.kind, problem.where) for problem in problems] == [
        ("photo", "train/images/000001_male_Asian_25/mask2.png")
    ]
    with pytest.raises(DataError, match=rf"000001_male_Asian_25/mask2\.png {message}"):
        raise DataError(problems[0].message)


@pytest.mark.parametrize("name", CONVERTED)
def test_a_converted_photo_is_counted(make_contest, name):
    data = make_contest(24)
    content, note = CONVERTED[name]
    (person_folder(data, 0) / "mask2.png").write_bytes(content)
    inspection = inspect_folder(data)
    assert inspection.problems == []
    assert inspection.notes == [note]


def test_everything_comes_in_one_pass_most_important_first(make_contest):
    data = make_contest(24)
    table = data / "train/train.csv"
    table.write_text(
        table.read_text()
        .replace("000002,male", "000002,man")
        .replace("Asian,25,000007", "Asian,young,000007")
        .replace("000008_male_Asian_45", "000009_male_Asian_60")
    )
    (person_folder(data, 1) / "mask1.jpeg").write_bytes(b"no photo of a person with a bad row")
    (person_folder(data, 2) / "mask1.jpeg").write_bytes(b"no photo")
    (person_folder(data, 3) / "mask1.jpeg").write_bytes(b"")
    (person_folder(data, 4) / "mask1.jpeg").unlink()
    (person_folder(data, 5) / "mask1.jpeg").rename(person_folder(data, 5) / "mask0.jpeg")
    shutil.rmtree(person_folder(data, 11))
    problems = check_folder(data)
    assert [problem.kind for problem in problems] == [
        *(
            "duplicate path",
            "person folder",
            "gender",
            "age",
            "missing photos",
            "missing photos",
            "photo name",
            "photo",
            "photo",
            "photo",
        )
    ]
    assert len({problem.where for problem in problems}) == 10
    assert all(problem.message.rstrip().endswith(".") for problem in problems)


def test_a_class_with_nobody_is_a_problem(make_contest):
    rows = [
        (f"{i}", "male" if i % 2 else "female", "Asian", "60" if i % 4 == 1 else "25", f"p{i:02d}") for i in range(16)
    ]
    (problem,) = check_folder(make_contest(rows))
    assert problem.kind == "class"
    assert problem.message == (
        "Classes with nobody in the whole folder: 1 (worn, male, 30 to 59); "
        "4 (worn, female, 30 to 59); 5 (worn, female, over 59); "
        "7 (incorrect, male, 30 to 59); 10 (incorrect, female, 30 to 59); 11 (incorrect, female, over 59); "
        "13 (not worn, male, 30 to 59); 16 (not worn, female, 30 to 59); 17 (not worn, female, over 59). "
        "No photo has age group 30 to 59. "
        "Expected somebody of each. Add people of that gender and age, and their photos."
    )


def test_nothing_usable_is_a_problem(make_contest):
    data = make_contest(1)
    for file in person_folder(data, 0).iterdir():
        file.write_bytes(b"no photo")
    problems = check_folder(data)
    assert [problem.kind for problem in problems] == ["class"] + ["photo"] * 7
    assert problems[0].message == f"{data} has no photo that can be used. Mend the others, or check the path."


def test_identical_photos_are_noted(make_contest):
    data = make_contest(24)
    (person_folder(data, 0) / "mask1.jpeg").write_bytes((person_folder(data, 1) / "mask1.jpeg").read_bytes())
    inspection = inspect_folder(data)
    assert inspection.problems == []
    assert inspection.notes == [
        "1 photos stand under several people (2 in all), who go to one side of every split together."
    ]


def test_a_folder_that_is_none_is_the_only_problem(tmp_path):
    (tmp_path / "file").touch()
    (problem,) = check_folder(tmp_path / "file")
    assert problem.kind == "folder"
    assert "file is a file, but no table of photos" in problem.message


@pytest.mark.parametrize("name", ["nowhere", "nowhere.csv"])
def test_what_is_not_there_is_no_problem_of_the_data(name, tmp_path):
    with pytest.raises(NoSuchPath, match=rf"{name} does not exist\. Expected the contest's layout"):
        check_folder(tmp_path / name)


def test_ordered_by_kind_then_as_read():
    problems = [Problem(kind, str(i), "") for i, kind in enumerate([*reversed(KINDS), *KINDS])]
    assert [problem.kind for problem in ordered(problems)] == [kind for kind in KINDS for _ in range(2)]
    assert [int(problem.where) for problem in ordered(problems)][:2] == [len(KINDS) - 1, len(KINDS)]


def test_bad_photos_are_remembered_until_a_file_changes(make_contest, tmp_path, monkeypatch, caplog):
    data = make_contest(6)
    bad = person_folder(data, 0) / "mask1.jpeg"
    bad.write_bytes(b"no photo")
    photos = read_photos(data)
    found = bad_photos(photos, tmp_path / "cache")
    assert list(found) == ["000001_male_Asian_25/mask1.jpeg"]
    left = without_bad_photos(photos, tmp_path / "cache")
    assert len(left) == 41
    assert list(left.index) == list(range(41))
    assert "--skip-bad: 1 photos that can't be decoded are left out. The first: " in caplog.text

    asked: list[int] = []

    def counted(files, progress):
        asked.append(len(files))
        return decode_all(files)

    monkeypatch.setattr("maskcls.data.checks.decode_all", counted)
    assert bad_photos(photos, tmp_path / "cache") == found
    assert asked == []
    bad.write_bytes(encode(NOISE, ".jpg"))
    assert bad_photos(photos, tmp_path / "cache") == {}
    assert asked == [42]


def test_remembered_bad_photos_are_those_of_this_opencv_and_of_where_the_folder_is_now(
    make_contest, tmp_path, monkeypatch
):
    data = make_contest(1)
    (person_folder(data, 0) / "mask1.jpeg").write_bytes(b"no photo")
    bad_photos(read_photos(data), tmp_path / "cache")
    moved = data.rename(tmp_path / "moved")
    photos = read_photos(moved)
    with monkeypatch.context() as no_decoder:
        no_decoder.delattr("maskcls.data.checks.check")
        (message,) = bad_photos(photos, tmp_path / "cache").values()
    assert message.startswith(f"{person_folder(moved, 0) / 'mask1.jpeg'} is not an image")
    monkeypatch.setattr("cv2.__version__", "another")
    bad_photos(photos, tmp_path / "cache")
    assert len(list((tmp_path / "cache/checks").iterdir())) == 2


@pytest.mark.parametrize("torn", [b'{"0000', b"\xff", b"[]"])
def test_a_torn_memory_of_bad_photos_is_made_again(make_contest, tmp_path, torn):
    data = make_contest(1)
    (person_folder(data, 0) / "mask1.jpeg").write_bytes(b"no photo")
    photos = read_photos(data)
    found = bad_photos(photos, tmp_path)
    (file,) = (tmp_path / "checks").iterdir()
    file.write_bytes(torn)
    assert bad_photos(photos, tmp_path) == found
    assert bad_photos(photos, tmp_path) == found


def test_all_photos_bad(make_contest, tmp_path):
    data = make_contest(1)
    for file in person_folder(data, 0).iterdir():
        file.write_bytes(b"no photo")
    with pytest.raises(
        DataError, match=r"None of the 7 photos can be decoded\. The first: .*incorrect_mask\.jpg is not an image"
    ):
        without_bad_photos(read_photos(data), tmp_path)


@pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")
def test_real_faces_are_fine():
    inspection = inspect_folder(DEV)
    assert inspection.problems == []
    assert len(inspection.photos) == 3234
