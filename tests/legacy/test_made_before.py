"""Today's code goes on with what earlier code left, a search, a comparison and a bundle: it exports, reports, predicts.

Only commands are used, as their users use them, so that these tests hold wherever the code behind the commands lies.
README.md says how the files here were made.
"""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm.models.resnet
import torch
from safetensors.numpy import load_file

from maskcls.machine import set_threads
from tests.commands import call_module
from tests.conftest import TINY_BACKBONE

HERE = Path(__file__).parent
PLACEHOLDER = "/DATA"
"""Stands in the kept files for the folder of the drawn faces."""
WITH_PATHS = ("search.json", "comparison.json", "data/photos.csv")
PEOPLE, SEED = 16, 3
ABSOLUTE = re.compile(r"(?:^|[\",])(/\w+)", re.MULTILINE)
"""The first folder of a path that begins a line or a value."""
OLD_TRIALS, INTERRUPTED, WANTED = ("0000", "0001"), "0002", 4
WINNER = "0001"
"""Of the search before its last, interrupted part: a trial that was stopped early, and trained to its end in best/."""
CLOSE = 2e-3
"""Of probabilities that were kept to four digits."""

pytestmark = pytest.mark.timeout(600)


class Commands:
    """The commands, called in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, module: str, *words: object) -> str:
        """What `python -m module words…` said; fails where its exit status is not 0."""
        said = call_module(module, *words)
        assert said.status == 0, f"{module} {words}\n{said.out}\n{said.err}"
        return said.out + said.err


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Iterator[Commands]:
    """The commands, in a folder with a cache of its own and with `drawn`, the faces that the kept runs were made with.

    Ray's workers know the tiny backbone, which is not timm's, and so does this process.
    """
    made = Commands(tmp_path_factory.mktemp("legacy"))
    spec = importlib.util.spec_from_file_location("tests.legacy.tiny", TINY_BACKBONE / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    plugin = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = plugin  # timm asks there for whoever registers
    spec.loader.exec_module(plugin)
    plugin.register(timm.models.resnet)
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setenv("MASKCLS_CACHE", str(made.folder / "cache"))
        made("maskcls.demo", "--out", "drawn", "--persons", PEOPLE, "--seed", SEED)
        yield made
    set_threads(before)


@pytest.fixture(scope="module")
def resumed(commands: Commands) -> Path:
    """The kept search, gone on with and extended."""
    run = copied("search", commands.folder / "resumed", commands.folder / "drawn")
    commands("tune.search", "--resume", run, "--trials", WANTED, "--cpus-per-trial", 1, "--parallel", 1)
    return run


def copied(name: str, to: Path, drawn: Path) -> Path:
    """A copy of a kept run, under its own name in the folder `to`, whose paths lead to these drawn faces."""
    run = Path(shutil.copytree(HERE / name, to / name))
    for file in (run / part for part in WITH_PATHS):
        if file.exists():
            file.write_text(file.read_text().replace(PLACEHOLDER, str(drawn)))
    return run


def rows(file: Path, key: str) -> dict[str, dict[str, str]]:
    """A CSV file's rows by the column `key`."""
    with file.open(newline="") as lines:
        return {row[key]: row for row in csv.DictReader(lines)}


def read(file: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(file.read_text())


def lines(file: Path) -> list[str]:
    """A file's lines; of a last one that was torn by a kill nothing."""
    return file.read_text().rpartition("\n")[0].splitlines()


def weights(bundle: Path) -> list[bytes]:
    """The contents of a bundle's weight files."""
    return sorted(file.read_bytes() for file in bundle.glob("*.safetensors"))


def test_what_is_kept_is_small_and_names_no_machine() -> None:
    files = [file for name in ("search", "comparison") for file in (HERE / name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        if file.suffix in (".json", ".jsonl", ".csv", ".journal"):
            assert set(ABSOLUTE.findall(file.read_text())) <= {PLACEHOLDER}, file


def test_the_kept_search_was_killed_in_the_middle_of_a_trial() -> None:
    search = read(HERE / "search" / "search.json")
    assert [part["why"] for part in search["parts"]] == ["finished", "killed, or still running"]
    leaderboard = rows(HERE / "search" / "leaderboard.csv", "trial")
    assert {trial: leaderboard[trial]["state"] for trial in leaderboard} == {
        "0000": "complete",
        WINNER: "stopped early",
    }
    assert read(HERE / "search" / "best" / "bundle.json")["scores"]["trial"] == WINNER
    recipe = read(HERE / "search" / "trials" / INTERRUPTED / "recipe.json")
    assert 0 < len(lines(HERE / "search" / "trials" / INTERRUPTED / "epochs.jsonl")) < recipe["epochs"]


@pytest.mark.slow
def test_a_search_is_resumed_and_extended(resumed: Path) -> None:
    before, after = (rows(folder / "leaderboard.csv", "trial") for folder in (HERE / "search", resumed))
    assert sorted(after) == [f"{number:04d}" for number in range(WANTED)]
    for trial in OLD_TRIALS:
        old, new = ({**table[trial], "rank": ""} for table in (before, after))
        assert new == old, "what had ended is as it was, to the last digit"
        for name in ("epochs.jsonl", "recipe.json", "hardware.json", "state.pt"):
            kept, there = (folder / "trials" / trial / name for folder in (HERE / "search", resumed))
            assert there.read_bytes() == kept.read_bytes()
    epochs = read(HERE / "search" / "trials" / INTERRUPTED / "recipe.json")["epochs"]
    assert (after[INTERRUPTED]["state"], after[INTERRUPTED]["epochs"]) == ("complete", str(epochs))
    parts = [part["why"] for part in read(resumed / "search.json")["parts"]]
    assert parts == ["finished", "killed, or still running", "finished"]


@pytest.mark.slow
def test_an_interrupted_trial_goes_on_from_its_last_epoch(resumed: Path) -> None:
    curves = [lines(folder / "trials" / INTERRUPTED / "epochs.jsonl") for folder in (HERE / "search", resumed)]
    before, after = curves
    assert after[: len(before)] == before
    numbers = [json.loads(line) for line in after]
    assert [row["epoch"] for row in numbers] == list(range(1, len(numbers) + 1))
    best = max(row["validation_f1"] for row in numbers)
    reported = rows(resumed / "leaderboard.csv", "trial")[INTERRUPTED]["best_validation_f1"]
    assert float(reported) == pytest.approx(best, abs=5e-7)


@pytest.mark.slow
def test_finished_repeats_of_finalists_are_not_trained_again(resumed: Path) -> None:
    kept = sorted((HERE / "search" / "finalists").glob("*/result.json"))
    assert len(kept) == 5, "two repeats of two finalists, and the winner, which was stopped early, to its end"
    for result in kept:
        for file in result.parent.iterdir():
            assert (resumed / "finalists" / file.parent.name / file.name).read_bytes() == file.read_bytes()
    choice = read(resumed / "search.json")["choice"]
    assert all(len(finalist["repeats"]) == 2 and not finalist["missing"] for finalist in choice["finalists"])
    for finalist in choice["finalists"]:
        reported = {repeat["f1"] for repeat in finalist["repeats"]}
        of_repeats = [read(file) for file in kept if (file.parent / "answers.npz").exists()]
        before = {
            result["best_validation_f1"] for result in of_repeats if result["settings"]["trial"] == finalist["trial"]
        }
        assert before in (set(), reported)


@pytest.mark.slow
def test_report_and_bundle_tell_the_winner(resumed: Path) -> None:
    choice = read(resumed / "search.json")["choice"]
    assert choice["winner"] in rows(resumed / "leaderboard.csv", "trial")
    assert read(resumed / "best" / "bundle.json")["scores"]["trial"] == choice["winner"]
    page = (resumed / "report.html").read_text()
    assert f"trial {choice['winner']}" in page.lower()
    assert f"{choice['mean']:.4f}" in page
    assert choice["holdout"]["people"] >= 1


def test_a_bundle_answers_as_it_did(commands: Commands) -> None:
    bundle = HERE / "search" / "best"
    commands("maskcls.predict", "--bundle", bundle, "--images", "drawn/eval", "--out", "answers.csv", "--probabilities")
    expected, answers = (rows(file, "ImageID") for file in (HERE / "answers.csv", commands.folder / "answers.csv"))
    assert answers == expected
    expected, answers = (rows(folder / "answers.probabilities.csv", "ImageID") for folder in (HERE, commands.folder))
    assert answers.keys() == expected.keys()
    for image, probabilities in expected.items():
        for name in probabilities.keys() - {"ImageID"}:
            assert float(answers[image][name]) == pytest.approx(float(probabilities[name]), abs=CLOSE)


def test_a_bundle_is_evaluated_and_knows_whom_it_has_seen(commands: Commands) -> None:
    said = commands("maskcls.evaluate", "--bundle", HERE / "search" / "best", "--data", "drawn")
    split = read(HERE / "search" / "data" / "split.json")
    seen = len(split["train"]) + len(split["validation"])
    assert f"has seen {seen} of these {PEOPLE} people" in " ".join(said.split())


def test_a_trial_is_exported_to_the_bit(commands: Commands) -> None:
    run = copied("search", commands.folder / "exported-from", commands.folder / "drawn")
    commands("tune.export", "--run", run, "--trial", int(OLD_TRIALS[0]), "--out", "exported")
    (best,) = (load_file(file) for file in (run / "trials" / OLD_TRIALS[0]).glob("best-*.safetensors"))
    (exported,) = (load_file(file) for file in (commands.folder / "exported").glob("*.safetensors"))
    assert best
    for name, tensor in best.items():
        assert np.array_equal(exported[name.removeprefix("0:")], tensor), name
    f1 = read(commands.folder / "exported" / "bundle.json")["scores"]["validation"]["f1"]
    reported = rows(HERE / "search" / "leaderboard.csv", "trial")[OLD_TRIALS[0]]["best_validation_f1"]
    assert f1 == pytest.approx(float(reported), abs=5e-7)


def test_a_trial_is_trained_again(commands: Commands) -> None:
    run = copied("search", commands.folder / "trained-from", commands.folder / "drawn")
    said = commands("maskcls.train", "--trial", run / OLD_TRIALS[0], "--out", "again")
    epochs = len(lines(run / "trials" / OLD_TRIALS[0] / "epochs.jsonl"))
    assert [number for number in range(1, 99) if f"epoch {number}/{epochs}:" in said] == list(range(1, epochs + 1))
    assert f"of {epochs} recorded epochs" in said
    assert read(commands.folder / "again" / "bundle.json")["scores"]["trial"] == OLD_TRIALS[0]


@pytest.mark.slow
def test_an_ensemble_is_made_of_old_and_new_finalists(commands: Commands, resumed: Path) -> None:
    said = commands("tune.ensemble", "--run", resumed, "--size", 3, "--out", "team")
    for finalist in read(resumed / "search.json")["choice"]["finalists"]:
        assert finalist["trial"] in said
    assert weights(commands.folder / "team")


@pytest.mark.slow
def test_a_comparison_is_resumed(commands: Commands) -> None:
    kept = HERE / "comparison"
    done = sorted(file.parent.name for file in (kept / "fits").glob("*/result.json"))
    begun = sorted(file.parent.name for file in (kept / "fits").glob("*/recipe.json"))
    assert (len(done), len(begun)) == (3, 4)
    run = copied("comparison", commands.folder / "compared", commands.folder / "drawn")
    commands("tune.compare", "--resume", run, "--cpus-per-trial", 1)
    assert sorted(file.parent.name for file in (run / "fits").glob("*/result.json")) == begun
    for fit in done:
        for file in (kept / "fits" / fit).iterdir():
            assert (run / "fits" / fit / file.name).read_bytes() == file.read_bytes(), "what was done is as it was"
    (late,) = set(begun) - set(done)
    curves = [lines(folder / "fits" / late / "epochs.jsonl") for folder in (kept, run)]
    before, after = curves
    assert after[: len(before)] == before
    assert len(after) == read(run / "fits" / late / "recipe.json")["epochs"]
    with (run / "table.csv").open(newline="") as table:
        arms = list(csv.DictReader(table))
    assert [arm["variant"] for arm in arms] == ["base", "loss=cross_entropy"]
    assert "loss=cross_entropy" in (run / "report.html").read_text()
