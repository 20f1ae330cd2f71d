"""A comparison that a program follows: the same words begin it, and go on with it after a kill."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import commands
from tests.tune.compare.test_command import SMALL
from tests.tune.runs.documented_events import read_events
from tune.compare.__main__ import main
from tune.compare.options import CompareOptions
from tune.fitting.curve import read_curve
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.runs.record import ComparisonRecord

VARIED = ("--vary", "loss=focal,cross_entropy", "--seeds", "2", "--epochs", "1", *SMALL, "--parallel", "1")


def words(folder: Path, faces: tuple[str, ...], *more: str) -> list[str]:
    return [*VARIED, "--name", "one", "--begin-or-resume", "--runs", str(folder), *faces, *more]


def started(folder: Path, faces: tuple[str, ...], address: str) -> subprocess.Popen[str]:
    return commands.start("-m", "tune.compare", *words(folder, faces, "--json"), address=address)


def of(found: list[dict[str, Any]], event: str) -> list[dict[str, Any]]:
    return [one for one in found if one["event"] == event]


def lines_to(process: subprocess.Popen[str], event: str) -> list[str]:
    """What it prints until that event."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if json.loads(line)["event"] == event:
            break
    return lines


@pytest.mark.timeout(600)
def test_the_same_words_after_a_kill_make_one_comparison(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    run = ComparisonRun(tmp_path / "one")
    first = started(tmp_path, few_faces, ray_cluster)
    before = read_events(lines_to(first, "repeat_ended"))
    first.kill()
    first.communicate()
    assert [one["event"] for one in before] == ["run", "repeat_begun", "epoch", "repeat_ended"]
    assert (before[0]["command"], before[0]["resumed"], before[0]["wanted"]) == ("tune.compare", False, 2)

    second = started(tmp_path, few_faces, ray_cluster)
    out, err = second.communicate()
    assert second.returncode == 0, err
    found = read_events(out.splitlines(keepends=True))
    assert (found[0]["event"], found[0]["resumed"]) == ("run", True)
    ended = of(found, "repeat_ended")
    assert len(ended) == 3, "one was done before the kill"
    assert sorted(one["repeat"] for one in [*of(before, "repeat_ended"), *ended]) == [0, 0, 1, 1]
    for one in ended:
        result = FitResult.read(run.fit(one["fit"]))
        assert result is not None
        assert (one["state"], one["f1"], one["trial"]) == ("complete", result.best_validation_f1, None)
        (row,) = read_curve(run.fit(one["fit"]))
        (epoch,) = [epoch for epoch in of(found, "epoch") if epoch["fit"] == one["fit"]]
        assert (epoch["f1"], epoch["loss"]) == (row["validation_f1"], row["train_loss"])
    assert_the_variants_are_the_tables(run, of(found, "variant"))
    done = found[-1]
    assert (done["event"], done["reason"], done["status"], done["remaining"]) == ("done", "finished", 0, 0)
    assert (done["table"], done["report"], done["bundle"]) == (str(run.table_csv), str(run.report), None)

    again = commands.call(main, *words(tmp_path, few_faces, "--quiet"))
    assert (again.status, again.err) == (0, "")
    assert again.out.split()[0] == "variant", "the table is the result"
    assert f"Comparison finished. Page: {run.report}, table: {run.table_csv}" in again.out
    other = commands.call(main, *words(tmp_path, few_faces, "--split-seed", "3"))
    assert other.status == 2
    assert "found the run one, which has other settings: --split-seed is 0 in the run, but 3 was given" in other.err


def assert_the_variants_are_the_tables(run: ComparisonRun, variants: list[dict[str, Any]]) -> None:
    with run.table_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [one["is_base"] for one in variants] == [True, False]
    for one, row in zip(variants, rows, strict=True):
        assert (one["variant"], one["verdict"], str(one["repeats"])) == (row["variant"], row["verdict"], row["n"])
        for key, column in (("f1", "f1_mean"), ("difference", "difference"), ("low", "low"), ("high", "high")):
            assert ("" if one[key] is None else f"{one[key]:.6f}") == row[column]


def test_repeats_that_are_added_change_no_folds(tmp_path: Path) -> None:
    """--folds follows from --seeds, which a resume may raise: only a stated --folds contradicts."""
    plan = ["--vary", "loss=focal,cross_entropy", "--runs", str(tmp_path), "--scale", "cpu", "--plan"]
    plan += ["--name", "one", "--begin-or-resume", "--seeds"]
    asked = CompareOptions.model_validate({"vary": ["loss=focal,cross_entropy"], "seeds": 2, "scale": "cpu"})
    ComparisonRun.create(tmp_path, "one", ComparisonRecord(call=asked.to_record(), sessions=[]))
    assert "5 repeats over 2 folds" in commands.call(main, *plan, "5").out
    said = commands.call(main, *plan, "5", "--folds", "5")
    assert said.status == 2
    assert "--folds is 2 in the run, but 5 was given" in said.err
