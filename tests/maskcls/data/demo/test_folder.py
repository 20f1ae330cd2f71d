"""Drawn faces: the contest's layout, the same from a seed everywhere, and something to learn in them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskcls.data.decoding.decode import decode
from maskcls.data.demo import face as demo_face
from maskcls.data.demo.folder import ANSWERS, MIN_PERSONS, SHOTS, draw
from maskcls.data.geometry import Geometry, load
from maskcls.data.photos import list_photos, read_photos
from maskcls.errors import CallError
from maskcls.labels import N_CLASSES

PERSONS = 30


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    draw(folder, PERSONS, seed=0)
    return folder


def digest(folder: Path) -> str:
    content = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
    return content.hexdigest()


def test_it_is_a_contest_folder(drawn: Path) -> None:
    photos = read_photos(drawn)
    assert len(photos) == PERSONS * len(SHOTS)
    assert photos["person"].nunique() == PERSONS
    assert set(photos["label"]) == set(range(N_CLASSES))


def test_every_gender_and_age_group_has_three_people_of_thirty(drawn: Path) -> None:
    people = read_photos(drawn).drop_duplicates("person")
    counts = Counter(zip(people["gender"], people["age_group"], strict=True))
    assert len(counts) == 6
    assert min(counts.values()) >= 3
    assert counts[0, 0] > counts[0, 1] > counts[0, 2]


def test_the_contests_oddities_are_there(drawn: Path) -> None:
    table = pd.read_csv(drawn / "train/train.csv", dtype=str)
    assert table["id"].str.endswith("-1").sum() == 1
    assert table["id"].str.startswith("0").all()
    assert (table["id"].value_counts() == 2).sum() == 1
    assert table["path"].is_unique
    folders = [{file.suffix for file in folder.iterdir()} for folder in (drawn / "train/images").iterdir()]
    assert {".jpg", ".jpeg", ".png"} <= set.union(*folders)
    assert any(len(endings) == 3 for endings in folders)
    assert len(list(drawn.rglob("._*"))) == 1


def test_eval_holds_other_people_and_no_answers(drawn: Path) -> None:
    info = pd.read_csv(drawn / "eval/info.csv")
    answers = pd.read_csv(drawn / ANSWERS, dtype={"person": str})
    listed = list_photos(drawn / "eval/info.csv")
    assert list(info.columns) == ["ImageID", "ans"]
    assert set(info["ans"]) == {0}
    assert info["ImageID"].str.fullmatch(r"[0-9a-f]{40}\.jpg").all()
    assert list(listed["key"]) == list(answers["ImageID"])
    assert len(info) == PERSONS // 4 * len(SHOTS)
    assert set(answers["ans"]) == set(range(N_CLASSES))
    assert not set(answers["person"]) & set(pd.read_csv(drawn / "train/train.csv", dtype=str)["id"])
    train = {hashlib.sha256(Path(file).read_bytes()).digest() for file in read_photos(drawn)["file"]}
    assert not train & {hashlib.sha256(Path(file).read_bytes()).digest() for file in listed["file"]}


def test_photos_are_small_portraits_that_need_no_conversion(drawn: Path) -> None:
    for file in list((drawn / "train/images").glob("*/[mn]*"))[:20]:
        rgb, conversions = decode(file)
        assert rgb.shape == (demo_face.HEIGHT_PX, demo_face.WIDTH_PX, 3)
        assert conversions == ()


def test_the_door_draws_the_same_in_a_fresh_process(drawn: Path, tmp_path: Path) -> None:
    call = [
        sys.executable,
        "-m",
        "maskcls.demo",
        "--out",
        str(tmp_path / "new/again"),
        "--persons",
        str(PERSONS),
        "--seed",
        "0",
    ]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert "30 drawn people" in done.stdout
    assert "maskcls.train --data" in done.stdout
    assert done.stderr == ""
    assert digest(tmp_path / "new/again") == digest(drawn)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["again"]


def test_another_seed_draws_other_people(drawn: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other", MIN_PERSONS, seed=1)
    assert len(list((tmp_path / "other/eval/images").iterdir())) == 4 * len(SHOTS)
    one, other = (load(next(folder.rglob("normal.jpg")), Geometry(64)) for folder in (drawn, tmp_path / "other"))
    assert not np.array_equal(one, other)


def test_wrong_calls_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="`persons >= 6` must hold, one for each gender and age group, but got 5"):
        draw(tmp_path / "few", 5, 0)
    with pytest.raises(CallError, match="`seed >= 0` must hold, but got -1"):
        draw(tmp_path / "few", 6, -1)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(CallError, match="full is there already"):
        draw(tmp_path / "full", 6, 0)
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    draw(tmp_path, MIN_PERSONS, 0)
    assert (tmp_path / "train/train.csv").is_file()


def test_mask_state_gender_and_age_show() -> None:
    """Nearest class mean on pixels alone, people apart: far above chance, so a small network has something to learn."""
    right = {"gender": 0, "age": 0, "mask": 0}
    known = _drawn_samples(range(20))
    asked = _drawn_samples(range(20, 26))
    for name in right:
        means = {
            label: np.mean([pixels for pixels, labels in known if labels[name] == label], axis=0)
            for label in {labels[name] for _, labels in known}
        }
        for pixels, labels in asked:
            nearest = min(means, key=lambda label: float(np.square(means[label] - pixels).sum()))
            right[name] += nearest == labels[name]
    shares = {name: count / len(asked) for name, count in right.items()}
    assert shares["gender"] > 0.75
    assert shares["age"] > 0.45
    assert shares["mask"] > 0.55


def _drawn_samples(seeds: range) -> list[tuple[np.ndarray, dict[str, object]]]:
    samples = []
    for seed in seeds:
        for female in (False, True):
            for group in range(3):
                rng = np.random.default_rng((seed, female, group))
                face = demo_face.random_face(rng, female, group)
                for mask in (demo_face.WORN, demo_face.ON_CHIN, demo_face.NONE):
                    rgb = demo_face.draw(face, demo_face.random_shot(rng, mask), rng).astype(float)
                    colours = rgb[::4, ::4] - rgb.mean()
                    samples.append((colours, {"gender": female, "age": group, "mask": mask}))
    return samples
