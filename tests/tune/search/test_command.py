"""The command: what it refuses, what its plan says, and a search of drawn faces, killed, resumed and extended."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import tune
from maskcls.training.presets import DEFAULT_PRESET
from tests import commands
from tests.tune.search.test_kill import wait_for
from tests.tune.searches import table
from tune.fitting.curve import read_curve
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.study import records
from tune.search import __main__ as search
from tune.search.options import SearchOptions
from tune.states import TrialState

ROOT = Path(__file__).parents[3]
ENDED = (TrialState.COMPLETE, TrialState.STOPPED_EARLY)
NO_TENSORS = b"\2" + bytes(7) + b"{}"
"""A file of weights whose header says that it holds none."""


def call(*words: object) -> str:
    """What the door says where it does what it was asked to."""
    said = commands.call(search.main, *words)
    assert said.status == 0, said.err
    return said.out + said.err


def refused(status: int, *words: object) -> str:
    """What the door says where it does not."""
    said = commands.call(search.main, *words)
    assert said.status == status, said.out + said.err
    assert "Traceback" not in said.err
    return said.err


def door(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tune.search", *arguments]


def recorded_run(folder: Path, **call_values: Any) -> SearchRun:
    """A run as a search that was killed at once leaves it."""
    reported = {
        "space": "freezing",
        "data": None,
        "preset": DEFAULT_PRESET,
        "set": ["head=mlp"],
        "epochs": 3,
        "image_size": None,
    }
    reported |= {
        "weights": "none",
        "scale": "cpu",
        "seed": 0,
        "split_seed": 0,
        "split": None,
        "corrections": "published",
        "skip_bad": False,
    }
    reported |= {
        "trials": 4,
        "parallel": None,
        "gpus_per_trial": None,
        "cpus_per_trial": None,
        "time_budget": None,
        **call_values,
    }
    return SearchRun.create(folder, "one", SearchRecord(call=reported, sessions=[]))


def test_help_imports_nothing_heavy_and_states_every_default() -> None:
    shown = subprocess.run(
        door("--help"), cwd=ROOT, capture_output=True, text=True, check=True, env={"COLUMNS": "200", "TERM": "dumb"}
    )
    options = [line for line in shown.stdout.splitlines() if line.startswith("  --")]
    flags = [
        "--single",
        "--retrain-on-all",
        "--skip-bad",
        "--shared-cache",
        "--begin-or-resume",
        "--ship-data",
        "--plan",
        "--quiet",
        "--json",
    ]
    flags += ["--list-spaces", "--help"]
    assert len(options) == 53
    assert shown.stdout.count("[default:") == len(options) - len(flags)
    heavy = (
        "import sys, tune.search.__main__; "
        "print(sorted({'torch', 'ray', 'optuna', 'pydantic', 'numpy', 'pandas'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", heavy], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_a_users_own_tune_is_passed_by_as_the_package_says(tmp_path: Path) -> None:
    """Python itself fails where a file of the current folder has the name; nothing of the package runs then."""
    (tmp_path / "tune.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def started(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *words, "-m", "tune.search", "--help"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)

    assert "'tune.search'" in started().stderr
    assert tune.__doc__ is not None
    assert "`python -P -m tune.search`" in tune.__doc__
    assert started("-P").returncode == 0


def test_a_wrong_call_exits_with_2_and_no_traceback(tmp_path: Path) -> None:
    wrong = subprocess.run(
        door("--space", "freezig", "--runs", str(tmp_path)), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("Error: There is no space 'freezig'. Did you mean freezing?")
    assert "Traceback" not in wrong.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--space", "nowhere.py"), r"There is no space file .*nowhere\.py"),
        (("--space", "freezing", "--set", "frozen_stage=2"), "no key 'frozen_stage'. Did you mean frozen_stages"),
        (("--space", "freezing", "--set", "frozen_stages=7"), "frozen_stages: .*less than or equal to 5, but got 7"),
        (("--space", "freezing", "--set", "frozen_stages"), "--set expects key=value"),
        (("--space", "freezing", "--epochs", "3", "--set", "epochs=4"), "--epochs says 3, but --set says epochs=4"),
        (("--space", "freezing", "--preset", "contest"), "There is no preset 'contest'. Presets: contest-2021"),
        (("--space", "freezing", "--scale", "tpu"), "There is no scale 'tpu'. Scales: auto, gpu, cpu"),
        (("--space", "freezing", "--trials", "0"), "--trials must be at least 1, but got 0"),
        (("--space", "freezing", "--parallel", "-1"), "--parallel must be at least 1, but got -1"),
        (
            ("--space", "freezing", "--time-budget", "30"),
            "--time-budget expects a duration as in 90s, 30m, 2h or 1h30m, but got '30'",
        ),
        (
            ("--space", "freezing", "--cpus-per-trial", "9999"),
            r"--cpus-per-trial 9999 is more than there is on one machine \(\d+\)",
        ),
        (("--space", "freezing", "--data", "nowhere"), "--data nowhere: there is no such file or folder"),
        (("--space", "freezing", "--weights", "nowhere"), "--weights nowhere: there is no such folder"),
        (("--space", "freezing", "--name", "a/b"), "--name expects letters, digits"),
        (("--space", "freezing", "--begin-or-resume"), "--begin-or-resume needs --name NAME"),
        (("--resume", "one", "--name", "one", "--begin-or-resume"), "--begin-or-resume and --resume exclude"),
        (("--space", "freezing", "--plan", "--json"), "--plan prints a plan for people. Leave out --quiet and --json"),
        (("--resume", "two"), r"There is no run 'two'.*Runs there: one\."),
        (("--resume", "one", "--epochs", "4"), "--resume one goes on .* --epochs is 3 in the run, but 4 was given"),
        (
            ("--resume", "one", "--weights", "hub", "--seed", "5"),
            "--weights is none in the run, .*--seed is 0 in the run, but 5",
        ),
        (("--resume", "one", "--learn-from", "one"), "--learn-from one: the run knows its own trials already"),
        (("--space", "freezing", "--learn-from", "nowhere"), r"There is no run 'nowhere'.*Runs there: one\."),
        (
            ("--space", "freezing", "--sampler", "tpe2"),
            "--sampler must be one of tpe, random, gp, cmaes, grid, but got 'tpe2'",
        ),
        (
            ("--space", "freezing", "--scheduler", "bohb"),
            "--scheduler must be one of asha, median, none, but got 'bohb'",
        ),
        (("--space", "freezing", "--sampler", "gp"), "--sampler gp cannot serve space freezing: .*head_width"),
        (("--space", "freezing", "--finalists", "-1"), "--finalists must be at least 0, but got -1"),
        (("--space", "freezing", "--repeats", "1"), "--repeats 1 makes no folds"),
        (("--space", "freezing", "--repeat-by", "photo"), "--repeat-by must be one of folds, seeds, but got 'photo'"),
        (("--resume", "one", "--set", "head=linear"), "--set is head=mlp in the run, but head=linear was given"),
        (("--resume", "one", "--name", "two"), "--name is one in the run, but two was given"),
        (("--resume", "one", "--trials", "0"), "--trials must be at least 1"),
    ],
)
def test_wrong_calls_are_reported(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    recorded_run(tmp_path)
    assert re.search(message, refused(2, *arguments, "--runs", tmp_path))
    assert [folder.name for folder in tmp_path.iterdir()] == ["one"], "nothing was begun"


def test_what_is_no_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    reported = refused(2, "--resume", "letters", "--runs", tmp_path)
    assert re.search(r"letters is no run: it has no search\.json\..*Runs there: none", reported)


def test_a_name_in_use_is_refused(tmp_path: Path) -> None:
    run, words = recorded_run(tmp_path), ("--space", "freezing", "--name", "one", "--runs", tmp_path)
    said = f"Error: {run.path} exists already: the run name 'one' is in use. Choose another --name"
    assert refused(2, *words).splitlines()[-1] == f"{said}, or go on with it: {run.resume_command}"
    run.record_file.unlink()
    assert refused(2, *words).splitlines()[-1] == f"{said}."


def test_data_that_cannot_be_used_leaves_no_run_behind(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    words = ("--space", "freezing", "--data", tmp_path / "data", "--weights", "none", "--runs", tmp_path / "runs")
    assert "train" in refused(1, *words)
    assert not (tmp_path / "runs").exists(), "an empty folder is refused before anything is begun"
    (tmp_path / "data" / "photos.csv").write_text("file,person,mask,gender,age\n")
    assert "has a heading, but no rows" in refused(1, *words)
    assert list((tmp_path / "runs").iterdir()) == []


def test_options_that_agree_with_the_run_are_welcome(tmp_path: Path) -> None:
    recorded_run(tmp_path)
    reported = call(
        "--resume",
        "one",
        "--epochs",
        "3",
        "--set",
        "head=mlp",
        "--scale",
        "auto",
        "--trials",
        "9",
        "--plan",
        "--runs",
        str(tmp_path),
    )
    assert "Trials: 9" in reported
    assert "head is fixed at mlp: the space would vary it." in reported


def test_the_plan_trains_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "resnet10t.safetensors").write_bytes(NO_TENSORS)
    words = (
        "--space",
        "freezing",
        "--plan",
        "--scale",
        "cpu",
        "--weights",
        weights,
        "--trials",
        "7",
        "--runs",
        tmp_path / "runs",
    )
    reported = " ".join(call(*words, "--feature-store-gb", "3.5").split())
    for part in (
        "frozen_stages 0 to 5",
        "lr_head 0.0005 to 0.02, logarithmic",
        "head linear | mlp",
        "Trials: 7",
        "Time: very roughly",
        "Disk: up to",
        "in the cache, and at most 3.5 GB of frozen features.",
    ):
        assert part in reported
    assert not (tmp_path / "runs").exists()


def test_the_plan_says_what_sizes_are_drawn_and_counts_no_features_where_nothing_is_frozen(tmp_path: Path) -> None:
    words = ("--space", "backbones", "--plan", "--scale", "cpu", "--weights", "none", "--runs", tmp_path)
    said = " ".join(call(*words).split())
    assert "1,680 photos at 32 to 64 px;" in said
    assert "of decoded photos in the cache, and no frozen features." in said


def test_backbones_without_weights_are_left_out_by_name(tmp_path: Path) -> None:
    (tmp_path / "resnet10t.safetensors").write_bytes(NO_TENSORS)
    reported = call("--plan", "--scale", "cpu", "--weights", str(tmp_path))
    assert "Space backbones: " in reported, "the space of a call that names none"
    assert f"Left out, without weights in {tmp_path}: mobilenetv3_small_100" in reported
    assert "resnet10t |" not in reported


def test_where_the_presets_backbone_has_no_weights_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "mobilenetv3_small_100.safetensors").write_bytes(NO_TENSORS)
    words = ("--plan", "--scale", "cpu", "--weights", str(tmp_path))
    said = f"The preset's backbone has no weights in {tmp_path}: mobilenetv3_small_100 takes its place."
    assert said in " ".join(call(*words).split())
    assert said not in " ".join(call(*words, "--space", "freezing", "--set", "backbone=mobilenetv3_small_100").split())


def test_a_file_is_a_space(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from search_spaces import Space\n"
        "def suggest(trial, setting): return {'head_width': trial.suggest_int('head_width', 8, 64)}\n"
        "SPACE = Space('mine', 'How wide?', suggest)\n"
    )
    reported = call("--space", str(file), "--plan", "--scale", "cpu")
    assert "Space mine: How wide?" in reported
    assert "head_width  8 to 64" in reported
    reported = refused(2, "--space", file, "--set", "head_width=9", "--plan")
    assert "The call fixes all that space mine would vary (head_width)" in reported


def assert_the_winner_was_chosen(path: Path, said: str) -> None:
    """By repeats, and looked at on the holdout once; and that it is what best/ holds."""
    choice, looks = (json.loads((path / "search.json").read_text())[key] for key in ("choice", "holdout"))
    assert f"Winner: trial {choice['winner']}, mean of 2 repeats" in said
    assert "The holdout has been used 1 time." in said
    assert [one["f1"] for one in looks["looks"]] == [choice["holdout"]["f1"]]
    assert choice["optimism"] == choice["model_validation_f1"] - choice["holdout"]["f1"]
    bundle = json.loads((path / "best" / "bundle.json").read_text())
    assert bundle["scores"]["trial"] == choice["winner"]


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_search_of_drawn_faces_is_killed_resumed_and_extended(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    """Also the machine's whole way: from drawn faces to a bundle."""
    path = tmp_path / "runs" / "demo"
    common = ["--runs", str(tmp_path / "runs"), "--parallel", "1", *few_faces]
    begin = [
        "--space",
        "freezing",
        "--name",
        "demo",
        "--trials",
        "3",
        "--epochs",
        "2",
        "--image-size",
        "32",
        "--set",
        "batch_size=128",
        "--set",
        "backbone=test_resnet",
        "--finalists",
        "2",
        "--repeats",
        "2",
    ]
    driver = commands.start("-m", "tune.search", *begin, *common, address=ray_cluster)
    before = wait_for(path, lambda reported: {TrialState.UNFINISHED} < {r.state for r in reported}, 120)
    driver.kill()
    driver.communicate()
    kept = {record.trial_id: record for record in before if record.state in ENDED}
    curves = {name: read_curve(path / "trials" / name) for name in kept}

    resumed = call("--resume", "demo", "--trials", "4", *common)
    reported = {record.trial_id: record for record in records(SearchRun(path))}
    assert list(reported) == ["0000", "0001", "0002", "0003"]
    assert all(record.state in ENDED for record in reported.values())
    assert {name: reported[name] for name in kept} == kept
    assert {name: read_curve(path / "trials" / name) for name in kept} == curves
    assert sorted(row["trial"] for row in table(SearchRun(path))) == list(reported)
    assert "Gain over the preset, 2 repeats: " in resumed
    assert f"python -m maskcls.predict --bundle {path / 'best'}" in resumed
    assert (path / "best" / "bundle.json").exists()
    assert (path / "report.html").exists()
    assert_the_winner_was_chosen(path, resumed)

    written = (path / "report.html").stat().st_mtime
    assert "Nothing is left to do: demo has 4 trials, and 4 are wanted." in call("--resume", "demo", *common)
    assert (path / "report.html").stat().st_mtime == written
    # As a driver leaves it that is killed after its last trial's end.
    ranks = table(SearchRun(path))
    shutil.rmtree(path / "best")
    os.utime(path / "report.html", (0, 0))
    (path / "leaderboard.csv").unlink()
    assert "Gain over the preset, 2 repeats: " in call("--resume", "demo", *common)
    assert (path / "best" / "bundle.json").exists()
    assert (path / "report.html").stat().st_mtime > written
    assert table(SearchRun(path)) == ranks
    kept_call = json.loads((path / "search.json").read_text())
    assert kept_call["call"]["trials"] == 4
    assert len(kept_call["data"]["digest"]) == 12
    assert [part["why"] for part in kept_call["parts"]] == ["killed, or still running", *["finished"] * 2]
    again = commands.read(search.main, SearchOptions.stated, "--config", path / "config.toml")
    assert again.to_record() == kept_call["call"], "as the run has it after the resume"
    assert (again.name, again.resume, again.runs, again.cache) == (None, None, tmp_path / "runs", Path(few_faces[-1]))
