"""`--vary corrections=none,accepted.csv`: the arms train with their labels, all are tested by the last one's, on people
whose labels were judged and on everybody."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskcls.data.dataset import prepare
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import FitData
from maskcls.training.metrics import scores
from tests.commands import call
from tests.conftest import DemoFaces
from tune.compare import __main__ as compare
from tune.compare.corrected import LabelsOf, with_labels
from tune.compare.treatments import find

SMALL = ("--weights", "none", "--image-size", "32", "--set", "backbone=test_resnet", "--set", "batch_size=64")


@pytest.fixture(scope="module")
def people(demo_faces: DemoFaces) -> list[str]:
    """Paths of 24 drawn people."""
    return pd.read_csv(demo_faces(24, 4) / "train" / "train.csv", dtype=str)["path"].tolist()


@pytest.fixture
def accepted(people: list[str], tmp_path: Path) -> Path:
    """A judged file: of half of the people the gender was looked at, and accepted for every other one."""
    rows = []
    for number, person in enumerate(people[:12]):
        value = "male" if "_female_" in person else "female"
        rows.append(f"gender,{person},{value},{('accepted', 'rejected')[number % 2]}")
    (tmp_path / "accepted.csv").write_text("\n".join(["what,path,value,judged", *rows, ""]))
    return tmp_path / "accepted.csv"


def test_an_arm_trains_with_its_labels_and_is_tested_by_the_last(
    demo_faces: DemoFaces, accepted: Path, people: list[str], demo_cache: Path
) -> None:
    data = demo_faces(24, 4)
    faces = prepare(data, corrections=str(accepted), cache=CacheOptions(demo_cache))
    raw = prepare(data, corrections="none", cache=CacheOptions(demo_cache))
    faces = with_labels(faces, ["none", str(accepted)], data, skip_bad=False)
    assert set(faces.photos.loc[faces.photos["judged"] == 1, "person"]) == set(people[:12])
    treatment = find("corrections=none")
    assert isinstance(treatment, LabelsOf)
    assert treatment.retrains
    assert treatment.keeps_features
    plain = FitData.of(faces, Recipe().override({"image_size": 32}))
    data_none = treatment.data(faces, plain, np.random.default_rng(0))
    rows = np.concatenate([plain.train, plain.validation])
    assert (data_none.labels[rows] == raw.photos["label"].to_numpy()[rows]).all()
    assert (data_none.labels[rows] != plain.labels[rows]).any()
    holdout = faces.rows("holdout")
    assert (data_none.labels[holdout] == plain.labels[holdout]).all()
    assert data_none.digest != plain.digest
    same = find("corrections=accepted.csv").data(faces, plain, np.random.default_rng(0))
    assert (same.labels == plain.labels).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--vary", "corrections=none,nowhere.csv"), "--vary corrections: there is no file nowhere.csv."),
        (("--vary", "corrections=none"), "--vary corrections needs at least two values: the base's first"),
        (("--vary", "corrections=none,FILE", "--corrections", "none"), "so leave out --corrections."),
        (("--vary", "corrections=none,published"), "they all make the same labels, so there is nothing to compare."),
        (("--vary", "corrections=FILE,FILE2"), "the files need different names"),
    ],
)
def test_calls_that_cannot_be_meant(
    words: tuple[str, ...], message: str, accepted: Path, demo_faces: DemoFaces, few_faces: tuple[str, ...]
) -> None:
    other = accepted.parent / "other" / "accepted.csv"
    other.parent.mkdir()
    other.write_text(accepted.read_text())
    said_words = [word.replace("FILE2", str(other)).replace("FILE", str(accepted)) for word in words]
    runs = accepted.parent / "runs"
    said = call(compare.main, *said_words, *few_faces, "--runs", runs)
    assert said.status == 2, said.out + said.err
    assert message in said.err
    assert not runs.exists() or list(runs.iterdir()) == []


def test_corrections_need_data(tmp_path: Path, accepted: Path) -> None:
    said = call(compare.main, "--vary", f"corrections=none,{accepted}", "--runs", tmp_path / "runs")
    assert said.status == 2
    assert "--vary corrections is about labels of your own: give --data." in said.err


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_comparison_of_corrections_says_what_they_bought(
    accepted: Path, few_faces: tuple[str, ...], tmp_path: Path, people: list[str]
) -> None:
    words = ("--vary", f"corrections=none,{accepted}", "--seeds", 2, "--epochs", 1, "--cpus-per-trial", 1)
    said = call(compare.main, *words, *SMALL, *few_faces, "--runs", tmp_path / "runs", "--name", "bought")
    assert said.status == 0, said.out + said.err
    run = tmp_path / "runs" / "bought"
    with (run / "table.csv").open() as lines:
        rows = {(row["comparison"], row["variant"]): row for row in csv.DictReader(lines)}
    names = ["base", "corrections=accepted.csv"]
    assert list(rows) == [("judged people", name) for name in names] + [("everybody", name) for name in names]
    assert len(list(run.glob("fits/*"))) == 4, "both comparisons share their fits"
    for row in (rows["judged people", names[1]], rows["everybody", names[1]]):
        assert row["n"] == "2"
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
    judged = []
    for file in run.glob("fits/*/answers.csv"):
        table = pd.read_csv(file)
        kept = table[table["key"].str.partition("/")[0].isin(people[:12])]
        judged.append(scores(kept["truth"].to_numpy(), kept.filter(like="answer").iloc[:, 0].to_numpy()).f1)
    shown = [float(rows["judged people", name]["f1_mean"]) for name in names]
    assert sum(shown) / 2 == pytest.approx(np.mean(judged), abs=1e-5)
    assert "accepted or rejected, tested by the labels of accepted.csv" in (run / "report.html").read_text()
    accepted.unlink()  # the run has the labels
    resumed = call(compare.main, "--resume", run, "--seeds", 2)
    assert resumed.status == 0, resumed.err
    more = call(compare.main, "--resume", run, "--vary", "corrections=none,published")
    assert more.status == 2
    assert "--vary corrections cannot be added to a run" in more.err
