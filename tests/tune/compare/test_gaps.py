"""Comparisons of photos that lack labels, and the treatments that take ages away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.labels import UNKNOWN
from maskcls.stores.cache_options import CacheOptions
from maskcls.tasks import task
from maskcls.training.fit_data import FitData, TrainingPhotos, scored_rows
from maskcls.training.metrics import scores
from tests.conftest import DemoFaces
from tests.tune.compare.test_contest_study import SMALL
from tests.tune.compare.test_fits import Compared, Fours
from tests.tune.gapped_faces import with_gaps
from tune.compare.arms import repeat_splits
from tune.compare.corrected import LabelsOf, columns
from tune.compare.defects import SplitByPhoto
from tune.compare.treatments import find
from tune.runs.folder import ComparisonRun


@pytest.fixture
def faces(demo_faces: DemoFaces, demo_cache: Path) -> FaceDataset:
    return prepare(demo_faces(24, 4), cache=CacheOptions(demo_cache))


def treated(name: str, faces: FaceDataset, data: FitData) -> FitData:
    return find(name).data(faces, data, np.random.default_rng(7))


def test_both_treatments_take_the_same_half_of_the_training_people(faces: FaceDataset) -> None:
    plain = FitData.of(faces, SMALL)
    gaps, fewer = (treated(name, faces, plain) for name in ("unknown ages", "unknown ages left out"))
    people = faces.photos["person"].to_numpy(object)
    lost = plain.train[gaps.labels[plain.train] == UNKNOWN]
    assert sorted(fewer.train) == sorted(set(plain.train) - set(lost))
    assert len(set(people[lost])) == len(set(people[plain.train])) // 2
    assert not set(people[lost]) & set(people[fewer.train])
    others = np.setdiff1d(np.arange(len(people)), lost)
    assert (gaps.labels[others] == plain.labels[others]).all(), "validation and test keep their labels"
    assert (gaps.ages[others] == plain.ages[others]).all()
    known = gaps.known_attributes(lost)
    assert (known[:, :2] == plain.known_attributes(lost)[:, :2]).all()
    assert (known[:, 2] == UNKNOWN).all()
    assert len({plain.digest, gaps.digest, fewer.digest}) == 3
    drawn = {name: TrainingPhotos.of(SMALL, (task(name),), gaps).rows for name in ("mask3", "gender2", "age3")}
    assert drawn["mask3"].tolist() == drawn["gender2"].tolist() == plain.train.tolist()
    assert drawn["age3"].tolist() == sorted(fewer.train)


def test_photos_without_all_labels_cannot_choose_the_epoch_of_a_split_by_photo(faces: FaceDataset) -> None:
    gapped = with_gaps(faces)
    data = FitData.of(gapped, SMALL)
    mixed = SplitByPhoto().data(gapped, data, np.random.default_rng(0))
    lacks = data.labels == UNKNOWN
    assert set(mixed.train[lacks[mixed.train]]) == set(data.train[lacks[data.train]])
    assert (len(mixed.train), len(mixed.validation)) == (len(data.train), len(data.validation))
    assert set(mixed.validation) != set(data.validation)


def test_corrections_may_take_and_give_a_label(faces: FaceDataset) -> None:
    gapped = with_gaps(faces)
    own = {column: gapped.photos[source] for source, column in columns("none").items()}
    data = FitData.of(faces, SMALL)
    given = LabelsOf("none").data(FaceDataset(faces.photos.assign(**own), faces.split, faces.cache), data, None)  # type: ignore[arg-type]
    expected = FitData.of(gapped, SMALL)
    rows = np.concatenate([data.train, data.validation])
    assert (given.labels[rows] == expected.labels[rows]).all()
    assert (given.ages[rows] == expected.ages[rows]).all()
    assert (given.known_attributes(rows) == expected.known_attributes(rows)).all()
    tested = gapped.rows("holdout")
    assert (given.labels[tested] == data.labels[tested]).all()


def test_a_comparison_tests_the_photos_with_all_labels(tmp_path: Path, faces: FaceDataset, demo_cache: Path) -> None:
    run, gapped = ComparisonRun.create(tmp_path, "one"), with_gaps(faces)
    gapped.save(run.data)
    repeat_splits(run, faces, 1, 2, 0)  # it stays, as it was drawn of the whole table
    one = Compared(run, demo_cache, Fours)
    outcome = one.fitted()
    assert outcome.state == "complete", outcome.message
    answers = pd.read_csv(one.request.folder / "answers.csv", index_col="key")
    assert (answers["truth"] != UNKNOWN).all()
    split = one._splits[0]
    tested = scored_rows(FaceDataset(gapped.photos, split, gapped.cache), "holdout")
    assert answers.index.tolist() == gapped.photos["key"].iloc[tested].tolist()
    base, variant = one.results().rows
    assert base.n == variant.n == 1
    assert variant.f1[0] == scores(gapped.photos["label"].to_numpy()[tested], np.full(len(tested), 4)).f1
    assert one.results().photos == len(tested)
