"""A real search of drawn faces, followed line by line by a program: what it says is what the run holds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maskcls.serving.bundle import read_manifest
from tests import commands
from tests.tune.runs.documented_events import documented_keys, read_events
from tests.tune.searches import table
from tune.fitting.curve import read_curve
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.search.__main__ import main
from tune.states import TrialState

TINY = ["--space", "freezing", "--image-size", "32", "--set", "batch_size=128", "--set", "backbone=test_resnet"]
TINY += ["--parallel", "1", "--cpus-per-trial", "1"]
Events = list[dict[str, Any]]


def started(folder: Path, faces: tuple[str, ...], address: str | None, *words: str) -> subprocess.Popen[str]:
    """The command, as a process of its own that joins the Ray at the address; None: at what the words say."""
    words = (*TINY, "--runs", str(folder), *faces, *words)
    return commands.start("-m", "tune.search", *words, address=address)


def of(found: Events, event: str) -> Events:
    return [one for one in found if one["event"] == event]


@pytest.fixture(scope="module")
def followed(
    tmp_path_factory: pytest.TempPathFactory, few_faces: tuple[str, ...], ray_cluster: str
) -> tuple[SearchRun, Events, str]:
    """The run, its events, and stderr. The lines are read while the search works."""
    folder = tmp_path_factory.mktemp("followed")
    words = ("--name", "one", "--trials", "3", "--epochs", "2", "--finalists", "2", "--repeats", "2")
    search = started(folder, few_faces, ray_cluster, *words, "--retrain-on-all", "--json")
    assert search.stdout is not None
    assert search.stderr is not None
    lines: list[str] = []
    for line in search.stdout:
        lines.append(line)
        if json.loads(line)["event"] == "trial_ended":
            assert search.poll() is None, "a line comes when it happens, not at the end"
    err = search.stderr.read()
    assert search.wait() == 0, err
    return SearchRun(folder / "one"), read_events(lines), err


def chosen(run: SearchRun) -> dict[str, Any]:
    """The choice in search.json."""
    choice = run.record().choice
    assert choice is not None
    return choice


def repeats_of_preset(run: SearchRun) -> int:
    """Two, unless the preset's trial is a finalist, whose repeats are there anyway."""
    choice = chosen(run)
    return 0 if choice["preset"]["trial"] in [one["trial"] for one in choice["finalists"]] else 2


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_events_come_in_the_documented_order(followed: tuple[SearchRun, Events, str]) -> None:
    run, found, err = followed
    names = [one["event"] for one in found]
    assert set(names) == documented_keys().keys() - {"variant", "node_set_aside"}, (
        "all events of a search on one machine"
    )
    phases = ("run", "trial_begun", "repeat_begun", "choice", "holdout", "done")
    assert [name for name in dict.fromkeys(names) if name in phases] == list(phases)
    # A finalist that was stopped early goes to its end beside the repeats; the fit on all people comes last.
    stopped = [name for name in names[: names.index("choice")] if name == "fit_begun"]
    assert len(stopped) == sum(one["to_end"] is not None for one in chosen(run)["finalists"])
    assert names[names.index("choice") :].count("fit_begun") == 1
    assert [names.count(name) for name in phases[1:3]] == [3, 4 + repeats_of_preset(run)]
    assert names[-2:] == ["holdout", "done"]
    for trial, fit in dict.fromkeys((one["trial"], one.get("fit")) for one in found if one["event"].endswith("_begun")):
        own = [one["event"] for one in found if (one.get("trial"), one.get("fit")) == (trial, fit) and "f1" in one]
        assert own[-1].endswith("_ended") or own[-2:] == ["trial_ended", "holdout"]
        assert own.index("epoch") == 0
    assert (found[0]["name"], found[0]["path"], found[0]["resumed"]) == ("one", str(run.path), False)
    assert (found[0]["command"], found[0]["wanted"]) == ("tune.search", 3)
    assert "Run one: 3 trials of space freezing" in err, "people read stderr"


@pytest.mark.slow
def test_the_numbers_of_the_trials_are_the_leaderboards(followed: tuple[SearchRun, Events, str]) -> None:
    run, found, _ = followed
    known = {record.trial_id: record for record in records(run)}
    ended = {one["trial"]: one for one in of(found, "trial_ended")}
    assert {row["trial"] for row in table(run)} == ended.keys()
    for row in table(run):
        one = ended[row["trial"]]
        assert (one["state"], f"{one['f1']:.6f}") == (row["state"], row["best_validation_f1"])
        assert (str(one["best_epoch"]), str(one["epochs"])) == (row["best_epoch"], row["epochs"])
        assert f"{one['seconds']:.1f}" == row["seconds"]
    for one in of(found, "trial_begun"):
        record = known[one["trial"]]
        assert (one["overrides"], one["params"], one["origin"]) == (record.overrides, record.params, record.origin)
    assert any(one["overrides"] for one in of(found, "trial_begun"))


def curves(found: Events) -> Iterator[tuple[str | None, str | None, list[tuple[Any, ...]]]]:
    """Trial, fit and the epochs' numbers, of each."""
    epochs = of(found, "epoch")
    for trial, fit in dict.fromkeys((one["trial"], one["fit"]) for one in epochs):
        own = [one for one in epochs if (one["trial"], one["fit"]) == (trial, fit)]
        yield trial, fit, [tuple(one[key] for key in ("epoch", "f1", "best_f1", "loss", "seconds")) for one in own]


@pytest.mark.slow
def test_every_epoch_is_the_curves(followed: tuple[SearchRun, Events, str]) -> None:
    run, found, _ = followed
    last = of(found, "fit_begun")[-1]["fit"]
    n = 0
    for trial, fit, epochs in curves(found):
        folder = run.finalists / fit if fit else run.trial(str(trial))
        keys = ("epoch", "validation_f1", "best_f1", "train_loss", "seconds")
        rows = [tuple(row[key] for key in keys) for row in read_curve(folder)]
        if fit == last:  # on all people: nobody is left to score it
            rows = [(epoch, None, None, *rest) for epoch, _, _, *rest in rows]
        assert epochs == rows
        n += 1
    assert n >= 3 + 4 + 1


@pytest.mark.slow
def test_repeats_choice_and_holdout_are_the_records(followed: tuple[SearchRun, Events, str]) -> None:
    run, found, _ = followed
    repeats = of(found, "repeat_ended")
    assert len(repeats) == 4 + repeats_of_preset(run)
    assert {one["repeat"] for one in repeats} == {0, 1}
    for one in repeats:
        result = FitResult.read(run.finalists / one["fit"])
        assert result is not None
        assert (one["state"], one["f1"], one["epochs"]) == (
            TrialState.COMPLETE,
            result.best_validation_f1,
            result.epochs,
        )
    search = run.record()
    (choice,), (holdout,), (done,) = (of(found, event) for event in ("choice", "holdout", "done"))
    assert search.choice is not None
    for key in ("winner", "validation_f1", "mean", "spread", "finalists", "preset", "gain"):
        assert choice[key] == search.choice[key]
    (winner,) = (one for one in choice["finalists"] if one["trial"] == choice["winner"])
    assert choice["model_validation_f1"] == (winner["to_end"] or winner)["validation_f1"], "of its own model"
    assert holdout["validation_f1"] == search.choice["model_validation_f1"]
    assert holdout["models"] == len(read_manifest(run.best)["classifiers"])
    for key in ("f1", "low", "high", "people", "photos"):
        assert holdout[key] == search.choice["holdout"][key]
    assert (holdout["optimism"], holdout["evaluations"]) == (search.choice["optimism"], 1)
    assert (done["reason"], done["status"], done["remaining"]) == ("finished", 0, 0)
    paths = [str(path) for path in (run.best, run.best_on_all, run.leaderboard, run.report)]
    assert [done[key] for key in ("bundle", "bundle_on_all", "table", "report")] == paths


def test_an_error_is_heard_with_quiet_and_as_an_event(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photos.csv").write_text("file,person,mask,gender,age\n")
    words = ("--data", tmp_path / "data", "--weights", "none", "--runs", tmp_path / "runs", "--quiet", "--json")
    said = commands.call(main, *TINY, *words)
    begun, done = read_events(said.out.splitlines(keepends=True))
    assert (begun["event"], done["event"], done["reason"], done["status"]) == ("run", "done", "failed", said.status)
    assert said.status == 1
    assert said.err == f"Error: {done['message']}\n"
