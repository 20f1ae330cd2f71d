"""A comparison that a program follows: the same words begin it, and go on with it after a kill; then it is extended."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.stores.cache_options import CacheOptions
from tests import commands
from tests.tune.compare.test_command import SMALL, answers, by_sklearn, call, table
from tests.tune.runs.documented_events import read_events
from tests.tune.search.test_kill import no_worker_left
from tune.compare.__main__ import main
from tune.compare.options import CompareOptions
from tune.fitting.curve import read_curve
from tune.fitting.result import FitResult
from tune.runs.folder import ComparisonRun
from tune.runs.record import ComparisonRecord

VARIED = ("--vary", "lr_head=2e-2,1e-4", "--set", "lr_head=2e-3", "--seeds", "2", "--epochs", "2", *SMALL)
Events = list[dict[str, Any]]


def words(folder: Path, faces: tuple[str, ...], *more: str) -> list[str]:
    return [*VARIED, "--name", "one", "--begin-or-resume", "--runs", str(folder), *faces, *more]


def of(found: Events, event: str) -> Events:
    return [one for one in found if one["event"] == event]


class Resumed(NamedTuple):
    """A comparison of which half was lost, then gone on with by the same words, and its events."""

    run: ComparisonRun
    unbroken: dict[str, dict[str, str]]
    """The table before anything was lost."""
    begun: Events
    done: dict[Path, int]
    """The results that were there before it went on, and when they were written."""
    after: Events


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, few_faces: tuple[str, ...], ray_cluster: str) -> Resumed:
    run = ComparisonRun(tmp_path_factory.mktemp("compared") / "one")
    asked = words(run.path.parent, few_faces, "--json")
    first = commands.call(main, *asked)
    assert first.status == 0, first.err
    unbroken = table(run.path)
    for fit in sorted(run.path.glob("fits/*"))[::2]:
        shutil.rmtree(fit)
    for file in (run.table_csv, run.report):
        file.unlink()
    done = {file: file.stat().st_mtime_ns for file in run.path.glob("fits/*/result.json")}
    assert len(done) == 3
    second = commands.call(main, *asked)
    assert second.status == 0, second.err
    begun, after = (read_events(said.out.splitlines(keepends=True)) for said in (first, second))
    return Resumed(run, unbroken, begun, done, after)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_same_words_after_a_kill_make_one_comparison(
    tmp_path: Path, resumed: Resumed, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    run = ComparisonRun(tmp_path / "one")
    asked = words(run.path.parent, few_faces, "--json")
    first = commands.start("-m", "tune.compare", *asked, address=ray_cluster)
    assert first.stdout is not None
    lines: list[str] = []
    while sum('"repeat_ended"' in line for line in lines) < 2:
        lines.append(first.stdout.readline())
        assert lines[-1], first.communicate()[1]
    first.kill()
    first.communicate()
    assert no_worker_left("ray::work_on")
    done = {file: file.stat().st_mtime_ns for file in run.path.glob("fits/*/result.json")}
    assert 2 <= len(done) < 6
    second = commands.call(main, *asked)
    assert second.status == 0, second.err
    assert {file: file.stat().st_mtime_ns for file in done} == done, "no fit was done twice"
    assert len(of(read_events(second.out.splitlines(keepends=True)), "repeat_ended")) == 6 - len(done)
    assert table(run.path) == resumed.unbroken


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_same_words_go_on_with_what_is_missing(resumed: Resumed, few_faces: tuple[str, ...]) -> None:
    run, before, found = resumed.run, resumed.begun, resumed.after
    assert (before[0]["command"], before[0]["resumed"], before[0]["wanted"]) == ("tune.compare", False, 2)
    fits = [(one["event"], one["fit"]) for one in before if one.get("fit") == of(before, "repeat_ended")[0]["fit"]]
    assert [event for event, _ in fits] == ["repeat_begun", "epoch", "epoch", "repeat_ended"]
    assert (found[0]["event"], found[0]["resumed"]) == ("run", True)
    assert {file: file.stat().st_mtime_ns for file in resumed.done} == resumed.done, "no fit was done twice"
    ended = of(found, "repeat_ended")
    assert len(ended) == 6 - len(resumed.done)
    for one in ended:
        result = FitResult.read(run.fit(one["fit"]))
        assert result is not None
        assert (one["state"], one["f1"], one["trial"]) == ("complete", result.best_validation_f1, None)
        rows = [(row["validation_f1"], row["train_loss"]) for row in read_curve(run.fit(one["fit"]))]
        epochs = [(epoch["f1"], epoch["loss"]) for epoch in of(found, "epoch") if epoch["fit"] == one["fit"]]
        assert epochs == rows
    assert_the_variants_are_the_tables(run, of(found, "variant"))
    done = found[-1]
    assert (done["event"], done["reason"], done["status"], done["remaining"]) == ("done", "finished", 0, 0)
    assert (done["table"], done["report"], done["bundle"]) == (str(run.table_csv), str(run.report), None)

    again = commands.call(main, *words(run.path.parent, few_faces, "--quiet"))
    assert (again.status, again.err) == (0, "")
    assert again.out.split()[0] == "variant", "the table is the result"
    assert f"Comparison finished. Page: {run.report}, table: {run.table_csv}" in again.out
    other = commands.call(main, *words(run.path.parent, few_faces, "--split-seed", "3"))
    assert other.status == 2
    assert "found the run one, which has other settings: --split-seed is 0 in the run, but 3 was given" in other.err


def assert_the_variants_are_the_tables(run: ComparisonRun, variants: Events) -> None:
    with run.table_csv.open() as file:
        rows = list(csv.DictReader(file))
    assert [one["is_base"] for one in variants] == [True, False, False]
    for one, row in zip(variants, rows, strict=True):
        assert (one["variant"], one["verdict"], str(one["repeats"])) == (row["variant"], row["verdict"], row["n"])
        for key, column in (("f1", "f1_mean"), ("difference", "difference"), ("low", "low"), ("high", "high")):
            assert ("" if one[key] is None else f"{one[key]:.6f}") == row[column]


@pytest.mark.slow
def test_the_table_is_that_of_an_unbroken_comparison_and_of_the_answers(
    resumed: Resumed, few_faces: tuple[str, ...]
) -> None:
    run = resumed.run.path
    said = call(*words(run.parent, few_faces))
    assert max(len(line) for line in said.splitlines() if "±" in line) <= 80
    reported = table(run)
    assert resumed.unbroken == reported
    assert list(reported) == ["base", "lr_head=0.02", "lr_head=0.0001"]
    base, fast = (answers(run, lr_head=rate) for rate in (2e-3, 2e-2))
    scores = [[by_sklearn(one) for one in arm] for arm in (base, fast)]
    assert float(reported["base"]["f1_mean"]) == pytest.approx(np.mean(scores[0]), abs=1e-6)
    assert float(reported["lr_head=0.02"]["f1_sd"]) == pytest.approx(np.std(scores[1], ddof=1), abs=1e-6)
    assert float(reported["lr_head=0.02"]["difference"]) == pytest.approx(
        np.mean(scores[1]) - np.mean(scores[0]), abs=1e-6
    )
    assert {row["n"] for row in reported.values()} == {"2"}


@pytest.fixture(scope="module")
def extended(resumed: Resumed, few_faces: tuple[str, ...]) -> Path:
    """A copy of the run with one more repeat, of two of its three arms."""
    run = Path(shutil.copytree(resumed.run.path, resumed.run.path.parent / "extended"))
    call("--resume", run, "--seeds", 3, "--vary", "lr_head=2e-2", *few_faces)
    return run


@pytest.mark.slow
def test_an_extended_comparison_keeps_what_is_done(resumed: Resumed, extended: Path) -> None:
    ended = {file.parent.name: file.read_bytes() for file in resumed.done}
    assert {name: (extended / "fits" / name / "result.json").read_bytes() for name in ended} == ended
    assert len(list(extended.glob("fits/*/result.json"))) == 9
    assert {row["n"] for row in table(extended).values()} == {"3"}
    record = json.loads((extended / "comparison.json").read_text())
    reasons = [part["why"] for part in record["parts"]]
    assert set(reasons) == {"finished"}
    assert (record["call"]["seeds"], record["call"]["folds"]) == (3, 2)
    again = commands.read(main, CompareOptions.stated, "--config", extended / "config.toml")
    assert again.to_record() == record["call"], "as the run has it after the resume"
    assert (again.name, again.resume) == (None, None)


@pytest.mark.slow
def test_nobody_who_is_tested_was_seen(resumed: Resumed) -> None:
    run = resumed.run.path
    faces = FaceDataset.load(run / "data", CacheOptions(run))
    for repeat, said in enumerate(answers(run, lr_head=2e-3)):
        split = Split.from_json((run / "data" / "repeats" / f"2-{repeat:03d}.json").read_text())
        people = faces.photos.set_index("key").loc[said.index, "person"]
        assert set(people) == set(split.holdout)
        assert not set(people) & {*split.train, *split.validation, *faces.split.holdout}


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
