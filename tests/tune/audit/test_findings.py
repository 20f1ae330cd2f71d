"""What is found: labels made wrong on drawn people, by predictions that know the truth and by linear models."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskcls.data.corrections import read_corrections
from maskcls.data.photos import read_photos
from maskcls.labels import age_group, encode
from tests.tune.audit.conftest import Knowing
from tests.tune.audit.linear import features, predicted
from tune.audit.findings import find, ranking
from tune.audit.proposals import write_proposals

pytest.importorskip("cleanlab", reason="audits need cleanlab (the extra `audit`)")


DRAWS = 5


def with_labels(photos: pd.DataFrame) -> pd.DataFrame:
    """The table, with age group and class as mask, gender and age say."""
    groups = [age_group(age) for age in photos["age"]]
    classes = [encode(*each) for each in zip(photos["mask"], photos["gender"], groups, strict=True)]
    return photos.assign(age_group=groups, label=classes)


def spoilt(photos: pd.DataFrame, swapped: set[str], turned: set[str], aged: Collection[str] = ()) -> pd.DataFrame:
    """The table with wrong labels: mask photos swapped, gender turned, another age."""
    wrong = photos.copy()
    of = wrong["person"]
    wrong.loc[of.isin(swapped), "mask"] = wrong["mask"].map({0: 0, 1: 2, 2: 1})
    wrong.loc[of.isin(turned), "gender"] = 1 - wrong["gender"]
    wrong.loc[of.isin(list(aged)), "age"] = wrong["age"].map(lambda years: 68 if years < 60 else 25)
    return with_labels(wrong)


def test_each_kind_is_found_and_its_correction_restores_the_truth(
    photos: pd.DataFrame, knowing: Knowing, tmp_path: Path
) -> None:
    people = photos["person"].unique().tolist()
    wrong = spoilt(photos, {people[1]}, {people[4]}, {people[7]})
    one = int(wrong.index[(wrong["person"] == people[9]) & (wrong["key"].str.contains("mask2"))][0])
    wrong.loc[one, "mask"] = 2
    wrong = with_labels(wrong)
    found = find(knowing(wrong, photos))
    expected = [("age", people[7]), ("gender", people[4]), ("mask", people[9]), ("swap", people[1])]
    assert sorted((finding.what, finding.person) for finding in found) == expected
    assert [finding.score for finding in found] == sorted((finding.score for finding in found), reverse=True)
    assert all(finding.score > 0.9 and finding.rows for finding in found)
    write_proposals(tmp_path / "corrections.csv", found, ())
    mended = with_labels(read_corrections(str(tmp_path / "corrections.csv")).apply(wrong))
    assert (mended["label"] == photos["label"]).all()


def test_right_labels_are_not_doubted(photos: pd.DataFrame, knowing: Knowing) -> None:
    assert find(knowing(photos, photos)) == []


def test_on_drawn_faces_a_list_as_long_as_the_errors_holds_most_of_them(demo_cache: Path) -> None:
    """With 4 % of the people mislabelled, over five draws of them: swapped mask photos at least 0.8, gender 0.6."""
    (folder,) = demo_cache.glob("demo-*[!k]")
    photos = read_photos(folder)
    people, seen = photos["person"].unique(), features(photos, demo_cache)
    n, hits = round(0.04 * len(people)), {"swap": 0, "gender": 0}
    for seed in range(DRAWS):
        drawn = np.random.default_rng(seed).permutation(people)[: 2 * n]
        wrong = {"swap": set(drawn[:n]), "gender": set(drawn[n:])}
        labelled = spoilt(photos, wrong["swap"], wrong["gender"])
        predictions = predicted(labelled, seen, seed)
        for what, who in wrong.items():
            hits[what] += len(who & set(ranking(predictions, what).most_doubtful(n)))
    assert hits["swap"] / (DRAWS * n) >= 0.8
    assert hits["gender"] / (DRAWS * n) >= 0.6
