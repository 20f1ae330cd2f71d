"""Searches on a table of photos: that of the contest's folder is the folder's, and one with gaps goes every way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskcls import evaluate, explore, predict, train
from maskcls.data.layouts.write import write_table
from maskcls.data.photos import read_photos
from tests.commands import Said, call
from tests.maskcls.data.layouts.gappy import gappy
from tests.tune.searches import reported
from tune import ensemble
from tune.audit import __main__ as audit
from tune.compare import __main__ as compare
from tune.report import __main__ as report
from tune.runs.folder import ComparisonRun, SearchRun
from tune.runs.study import records
from tune.search import __main__ as search

SMALL = ("--set", "batch_size=64", "--set", "backbone=test_resnet")
FIT = ("--weights", "none", "--image-size", 32, "--epochs", 2, *SMALL)
SEARCH = ("--space", "freezing", "--trials", 2, "--parallel", 1, *FIT)


def done(main: Any, *words: object) -> Said:
    said = call(main, *words)
    assert said.status == 0, said.err
    return said


@pytest.fixture
def table(tmp_path: Path, demo_faces: Any) -> Path:
    return gappy(tmp_path / "gappy", demo_faces(24, 4))


@pytest.fixture
def extra(tmp_path: Path, demo_faces: Any) -> Path:
    photos = read_photos(demo_faces(6, 9))
    (tmp_path / "extra").mkdir()
    file = tmp_path / "extra" / "photos.csv"
    write_table(photos.assign(age=float("nan"), age_group=-1, person="new " + photos["person"]), file)
    return file


def chosen(run: SearchRun) -> tuple[Any, ...]:
    """The winner, the finalists with the scores of their repeats, and the winner's score on the holdout."""
    choice, holdout = run.record().choice, run.record().holdout
    assert choice is not None
    assert holdout is not None
    finalists = [(one["trial"], one["mean"], [each["f1"] for each in one["repeats"]]) for one in choice["finalists"]]
    return choice["winner"], finalists, [one["f1"] for one in holdout["looks"]]


@pytest.mark.parametrize("main", [compare.main, train.main])
@pytest.mark.parametrize("option", ["--data", "--extra"])
def test_a_folder_without_photos_is_refused_before_weights_are_asked_for(
    main: Any, option: str, tmp_path: Path
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "a.flac").touch()
    options = {compare.main: ("--vary", "head=linear,mlp", "--plan"), train.main: ("--out", tmp_path / "out")}[main]
    said = call(main, option, tmp_path / "music", "--weights", tmp_path / "weights", *options)
    assert said.status == 1
    assert said.err.splitlines()[-1].startswith(f"Error: {tmp_path}/music has no train/train.csv. Expected ")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_search_on_the_folders_table_is_the_search_on_the_folder_to_the_bit(
    tmp_path: Path, demo_faces: Any, ray_cluster: str
) -> None:
    folder, table = demo_faces(24, 4), tmp_path / "photos.csv"
    write_table(read_photos(folder), table)
    for name, data in (("folder", folder), ("table", table)):
        cache = tmp_path / f"cache-{name}"
        done(search.main, *SEARCH, "--data", data, "--name", name, "--runs", tmp_path, "--cache", cache, "--repeats", 2)
    one, other = SearchRun(tmp_path / "folder"), SearchRun(tmp_path / "table")
    assert reported(one) == reported(other)
    assert (one.data / "photos.csv").read_bytes() == (other.data / "photos.csv").read_bytes()
    assert (one.data / "split.json").read_bytes() == (other.data / "split.json").read_bytes()
    assert chosen(one) == chosen(other)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_table_with_gaps_goes_through_every_command(
    tmp_path: Path, table: Path, extra: Path, ray_cluster: str
) -> None:
    where = ("--runs", tmp_path / "runs", "--cache", tmp_path / "cache")
    done(explore.main, "--data", table, "--out", tmp_path / "look")
    words = (*SEARCH, "--data", table, "--extra", extra, "--set", "task_split=shared_heads")
    done(search.main, *words, "--name", "one", "--finalists", 2, "--repeats", 2, *where)
    run = SearchRun(tmp_path / "runs" / "one")
    assert all(record.f1 is not None for record in records(run))
    done(report.main, "--run", "one", "--group-by", "light", *where)
    assert "bright" in run.report.read_text()
    done(ensemble.main, "--run", "one", "--size", 2, "--out", tmp_path / "team", *where)
    answers = tmp_path / "answers.csv"
    done(predict.main, "--bundle", run.best, "--images", table, "--out", answers)
    assert len(pd.read_csv(answers)) == len(pd.read_csv(table))
    assert "people new to it" in done(evaluate.main, "--bundle", run.best, "--data", table, *where[:2]).out
    done(audit.main, "--run", "one", *where)
    vary = ("--vary", "loss=focal,cross_entropy", "--seeds", 2, "--folds", 2)
    done(compare.main, "--data", table, "--extra", extra, "--name", "two", *FIT, *vary, *where)
    assert ComparisonRun(tmp_path / "runs" / "two").report.exists()
