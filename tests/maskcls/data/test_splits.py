from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcls.data.identical import identical_groups, identical_photos
from maskcls.data.photos import read_photos
from maskcls.data.splits import SIDES, Split, folds, missing_classes, read_split, rows, split_people
from maskcls.errors import CallError, DataError
from maskcls.labels import age_group, encode

DEV = Path(__file__).parents[4] / "shared/faces/dev"
needs_faces = pytest.mark.skipif(not DEV.is_dir(), reason="../shared/faces is not here")


def table(people: list[tuple[int, int]]) -> pd.DataFrame:
    """A photo table of people (gender, age), three photos each, no two of one size."""
    return pd.DataFrame(
        [
            {
                "person": f"{i:04d}_p",
                "key": f"{i:04d}_p/{mask}.jpg",
                "file": f"/nowhere/{i:04d}_p/{mask}.jpg",
                "size_bytes": 3 * i + mask,
                "gender": gender,
                "age": age,
                "age_group": age_group(age),
                "mask": mask,
                "label": encode(mask, gender, age_group(age)),
            }
            for i, (gender, age) in enumerate(people)
            for mask in range(3)
        ]
    )


PEOPLE = st.lists(st.tuples(st.integers(0, 1), st.sampled_from((18, 29, 30, 59, 60))), min_size=1, max_size=80)


def sides(split: Split) -> list[set[str]]:
    return [set(split.side(name)) for name in SIDES]


@settings(max_examples=60, deadline=None)
@given(people=PEOPLE, seed=st.integers(0, 2**31))
def test_everybody_stands_on_one_side(people, seed):
    photos = table(people)
    split = split_people(photos, seed)
    assert set.union(*sides(split)) == set(photos["person"])
    assert sum(map(len, sides(split))) == len(people)
    assert split.train
    if len(people) >= 3:
        assert split.validation
        assert split.holdout


@settings(max_examples=30, deadline=None)
@given(people=PEOPLE, seed=st.integers(0, 1000), order=st.randoms())
def test_the_order_of_rows_moves_nobody(people, seed, order):
    photos = table(people)
    shuffled = list(range(len(photos)))
    order.shuffle(shuffled)
    assert split_people(photos.iloc[shuffled].reset_index(drop=True), seed) == split_people(photos, seed)


@settings(max_examples=40, deadline=None)
@given(people=PEOPLE, seed=st.integers(0, 1000))
def test_fractions_are_near(people, seed):
    n = len(people)
    split = split_people(table(people), seed)
    for name, fraction in zip(SIDES, (0.7, 0.15, 0.15), strict=True):
        assert abs(len(split.side(name)) - fraction * n) <= 1 + (n < 8)


@settings(max_examples=40, deadline=None)
@given(people=PEOPLE, seed=st.integers(0, 1000))
def test_training_has_somebody_of_each_stratum(people, seed):
    photos = table(people)
    split = split_people(photos, seed)
    strata = len({(gender, age_group(age)) for gender, age in people})
    if len(split.train) >= strata:
        assert missing_classes(photos, split.train) == missing_classes(photos, set(photos["person"]))


@settings(max_examples=40, deadline=None)
@given(people=st.lists(st.tuples(st.integers(0, 1), st.integers(18, 70)), min_size=5, max_size=60), k=st.integers(2, 5))
def test_folds_take_everybody_once(people, k):
    photos = table(people)
    chosen = sorted(set(photos["person"]))
    parts = folds(photos, k, seed=3)
    assert sorted(person for part in parts for person in part.validation) == chosen
    for part in parts:
        assert sorted(part.train + part.validation) == chosen
        assert not part.holdout
        assert abs(len(part.validation) - len(chosen) / k) <= 1


def test_strata_keep_their_proportions():
    people = [(0, 25)] * 200 + [(1, 25)] * 280 + [(0, 40)] * 160 + [(1, 40)] * 240 + [(0, 60)] * 40 + [(1, 60)] * 80
    photos = table(people)
    split = split_people(photos, 1)
    counts = {
        name: photos.iloc[rows(photos, split.side(name))].groupby(["gender", "age_group"])["person"].nunique().tolist()
        for name in SIDES
    }
    assert counts["train"] == [140, 112, 28, 196, 168, 56]
    assert counts["validation"] == counts["holdout"] == [30, 24, 6, 42, 36, 12]


def test_the_seed_alone_decides():
    photos = table([(i % 2, 20 + i % 45) for i in range(60)])
    assert split_people(photos, 1) == split_people(photos, 1)
    assert split_people(photos, 1) != split_people(photos, 2)
    moved = photos.assign(age_group=0, label=0)  # as other age cuts would have it
    assert split_people(moved, 1) == split_people(photos, 1)


@pytest.mark.slow
def test_a_fresh_process_draws_the_same_split(tmp_path):
    photos = table([(i % 2, 20 + i % 45) for i in range(40)])
    photos.to_csv(tmp_path / "photos.csv", index=False)
    code = (
        "import sys, pandas as pd\nfrom maskcls.data.splits import folds, split_people\n"
        "photos = pd.read_csv(sys.argv[1])\n"
        "print(split_people(photos, 5).digest, *(fold.digest for fold in folds(photos, 3, 5)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "photos.csv"], capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [split_people(photos, 5).digest, *(fold.digest for fold in folds(photos, 3, 5))]


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (6, (4, 1, 1))])
def test_few_people(n, expected):
    split = split_people(table([(i % 2, 18 + 7 * i) for i in range(n)]))
    assert tuple(map(len, sides(split))) == expected


def test_fractions_may_leave_a_side_empty_and_are_checked():
    photos = table([(i % 2, 40) for i in range(20)])
    assert tuple(map(len, sides(split_people(photos, 0, (0.8, 0.2, 0))))) == (16, 4, 0)
    for wrong in ((0.7, 0.2, 0.2), (0.0, 0.5, 0.5), (1.2, -0.2, 0.0)):
        with pytest.raises(CallError, match=r"must be three, not negative, and add up to 1, but got \("):
            split_people(photos, 0, wrong)


def test_folds_of_some_leave_the_others_as_holdout():
    photos = table([(i % 2, 20 + 5 * (i % 9)) for i in range(30)])
    split = split_people(photos)
    parts = folds(photos, 3, 0, split.train + split.validation)
    assert all(part.holdout == split.holdout for part in parts)
    assert len({part.digest for part in parts}) == 3
    for k in (1, 31):
        with pytest.raises(CallError, match=f"`2 <= folds <= people` must hold, but got {k} folds of 30 people"):
            folds(photos, k)


def test_rows_and_sides():
    photos = table([(0, 20), (1, 30), (0, 40)])
    assert rows(photos, ["0002_p", "0000_p"]).tolist() == [0, 1, 2, 6, 7, 8]
    assert rows(photos, []).dtype == np.int64
    with pytest.raises(CallError, match=r"There is no side 'test' of a split\. Sides: train, validation, holdout\."):
        split_people(photos).side("test")


# People who share a photo


@pytest.fixture
def shared(tmp_path) -> pd.DataFrame:
    """30 people; 0-1, 1-2 and 10-20 share a photo, 5 has one twice; all files are of one size."""
    photos = table([(i % 2, 20 + 5 * (i % 9)) for i in range(30)])
    photos["file"] = [str(tmp_path / key.replace("/", "_")) for key in photos["key"]]
    photos["size_bytes"] = 9000
    generator = np.random.default_rng(0)
    for file in photos["file"]:
        Path(file).write_bytes(generator.bytes(9000))
    for a, b in (((0, 0), (1, 1)), ((1, 2), (2, 0)), ((10, 0), (20, 2)), ((5, 0), (5, 1))):
        source, target = (Path(photos["file"][3 * person + photo]) for person, photo in (a, b))
        target.write_bytes(source.read_bytes())
    # Equal ends alone are not equal photos.
    one, other = Path(photos["file"][21]), Path(photos["file"][24])
    other.write_bytes(b"x" + one.read_bytes()[1:])
    return photos


def test_identical_photos_make_a_group(shared):
    pairs = sorted(map(sorted, identical_photos(shared)))
    assert pairs == [["0000_p", "0001_p"], ["0001_p", "0002_p"], ["0010_p", "0020_p"]]
    groups = identical_groups(shared)
    assert {groups[f"000{i}_p"] for i in range(3)} == {"0000_p"}
    assert groups["0020_p"] == "0010_p"
    assert sum(person != group for person, group in groups.items()) == 3


def test_a_group_stands_on_one_side(shared):
    for seed in range(20):
        split = split_people(shared, seed)
        for group in ({"0000_p", "0001_p", "0002_p"}, {"0010_p", "0020_p"}):
            assert sum(bool(side & group) for side in sides(split)) == 1
        for part in folds(shared, 4, seed):
            assert len(set(part.validation) & {"0000_p", "0001_p", "0002_p"}) in (0, 3)


def test_only_files_of_equal_size_are_read(shared):
    shared["size_bytes"] = range(len(shared))
    shared["file"] = "/nowhere"
    assert identical_photos(shared) == []


def test_a_file_that_cannot_be_read_is_like_no_other(shared):
    for row in (0, 4):
        Path(shared["file"][row]).unlink()
    assert sorted(map(sorted, identical_photos(shared))) == [["0001_p", "0002_p"], ["0010_p", "0020_p"]]


# The user's own split


def test_json_both_ways(tmp_path, caplog):
    photos = table([(i % 2, 20 + i) for i in range(12)])
    split = split_people(photos)
    assert Split.from_json(split.to_json()) == split
    (tmp_path / "split.json").write_text(split.to_json())
    assert read_split(tmp_path / "split.json", photos) == split
    assert not caplog.messages


BAD_SPLITS: dict[str, tuple[str | bytes, str]] = {
    "not json": ("[", r"split\.json is not JSON: .*Expected \{\"train\": \[\"<path>\", \"…\"\]"),
    "a list": ("[]", r"split\.json holds list, not just train, validation, holdout\. Expected"),
    "a list missing": (
        '{"train": [], "validation": []}',
        r"holds train, validation, not just train, validation, holdout\. Expected",
    ),
    "numbers": (
        '{"train": [1], "validation": [], "holdout": []}',
        r"split\.json: train is not a list of persons\. Expected",
    ),
    "twice": (
        '{"train": ["0000_p", "0001_p"], "validation": ["0001_p"], "holdout": []}',
        r"names 0001_p more than once\. Expected every person in one place\. Remove the others\.",
    ),
    "unknown": (
        '{"train": ["0000_p"], "validation": ["who", "a", "b", "c", "d", "e", "f"], "holdout": []}',
        r"split\.json names a, b, c, d, e and 2 more people: there is nobody of that name among the data's people\. "
        r"Expected the people's folders, or what the table has under person\.",
    ),
    "nobody": (
        '{"train": ["0000_p"], "validation": [], "holdout": []}',
        r"nobody stands in validation\. Expected at least one person\.",
    ),
    "not text": (b"\xff\xfe", r"split\.json can't be read as text \(it is in UTF-16\)\. Expected JSON"),
}


@pytest.mark.parametrize("name", BAD_SPLITS)
def test_bad_splits(tmp_path, name):
    text, message = BAD_SPLITS[name]
    file = tmp_path / "split.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_split(file, table([(0, 20)] * 4))


def test_no_such_split(tmp_path):
    with pytest.raises(CallError, match=r"--split \S*nowhere\.json: there is no such file\."):
        read_split(tmp_path / "nowhere.json", table([(0, 20)]))


def test_own_splits_may_be_odd_but_say_so(shared, tmp_path, caplog):
    file = tmp_path / "split.json"
    file.write_text('{"train": ["0000_p", "left_out"], "validation": ["0001_p"], "holdout": []}')
    split = read_split(file, shared, ignore={"left_out"})
    assert split == Split(("0000_p",), ("0001_p",), ())
    assert "does not name 0002_p, 0003_p, 0004_p, 0005_p, 0006_p and 23 more people: not used." in caplog.text
    assert "puts 0000_p, 0001_p on different sides, though they share a photo" in caplog.text


@needs_faces
def test_real_faces():
    photos = read_photos(DEV)
    split = split_people(photos)
    assert tuple(map(len, sides(split))) == (324, 69, 69)
    assert not missing_classes(photos, split.train)
    assert not missing_classes(photos, split.holdout)
