"""The door: what it refuses, and studies of drawn faces. A comparison that is killed: test_begin_or_resume.py."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from maskcls.data.dataset import FaceDataset
from maskcls.errors import RunError, Terminated
from maskcls.recipe import Recipe
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.result import EpochResult
from tests import commands
from tune.compare import __main__ as compare
from tune.compare.treatments import Treatment
from tune.runs.folder import ComparisonRun, SearchRun
from tune.runs.record import ComparisonRecord
from tune.runs.stopping import Outcome, Reason
from tune.search import __main__ as search
from tune.statistics.paired import Verdict

ROOT = Path(__file__).parents[3]
HERE = __name__
SMALL = (
    "--image-size",
    "32",
    "--set",
    "backbone=test_resnet",
    "--set",
    "batch_size=64",
    "--cpus-per-trial",
    "1",
    "--parallel",
    "1",
    "--scale",
    "cpu",
)


class EverybodyTheSame(Treatment):
    """Answers class 4 to every photo."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        return np.full(len(rows), 4)


class FirstEpoch(Treatment):
    """Answers with the first epoch, and says who was there."""

    def better(self, new: EpochResult, best: EpochResult) -> bool:
        return False


class HalfThePhotos(Treatment):
    """Trains on every second photo."""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        from dataclasses import replace

        assert not set(data.train) & set(faces.rows("holdout"))
        return replace(data, train=data.train[::2], digest=f"{data.digest}-half")


class Nowhere(Treatment):
    """Applies to no photos."""

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "these photos have no names"


class Broken(Treatment):
    """Fails before its first epoch."""

    def prepared(self, fit: Fit) -> None:
        raise KeyError("a defect of its own")


STUDY = f"""
from tune.compare.studies import Comparison, Study, Variant

STUDY = Study("tricks", "Which trick helps?", [
    Comparison("reading", "Answering the same is worse.", "nobody", variants=[
        Variant("the same", treatment="{HERE}:EverybodyTheSame"),
        Variant("first epoch", treatment="{HERE}:FirstEpoch"),
        Variant("nowhere", treatment="{HERE}:Nowhere"),
    ]),
    Comparison("training", variants=[
        Variant("half", treatment="{HERE}:HalfThePhotos"),
        Variant("itself", {{"epochs": 2}}),
    ]),
])
"""


def call(*words: object) -> str:
    """What the door says where it does what it was asked to."""
    said = commands.call(compare.main, *words)
    assert said.status == 0, said.out + said.err
    return said.out + said.err


def refused(status: int, *words: object) -> str:
    """What the door says where it does not."""
    said = commands.call(compare.main, *words)
    assert said.status == status, said.out + said.err
    assert "Traceback" not in said.err
    return said.err


def table(run: Path) -> dict[str, dict[str, str]]:
    """table.csv by variant, without the times."""
    with (run / "table.csv").open() as file:
        return {
            row["variant"]: {key: value for key, value in row.items() if key != "seconds_mean"}
            for row in csv.DictReader(file)
        }


def answers(run: Path, **recipe: Any) -> list[pd.DataFrame]:
    """answers.csv of the plain fits whose recipe has these values, repeat by repeat."""
    found = {}
    for folder in (run / "fits").iterdir():
        values, result = (json.loads((folder / name).read_text()) for name in ("recipe.json", "result.json"))
        if all(values[key] == value for key, value in recipe.items()) and not result["settings"]["treatment"]:
            found[result["settings"]["repeat"]] = pd.read_csv(folder / "answers.csv", index_col="key")
    return [found[repeat] for repeat in sorted(found)]


def by_sklearn(said: pd.DataFrame, column: str = "answer") -> float:
    labels = np.unique(said["truth"])
    return float(f1_score(said["truth"], said[column], labels=labels, average="macro", zero_division=0))


def test_help_imports_nothing_heavy_and_states_every_default() -> None:
    code = (
        "import sys; sys.argv = ['compare', '--help']\n"
        "from maskcls.cli import run; from tune.compare.__main__ import main\n"
        "try: run(main)\nfinally: print(sorted({'torch', 'ray', 'optuna', 'pandas', 'pydantic'} & set(sys.modules)))"
    )
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert shown.rstrip().endswith("[]")
    assert len(re.findall(r"^  --", shown, re.M)) == 45
    for option in ("--vary", "--study", "--seeds", "--folds", "--grid", "--one-at-a-time", "--resume", "--plan"):
        assert f"  {option} " in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (),
            "What to compare is missing: give --vary key=value,value, as in --vary loss=focal,cross_entropy, or "
            "--study",
        ),
        (("--vary", "loss"), "--vary expects key=value,value"),
        (("--vary", "loss=focal", "--vary", "loss=cross_entropy"), "--vary loss is given twice"),
        (("--vary", "loss=focal"), "Nothing is left to vary: the base has loss=focal itself"),
        (("--vary", "losses=focal"), "A recipe has no key 'losses'. Did you mean loss?"),
        (("--vary", "loss=focus"), "loss: "),
        (
            ("--vary", "loss=cross_entropy", "--grid", "--one-at-a-time"),
            "--grid and --one-at-a-time exclude each other",
        ),
        (("--vary", "loss=cross_entropy", "--study", "x"), "--vary and --study both say what to compare"),
        (("--study", "x"), "There is no study 'x'"),
        (("--study", "x", "--grid"), "--grid combines the values of --vary"),
        (("--vary", "loss=cross_entropy", "--seeds", "0"), "--seeds must be at least 1, but got 0"),
        (
            ("--vary", "loss=cross_entropy", "--folds", "1"),
            "--folds must be at least 2, or nobody would be left to train on, but got 1",
        ),
        (
            ("--vary", "loss=cross_entropy", "--set", "seed=3"),
            "--set seed is not for a comparison, which has an option of its own for it: --seeds",
        ),
        (("--vary", "loss=cross_entropy", "--time-budget", "5"), "--time-budget expects a duration"),
        (("--vary", "loss=cross_entropy", "--parallel", "0"), "--parallel must be at least 1"),
        (
            ("--vary", "loss=cross_entropy", "--cpus-per-trial", "999"),
            "--cpus-per-trial 999 is more than there is on one machine",
        ),
        (("--vary", "backbone=resnet10"), "timm does not know the backbone 'resnet10'"),
        (("--resume", "nowhere"), "There is no run 'nowhere'"),
    ],
)
def test_calls_that_cannot_be_meant(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in refused(2, *words, "--runs", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_plan_trains_nothing(tmp_path: Path) -> None:
    said = call(
        "--vary",
        "lr_head=1e-4,3e-4",
        "--vary",
        "head=linear",
        "--seeds",
        3,
        "--parallel",
        1,
        *SMALL,
        "--plan",
        "--runs",
        tmp_path,
    )
    assert "  lr_head=0.0001: lr_head 0.001 -> 0.0001\n" in said
    assert "  head=linear: head mlp -> linear\n" in said
    assert "12 fits of 4 epochs: 3 repeats over 3 folds, 1 at a time, 1 core each." in said
    said = call(
        "--vary",
        "lr_head=1e-4,3e-4",
        "--vary",
        "head=linear,mlp",
        "--grid",
        "--seeds",
        1,
        *SMALL,
        "--plan",
        "--runs",
        tmp_path,
    )
    assert "  lr_head=0.0003, head=linear: head mlp -> linear, lr_head 0.001 -> 0.0003\n" in said
    assert "One repeat gives no verdict: another seed may reverse every difference." in said
    assert list(tmp_path.iterdir()) == []


def recorded(folder: Path) -> ComparisonRun:
    """A run as a comparison that was killed at once leaves it."""
    reported: dict[str, Any] = {
        "vary": {"loss": ["cross_entropy"]},
        "study": None,
        "grid": False,
        "data": None,
        "preset": "contest-2021",
        "set": [],
        "epochs": 3,
    }
    reported |= {
        "image_size": None,
        "weights": "none",
        "scale": "cpu",
        "split_seed": 0,
        "split": None,
        "corrections": "published",
    }
    reported |= {
        "skip_bad": False,
        "folds": 3,
        "seeds": 3,
        "parallel": None,
        "gpus_per_trial": None,
        "cpus_per_trial": None,
    }
    return ComparisonRun.create(folder, "one", ComparisonRecord(call={**reported, "time_budget": None}, sessions=[]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "4"), "--epochs is 3 in the run, but 4 was given"),
        (("--folds", "5"), "--folds is 3 in the run, but 5 was given"),
        (("--vary", "lr_head=0.1", "--grid"), "--grid is False in the run, but True was given"),
        (("--study", "mine.py"), "--study is not set in the run"),
        (("--name", "two"), "--name is one in the run"),
    ],
)
def test_a_resume_that_contradicts_the_run(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    recorded(tmp_path)
    assert message in refused(2, "--resume", "one", *words, "--runs", tmp_path)


def test_a_resume_may_add_repeats_and_values(tmp_path: Path) -> None:
    recorded(tmp_path)
    said = call("--resume", "one", "--seeds", 4, "--vary", "lr_head=0.1", "--epochs", 3, "--plan", "--runs", tmp_path)
    assert "  loss=cross_entropy: loss focal -> cross_entropy\n  lr_head=0.1: lr_head 0.001 -> 0.1\n" in said
    assert "12 fits of 3 epochs: 4 repeats over 3 folds" in said


def test_a_resume_of_a_grid_may_add_values_but_no_key(tmp_path: Path) -> None:
    run = recorded(tmp_path)
    run.write_record(ComparisonRecord(call={**run.record().call, "grid": True}, sessions=[]))
    said = refused(2, "--resume", "one", "--vary", "lr_head=0.1", "--runs", tmp_path)
    assert (
        "--vary lr_head cannot be added to a run of --grid, for it would replace every combination. Values of loss "
        "can be added" in said
    )
    said = call("--resume", "one", "--vary", "loss=soft_f1", "--plan", "--runs", tmp_path)
    assert "  loss=cross_entropy: loss focal -> cross_entropy\n  loss=soft_f1: loss focal -> soft_f1\n" in said


def test_a_search_is_no_comparison_and_the_other_way_round(tmp_path: Path) -> None:
    SearchRun.create(tmp_path, "searched")
    recorded(tmp_path)
    said = refused(2, "--resume", "searched", "--runs", tmp_path)
    assert "searched is a search, not a comparison. Go on with it: python -m tune.search --resume" in said
    other = commands.call(search.main, "--resume", "one", "--runs", tmp_path)
    assert other.status == 2
    assert "one is a comparison, not a search. Go on with it: python -m tune.compare --resume" in other.err


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_study_with_treatments(tmp_path: Path, few_faces: tuple[str, ...]) -> None:
    file, run = tmp_path / "tricks.py", tmp_path / "one"
    file.write_text(STUDY)
    words = [
        "--study",
        file,
        "--seeds",
        1,
        "--epochs",
        2,
        *SMALL,
        *few_faces,
        "--runs",
        tmp_path,
        "--name",
        "one",
    ]
    said = call(*words)
    assert "training, itself is left out: with this call it is the base itself." in said
    assert "reading\nAnswering the same is worse.\n" in said
    assert len(list(run.glob("fits/*/result.json"))) == 2, "readings share the plain fit, and comparisons their base"
    (plain,) = answers(run)
    assert list(plain.columns) == ["truth", "answer", f"answer:{HERE}:EverybodyTheSame", f"answer:{HERE}:FirstEpoch"]
    assert set(plain[f"answer:{HERE}:EverybodyTheSame"]) == {4}
    reported = table(run)
    assert float(reported["the same"]["f1_mean"]) == pytest.approx(
        by_sklearn(plain, f"answer:{HERE}:EverybodyTheSame"), abs=1e-6
    )
    assert {row["verdict"] for name, row in reported.items() if name != "base"} == {Verdict.CANT_TELL}
    results = [json.loads(found.read_text()) for found in run.glob("fits/*/result.json")]
    of_plain = next(result for result in results if not result["settings"]["treatment"])
    assert of_plain["readings"][f"{HERE}:FirstEpoch"]["epoch"] == 1

    (half,) = (result for result in results if result["settings"]["treatment"])
    assert list(half["readings"]) == [f"{HERE}:HalfThePhotos"]
    file.unlink()
    _set_seconds(run, {f"{HERE}:HalfThePhotos": 1.0, "": 2.0})
    said = call("--resume", "one", "--equal-time", *few_faces, "--runs", tmp_path)
    assert "Comparison finished." in said, "by its copy"
    assert "training, at equal time" in said
    reported = table(run)
    assert float(reported["half, 4 epochs"]["f1_mean"]) >= 0
    assert reported["base, 2 epochs"]["f1_mean"] == reported["base"]["f1_mean"]
    assert len(list(run.glob("fits/*/result.json"))) == 3
    note = "reading, nowhere is left out: these photos have no names."
    assert json.loads((run / "comparison.json").read_text())["left_out"] == [note]
    assert (run / "table.md").read_text().endswith(f"\n\n- {note}\n")
    page = (run / "report.html").read_text()
    assert f"<li>{note}</li>" in page
    assert "Answering the same is worse. (nobody)" in page
    assert (run / "differences.png").read_bytes().startswith(b"\x89PNG")


def _set_seconds(run: Path, seconds: dict[str, float]) -> None:
    """Give each epoch of a fit the time of the fit's treatment, as if it had taken that."""
    for file in run.glob("fits/*/result.json"):
        taken = {"epoch_seconds": seconds[json.loads(file.read_text())["settings"]["treatment"]], "filling_s": 0.0}
        curve = file.with_name("epochs.jsonl")
        curve.write_text("".join(json.dumps(json.loads(row) | taken) + "\n" for row in curve.read_text().splitlines()))


@pytest.mark.usefixtures("ray_cluster")
def test_how_it_ends_is_said_and_noted(
    tmp_path: Path, few_faces: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(how: Outcome | BaseException) -> commands.Said:
        def run_fits(*arguments: Any, **settings: Any) -> Outcome:
            if isinstance(how, BaseException):
                raise how
            return how

        monkeypatch.setattr("tune.fitting.pool.run_fits", run_fits)
        words = (
            ["--resume", "one"]
            if (tmp_path / "one").exists()
            else ["--vary", "head=linear", "--seeds", 2, *SMALL, "--name", "one"]
        )
        return commands.call(compare.main, *words, *few_faces, "--runs", tmp_path)

    resume = f"python -m tune.compare --resume {tmp_path / 'one'}"
    said = ends(Outcome(Reason.INTERRUPTED, 4))
    assert said.status == 130
    assert f"4 fits are left to do (interrupted). To go on:\n  {resume}\n" in said.out
    assert "head=linear" in said.out
    said = ends(Outcome(Reason.TIME_UP, 4))
    assert said.status == 1, "no fit has a score, as of a search that has no model"
    assert "No fit has a score, so nothing is compared.\n" in said.out
    assert ends(Outcome(Reason.INTERRUPTED, 4, signal.SIGTERM)).status == 143
    assert ends(Terminated()).status == 143
    said = ends(KeyboardInterrupt())
    assert said.status == 130
    assert f"Aborted. What was done is kept; to go on:\n  {resume}\n" in said.err
    said = ends(RunError("The disk is full."))
    assert (said.status, "Error: The disk is full." in said.err) == (1, True)
    record = json.loads((tmp_path / "one" / "comparison.json").read_text())
    assert [part["why"] for part in record["parts"]] == [
        "interrupted",
        "time is up",
        "interrupted",
        "aborted",
        "aborted",
        "failed: The disk is full.",
    ]
    with ComparisonRun(tmp_path / "one").driving():
        assert "Another driver is working on" in refused(1, "--resume", "one", "--runs", tmp_path)


@pytest.mark.soak
@pytest.mark.usefixtures("ray_cluster")
def test_a_variant_whose_fits_fail_or_diverge_leaves_the_others_their_table(
    tmp_path: Path, few_faces: tuple[str, ...]
) -> None:
    (tmp_path / "tricks.py").write_text(
        "from tune.compare.studies import Comparison, Study, Variant\n"
        f"broken = Variant('broken', treatment='{HERE}:Broken')\n"
        "STUDY = Study('s', '?', [Comparison('one', variants=[broken, Variant('far', {'lr_head': 1e30})])])\n"
    )
    words = ["--study", tmp_path / "tricks.py", "--seeds", 2, "--epochs", 1, *SMALL, "--set", "optimizer=sgd"]
    said = commands.call(compare.main, *words, *few_faces, "--runs", tmp_path, "--name", "one")
    assert said.status == 1, said.err
    assert "broken, repeat 1: failed, KeyError: 'a defect of its own'; " in said.err
    reported = table(tmp_path / "one")
    assert [row["states"] for row in reported.values()] == ["complete=2", "not done=2", "diverged=2"]
    assert [row["n"] for row in reported.values()] == ["2", "0", "0"]
    assert [row["verdict"] for row in reported.values()] == ["", "not done", "diverged 2 of 2"]
    assert "2 fits are left to do (finished). To go on:\n  python -m tune.compare --resume" in said.out


def test_what_cannot_be_trained_leaves_no_run_behind_and_a_run_as_it_was(
    tmp_path: Path, few_faces: tuple[str, ...]
) -> None:
    where = (*few_faces, "--runs", tmp_path)
    said = refused(2, "--vary", 'ages_left_out=["18-29"]', *SMALL, *where, "--name", "two")
    assert "ages_left_out=18-29: " in said
    assert "leave nobody to train" in said
    assert "got 99 folds of" in refused(
        2, "--vary", "loss=cross_entropy", "--folds", 99, *SMALL, *where, "--name", "two"
    )
    assert list(tmp_path.iterdir()) == []
    before = recorded(tmp_path).record()
    refused(2, "--resume", "one", "--vary", 'ages_left_out=["18-29"]', *where)
    assert ComparisonRun(tmp_path / "one").record() == before
