"""The photos to predict: of a folder, a table, a list of paths, or one photo."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls.data.photos import list_photos
from maskcls.errors import DataError

DEV = Path(__file__).parents[4] / "shared/faces/dev"
needs_faces = pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")


def photo(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    return file


def test_list_of_a_folder(tmp_path):
    for name in ("b.jpg", "a/z.PNG", "a/._z.png", ".git/x.png"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in/a/notes.txt").write_text("not a photo")
    photos = list_photos(tmp_path / "in")
    assert photos["key"].tolist() == ["a/z.PNG", "b.jpg"]
    assert photos["file"].tolist() == [str(tmp_path / "in/a/z.PNG"), str(tmp_path / "in/b.jpg")]


def test_list_of_the_contests_table_keeps_its_order(tmp_path):
    for name in ("b.jpg", "a.jpg"):
        photo(tmp_path / "images" / name)
    (tmp_path / "info.csv").write_text("ImageID,ans\nb.jpg,0\na.jpg,0\n")
    photos = list_photos(tmp_path / "info.csv")
    assert photos["key"].tolist() == ["b.jpg", "a.jpg"]
    assert photos["file"].tolist() == [str(tmp_path / "images/b.jpg"), str(tmp_path / "images/a.jpg")]


def test_list_of_paths_is_relative_to_here_or_to_the_file(tmp_path, monkeypatch):
    photo(tmp_path / "lists/in/a.jpg")
    here = photo(tmp_path / "b.jpg")
    (tmp_path / "lists/list.txt").write_text(f"in/a.jpg\n\nb.jpg\n{here}\n")
    monkeypatch.chdir(tmp_path)
    photos = list_photos(Path("lists/list.txt"))
    assert photos["key"].tolist() == ["in/a.jpg", "b.jpg", str(here)]
    assert photos["file"].tolist() == [str(tmp_path / "lists/in/a.jpg"), str(here), str(here)]


def test_list_of_one_photo(tmp_path):
    file = photo(tmp_path / "me.jpg")
    assert list_photos(file).to_dict("records") == [{"file": str(file), "key": "me.jpg"}]


def test_nothing_to_predict(tmp_path):
    cases = {
        "info.csv": (
            "id,ans\nb.jpg,0\n",
            r"info\.csv lacks the column ImageID; it has id, ans\. Expected ImageID\.",
        ),
        "other.csv": ("ImageID,ans\n", r"other\.csv has no rows\. Expected ImageID,ans and one row per photo"),
        "gone.csv": (
            "ImageID,ans\na.jpg,0\nb.jpg,0\n",
            r"gone\.csv names 2 photos, but there is no .*images/a\.jpg and 1 more\. Copy",
        ),
        "list.txt": ("\n", r"list\.txt is empty\. Expected one photo's path per line\."),
    }
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            list_photos(tmp_path / name)
    (tmp_path / "bytes.dat").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"bytes\.dat can't be read as text \(it is in UTF-16\)"):
        list_photos(tmp_path / "bytes.dat")
    with pytest.raises(DataError, match=r"nowhere does not exist\. Expected a folder of photos"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none holds no photo\. Expected files that end in \.avif, \.bmp"):
        list_photos(tmp_path / "none")


@needs_faces
def test_real_eval_table():
    photos = list_photos(DEV / "eval/info.csv")
    assert len(photos) == 840
    assert photos["key"].tolist() == [
        line.split(",")[0] for line in (DEV / "eval/info.csv").read_text().splitlines()[1:]
    ]


def test_every_photo_of_a_folder_is_listed_by_what_it_is_and_the_rest_is_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "maskcls")
    for name in ("a.jfif", "b.HEIC", "c.gif", "d", "e.png.download"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in/f.txt").write_text("text")
    (tmp_path / "in/g.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    assert list_photos(tmp_path / "in")["key"].tolist() == ["a.jfif", "b.HEIC", "c.gif", "d", "e.png.download"]
    assert caplog.messages == [f"{tmp_path}/in: 2 files of another kind than photos are passed over: f.txt, g.mov."]


def test_links_are_followed_and_loops_noticed(tmp_path, caplog):
    photo(tmp_path / "elsewhere/a.png")
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/b.png").symlink_to(tmp_path / "elsewhere/a.png")
    (tmp_path / "in/sub/loop").symlink_to(tmp_path / "in")
    assert list_photos(tmp_path / "in")["key"].tolist() == ["b.png", "linked/a.png"]
    assert caplog.messages == [f"{tmp_path}/in/sub/loop is a link to a folder that holds it, and is not entered again."]
    (tmp_path / "in/c.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"names 3 photos, but there is no .*/in/c\.png"):
        list_photos(tmp_path / "in")


def test_a_folder_below_that_may_not_be_read_is_named(unprivileged):
    (unprivileged / "a").mkdir(mode=0)
    with pytest.raises(DataError, match=r"/a cannot be read: Permission denied\. Give yourself the right to read it"):
        list_photos(unprivileged)


def test_names_that_no_table_can_hold_are_shown_escaped(tmp_path):
    for name in (b"\xb1\xe8.png".decode(errors="surrogateescape"), "a\nb.png", "good.png"):
        photo(tmp_path / name)
    with pytest.raises(DataError, match=r"has 2 photos whose names are not UTF-8, .*: \\xb1\\xe8\.png, a\\x0ab\.png\."):
        list_photos(tmp_path)
