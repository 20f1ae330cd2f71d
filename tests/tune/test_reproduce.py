"""`python -m tune.reproduce --trial RUN/ID`: a trial's curve again, from the files that its run left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.machine import set_threads, use_deterministic_kernels
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_bundle
from maskcls.stores.cache_options import CacheOptions
from maskcls.train import main as train_main
from maskcls.training.conditions import HARDWARE, Conditions, note
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.commands import Said, call
from tests.conftest import DemoFaces
from tune.reproduce import main

RECIPE = Recipe(
    backbone="test_resnet",
    weights="none",
    image_size=32,
    frozen_stages=0,
    epochs=3,
    batch_size=128,
    lr_body=1e-3,
    lr_head=1e-3,
)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    set_threads(before)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, demo_faces: DemoFaces) -> FaceDataset:
    return prepare(demo_faces(36, 1), cache=CacheOptions(tmp_path_factory.mktemp("cache")))


def make_trial(run: Path, faces: FaceDataset, threads: tuple[int, ...], recipe: Recipe = RECIPE) -> Path:
    """Trial 0007 of a search, as tune.search.trainable leaves it: an epoch with each of these numbers of threads, then
    stopped or killed."""
    faces.save(run / "data")
    folder = run / "trials" / "0007"
    rows: list[dict[str, Any]] = []
    use_deterministic_kernels()
    for done, n in enumerate(threads):
        set_threads(n)
        data = FitData.of(faces, recipe)
        fit = Fit(recipe, data)
        assert fit.resume(folder) == bool(done)
        here = Conditions.now(recipe, data.digest, device="cpu", threads=n, loader_workers=0)
        note(folder, here, done=done, epochs=recipe.epochs)
        row = next(result for result in fit.epochs() if result.epoch == done + 1).to_row()
        rows.append({**row, "best_f1": max(each["validation_f1"] for each in [*rows, row])})
        fit.save(folder)
    (folder / "recipe.json").write_text(json.dumps(recipe.model_dump(), indent=2))
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def reproduce(faces: FaceDataset, *words: object, status: int = 0, command: Callable[..., None] = main) -> Said:
    said = call(command, "--cache", faces.cache.folder, *words)
    assert said.status == status, said.out + said.err
    return said


@pytest.mark.slow
def test_a_trial_that_was_stopped_early_is_trained_to_its_end(faces: FaceDataset, tmp_path: Path) -> None:
    make_trial(tmp_path / "first", faces, (1, 1))
    out = tmp_path / "again"
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", out)
    epochs = [line for line in said.out.splitlines() if line.startswith("epoch ")]
    assert [line.rpartition(": ")[2] for line in epochs] == ["equal to the recorded epoch"] * 2 + [
        "the trial was stopped before"
    ]
    assert (
        "2 of 2 recorded epochs of trial 0007 of first are equal to the bit; 1 more, which it was stopped before."
        in said.out
    )
    assert "Not as" not in said.out
    scores = read_bundle(out).manifest["scores"]
    assert (scores["run"], scores["trial"]) == ("first", "0007")
    assert [file.name for file in tmp_path.iterdir() if file.name not in ("first", "again")] == []


def test_its_former_spelling_does_the_same(faces: FaceDataset, tmp_path: Path) -> None:
    make_trial(tmp_path / "first", faces, (1,), RECIPE.override({"epochs": 1}))
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again", command=train_main)
    assert "1 of 1 recorded epochs of trial 0007 of first are equal to the bit." in said.out
    assert "maskcls.train --trial is now python -m tune.reproduce --trial" in said.err


@pytest.mark.slow
def test_epochs_run_with_the_threads_that_each_had(faces: FaceDataset, tmp_path: Path) -> None:
    make_trial(tmp_path / "first", faces, (1, 2), RECIPE.override({"epochs": 2}))
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again")
    assert "2 of 2 recorded epochs of trial 0007 of first are equal to the bit." in said.out
    assert "1 thread on cpu" in said.out
    assert "then 2 threads on cpu" in said.out


def test_other_hardware_and_versions_are_reported_first(faces: FaceDataset, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "first", faces, (1,))
    (reported,) = json.loads((folder / HARDWARE).read_text())
    reported |= {"device": "cuda:99", "hardware": "NVIDIA L4", "versions": {**reported["versions"], "torch": "2.0.0"}}
    (folder / HARDWARE).write_text(json.dumps([reported]))
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again")
    first, *rest = said.out.splitlines()
    assert first.startswith("Not as trial 0007 of first ran, so its numbers may come out otherwise: ")
    assert "device c" in first
    assert "instead of cuda:99" in first
    assert f"torch {torch.__version__.partition('+')[0]}" in first
    assert " instead of 2.0.0" in first
    assert len([line for line in rest if line.startswith("epoch ")]) == 3


@pytest.mark.slow
def test_an_epoch_that_should_be_equal_and_is_not_fails_the_call(faces: FaceDataset, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "first", faces, (1, 1))
    rows = [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
    rows[0]["train_loss"] += 1e-9
    rows[1]["validation_f1"] = 0.9876
    (folder / "epochs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again", status=1)
    assert ": validation F1 equal to the recorded epoch, NOT so train_loss" in said.out
    assert ": NOT equal to the recorded epoch, whose validation F1 is 0.9876" in said.out
    assert "0 of 2 recorded epochs" in said.out
    assert (
        "Epochs 1, 2 are not equal to those recorded, though threads, device, versions, data and code are." in said.err
    )
    assert read_bundle(tmp_path / "again"), "the fit is there all the same"

    other = reproduce(
        faces,
        "--trial",
        tmp_path / "first" / "7",
        "--device",
        "cpu",
        "--overwrite",
        "--out",
        tmp_path / "again",
        status=1,
    )
    assert "Epochs 1, 2" in other.err
    reported = json.loads((folder / HARDWARE).read_text())
    (folder / HARDWARE).write_text(
        json.dumps([{**reported[0], "versions": {**reported[0]["versions"], "numpy": "1.0"}}])
    )
    reproduce(faces, "--trial", tmp_path / "first" / "7", "--overwrite", "--out", tmp_path / "again")


@pytest.mark.slow
def test_a_fit_that_goes_on_elsewhere_is_not_taken_for_the_trials(faces: FaceDataset, tmp_path: Path) -> None:
    """The first epoch of the call's own fit was done with two threads, so that no later one should be equal."""
    folder = make_trial(tmp_path / "first", faces, (1, 1, 1))
    begun = make_trial(tmp_path / "begun", faces, (2,))
    begun.rename(tmp_path / ".again.state")
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again")
    assert "NOT" in said.out, "threads do change the last bits of this fit"
    assert json.loads((folder / HARDWARE).read_text())[0]["threads"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--data", "faces", "--set", "seed=1"],
            "leave out --data, --set. Beside it there may be --out, --cache, --shared-cache, --pixel-store-gb, "
            "--feature-store-gb, --device",
        ),
        (["--preset", "contest-2021"], "--trial takes recipe, photos and split from the run, so leave out --preset."),
        (
            ["--split", "mine.json", "--split-seed", "1", "--skip-bad"],
            "so leave out --split, --split-seed, --skip-bad.",
        ),
        (["--epochs", "9", "--seed", "1", "--image-size", "64"], "so leave out --epochs, --seed, --image-size."),
        (
            ["--weights", "hub", "--scale", "gpu", "--corrections", "none"],
            "so leave out --weights, --scale, --corrections.",
        ),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used: "),
    ],
)
def test_options_that_the_run_has_answered_are_refused(
    faces: FaceDataset, tmp_path: Path, words: list[str], message: str
) -> None:
    folder = tmp_path / "first" / "trials" / "0007"
    faces.save(tmp_path / "first" / "data")
    here = Conditions.now(RECIPE, "", device="cpu", threads=1, loader_workers=0)
    note(folder, here, done=0, epochs=3)
    (folder / "recipe.json").write_text(RECIPE.to_json())
    said = reproduce(
        faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "out", *words, status=2, command=train_main
    )
    assert message in said.err
    assert not (tmp_path / "out").exists()


def test_a_trial_on_other_photos_is_reported(faces: FaceDataset, tmp_path: Path) -> None:
    folder = make_trial(tmp_path / "first", faces, (1,), RECIPE.override({"epochs": 1}))
    reported = json.loads((folder / HARDWARE).read_text())
    (folder / HARDWARE).write_text(json.dumps([{**reported[0], "data": "0-0"}]))
    said = reproduce(faces, "--trial", tmp_path / "first" / "7", "--out", tmp_path / "again")
    assert "instead of 0-0" in said.out.splitlines()[0]
