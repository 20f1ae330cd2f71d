"""The commands of `maskcls` on a table of photos with 1 to 20 photos per person and gaps, as their users call them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskcls import check, evaluate, predict
from maskcls.data.photos import read_photos
from maskcls.labels import UNKNOWN
from maskcls.reports.explore.facts import gather
from maskcls.reports.explore.plots import PLOTS, drawn
from maskcls.reports.explore.report import summary
from tests.commands import call
from tests.maskcls.data.layouts.gappy import gappy


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, demo_faces: Any) -> Path:
    return gappy(tmp_path_factory.mktemp("gappy"), demo_faces(24, 4))


def test_check_says_what_is_there_and_writes_the_table_again(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.csv"
    done = call(check.main, "--data", table, "--write-table", out)
    assert done.status == 0, done.err
    n = len(pd.read_csv(table))
    assert f"{n} photos that can be used:" in done.out
    assert "not known" in done.out
    assert f"Wrote {n} photos to {out}." in done.out
    again = call(check.main, "--data", out)
    assert again.status == 0
    without = done.out.replace(f"Wrote {n} photos to {out}.\n", "").replace(str(table), str(out))
    assert again.out == without
    refused = call(check.main, "--data", table, "--write-table", out)
    assert (refused.status, refused.out) == (2, "")


def test_people_are_asked_for(table: Path, tmp_path: Path) -> None:
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows["file"] = [str((table.parent / file).absolute()) for file in rows["file"]]
    rows.drop(columns="person").to_csv(tmp_path / "photos.csv", index=False)
    done = call(check.main, "--data", tmp_path)
    assert done.status == 1
    assert "look nearly like another, as " in done.out
    assert "--people-from folder" in done.out
    assert call(check.main, "--data", tmp_path, "--people-from", "each").status == 2


def test_explore_counts_gaps_and_draws_the_ages_that_are_known(table: Path) -> None:
    """The whole page of this table: tests/tune/test_photo_tables.py."""
    facts = gather(table)
    lines = summary(facts)
    assert sum("not known: " in line for line in lines) == 2
    assert any(
        re.fullmatch(r"  gaps        \d+ photos without all labels: mask of \d+, gender of .*", line) for line in lines
    )
    (ages,) = (plot for plot in PLOTS if plot.name == "ages")
    assert drawn(ages, facts)[1].startswith(b"\x89PNG")
    assert facts.rows == f"of {len(facts.photos)} photos in photos.csv"


def test_predict_and_evaluate_take_the_table(table: Path, random_bundle: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "answers.csv"
    bundle = random_bundle("single")
    assert call(predict.main, "--bundle", bundle, "--images", table, "--out", out, "--device", "cpu").status == 0
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    keys = [key or file for key, file in zip(rows["key"], rows["file"], strict=True)]
    assert pd.read_csv(out)["ImageID"].tolist() == keys
    done = call(evaluate.main, "--bundle", bundle, "--data", table, "--device", "cpu")
    assert done.status == 0, done.err
    scored = int((read_photos(table)["label"] != UNKNOWN).sum())
    assert f"{len(rows) - scored} of {len(rows)} photos lack a label, and are not scored." in done.err
    assert f" {scored} │" in done.out
