"""`tune.report` as a command: the report, two searches side by side, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from maskcls.data.dataset import FaceDataset
from tests.commands import call
from tests.tune.made_run import made_run
from tests.tune.report.test_how_good import judged
from tune.report import __main__ as report
from tune.runs.folder import SearchRun

__all__ = ["judged"]


@pytest.mark.slow
def test_a_report_and_two_searches_side_by_side(judged: tuple[SearchRun, FaceDataset], tmp_path: Path) -> None:
    run, faces = judged
    shutil.copytree(run.path, tmp_path / "other")
    options = ("--runs", run.path.parent, "--cache", faces.cache.folder)
    said = call(report.main, "--run", run.name, "--out", tmp_path / "page.html", "--group-by", "race", *options)
    assert (said.status, said.out) == (0, f"small: {tmp_path / 'page.html'}\n")
    assert "race: Drawn" in (tmp_path / "page.html").read_text()
    said = call(report.main, "--run", tmp_path / "other", "--compare", run.name, *options)
    assert (said.status, said.out) == (0, f"other: {tmp_path / 'other' / 'report-with-small.html'}\n")


def test_what_it_cannot_do_is_one_message(judged: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = judged
    options = ("--run", run.name, "--runs", run.path.parent, "--cache", faces.cache.folder)
    for words, message in (
        (("--group-by", "eyes"), "--group-by eyes: there is no such column. The people's table has race, gender, age."),
        (("--compare", run.name), "--compare small is the run itself. Name another search."),
        (("--compare", "none", "--with-photos"), "--group-by and --with-photos belong to a report, not to --compare."),
        (("--compare", "none"), "There is no run 'none'"),
    ):
        said = call(report.main, *options, *words)
        assert said.status == 2
        assert message in said.err
        assert said.out == ""


def test_what_a_run_lacks_is_said_instead_of_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path, 2)
    for words, message in (
        (("--group-by", "race"), f"--group-by needs the run's photo table and split, but {run.data} lacks them."),
        (("--with-photos",), "--with-photos shows the winner's mistakes, but made has no model in best/"),
    ):
        said = call(report.main, "--run", run.path, *words)
        assert (said.status, said.out) == (2, "")
        assert message in said.err
        assert "--resume" in said.err
        assert not run.report.exists()
