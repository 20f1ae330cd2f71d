"""A run's winner as an ONNX graph and in timm's format: the same probabilities, and a card of what the run knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import timm
import torch

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError
from maskcls.labels import CLASS_NAMES
from maskcls.serving.bundle import read_bundle, read_manifest
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.predictor import Predictor
from maskcls.serving.timm_export import check_single
from tests.commands import Said, call
from tests.conftest import Ensemble, new_bundle, random_classifier
from tests.local_hub import LocalHub, local_hub
from tests.tune.answered_run import add_trained_trial, let_answer, note_data
from tests.tune.selection.small_run import small_run
from tune import export
from tune.report.group_record import note_groups
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.export import export_winner
from tune.selection.finalists import Design, read_finalists
from tune.selection.holdout import evaluate_on_holdout
from tune.statistics.people import FEW_PEOPLE

DESIGN = Design(1, 2)


def unsure(candidate: int, truth: np.ndarray) -> np.ndarray:
    """Right on two photos of three, with .9 on each answer."""
    named = np.where(np.arange(len(truth)) % 3 == 0, (truth + 1) % 18, truth)
    return np.eye(18)[named] * 0.9 + 0.1 / 18


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    """A run of one trial, a linear head of 18 classes, with repeats and best/."""
    run, faces = small_run(tmp_path_factory.mktemp("runs"), demo_cache)
    note_data(run, faces)
    add_trained_trial(run, faces, 0.5, {"head": "linear", "task_split": "single"})
    let_answer(run, faces, DESIGN, (0,), unsure)
    export_winner(run, read_finalists(run, records(run), faces, DESIGN)[0])
    return run, faces


def command(run: SearchRun, *words: object) -> Said:
    return call(export.main, "--run", run.name, "--runs", run.path.parent, *words)


def test_the_winners_temperature_is_fitted_on_its_repeats(made: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = made
    fitted = read_bundle(run.best).calibration
    assert fitted is not None
    assert fitted.fitted_on == "what 2 repeats predicted for their own validation people"
    assert fitted.photos == len(faces.rows("train")) + len(faces.rows("validation"))
    assert fitted.temperature > 1, "it was too sure"
    assert fitted.error_after < fitted.error_before


def test_a_graph_is_added_to_best_where_it_is(made: tuple[SearchRun, FaceDataset]) -> None:
    pytest.importorskip("onnxscript", reason="the extra `onnx-export`")
    run, faces = made
    said = command(run, "--onnx")
    assert said.status == 0, said.err
    photos = faces.photos["file"].iloc[faces.rows("validation")].tolist()
    assert f"{run.best} has an ONNX graph. On {len(photos)} validation photos the largest difference" in said.out
    assert "(0.0001 is allowed), and 0 classes differ." in said.out
    assert f"--bundle {run.best}" in said.out
    expected = Predictor(run.best, "cpu").probabilities(photos)
    np.testing.assert_allclose(Predictor(run.best, engine="onnx").probabilities(photos), expected, atol=1e-5)


def test_the_bundle_says_how_it_does_by_group_and_stays_the_same_bundle(
    made: tuple[SearchRun, FaceDataset], tmp_path: Path
) -> None:
    run, faces = made
    folder = Path(shutil.copytree(run.best, tmp_path / "b"))
    note_groups(run, folder)
    (repeats,) = read_bundle(folder).scores["groups"]
    assert (repeats["on"], repeats["photos"]) == ("repeats", len(faces.rows("train")) + len(faces.rows("validation")))
    by = {name: [one for one in repeats["groups"] if one["by"] == name] for name in ("gender", "age_group", "mask")}
    assert [one["group"] for one in by["mask"]] == ["worn", "incorrect", "not worn"]
    for groups in by.values():
        assert sum(one["photos"] for one in groups) == repeats["photos"]
        wrong = sum(one["photos"] * one["wrong"]["class"][0] for one in groups) / repeats["photos"]
        assert wrong == pytest.approx(1 / 3, abs=0.01), "as the repeats answered"
    for one in repeats["groups"]:
        value, low, high = one["wrong"]["class"]
        assert (low is None) == (one["people"] < FEW_PEOPLE) == (one["verdict"] == "too few to tell")
        assert low is None or low <= value <= high
    assert bundle_digest(read_manifest(folder)) == bundle_digest(read_manifest(run.best)), "the holdout counts it once"
    evaluate_on_holdout(run, faces, folder, "trial 0000")
    said = command(run, "--trial", "0", "--out", tmp_path / "other")
    assert said.status == 0, said.err
    found = read_bundle(tmp_path / "other").scores["groups"]
    assert [one["on"] for one in found] == ["repeats", "holdout"]
    assert found[0] == repeats
    assert found[1]["people"] == len(faces.split.holdout)


@pytest.fixture(scope="module")
def in_timms_format(made: tuple[SearchRun, FaceDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("timm") / "winner"
    said = command(made[0], "--timm", "--out", out)
    assert said.status == 0, said.err
    assert f"timm.create_model('local-dir:{out}', pretrained=True)" in said.out
    return out


def test_timm_loads_it_and_gives_the_bundles_probabilities(
    made: tuple[SearchRun, FaceDataset], in_timms_format: Path
) -> None:
    run, faces = made
    model = timm.create_model(f"local-dir:{in_timms_format}", pretrained=True).eval()
    settings = timm.data.resolve_model_data_config(model)
    assert settings["input_size"] == (3, 32, 32)
    predictor = Predictor(run.best, "cpu")
    photos = faces.photos["file"].iloc[faces.rows("validation")].tolist()[:5]
    (geometry,) = predictor.geometries
    pixels = np.stack([predictor.crops(photo)[geometry].pixels for photo in photos])  # (n, s, s, 3)
    mean, std = (torch.tensor(settings[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        logits = model((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std)
    np.testing.assert_allclose(logits.softmax(1).numpy(), predictor.probabilities(photos), atol=1e-5)
    config = json.loads((in_timms_format / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("test_resnet", 18)
    assert config["label_names"] == list(CLASS_NAMES)


def test_the_card_says_what_the_run_knows(made: tuple[SearchRun, FaceDataset], in_timms_format: Path) -> None:
    run, faces = made
    card = huggingface_hub.ModelCard.load(in_timms_format / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("timm", "image-classification")
    fitted = read_bundle(run.best).calibration
    assert fitted is not None
    for said in (
        "| mean of 2 repeats of its recipe on other people |",
        "By group, repeats (",
        "| gender: female |",
        "| age group: over 59 |",
        f"calibrated by a temperature of {fitted.temperature:.2f}",
        f"{len(faces.photos):,} photos of 36 people, split by people: {len(faces.split.train)} train",
        "Energy: the machine does not tell it.",
        "**Not** for deciding about a person",
        "## What it cannot do",
        f"Digest of photos and labels: {faces.digest}",
    ):
        assert said in card.content, said
    assert not [person for person in set(faces.photos["person"]) if person in card.content]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    with local_hub() as found:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield found


def test_it_is_pushed_whole_into_a_private_repository(
    made: tuple[SearchRun, FaceDataset], hub: LocalHub, tmp_path: Path
) -> None:
    said = command(made[0], "--timm", "--out", tmp_path / "out", "--push", "someone/winner")
    assert said.status == 0, said.err
    assert f"Uploaded, as a private repository: {hub.url}/someone/winner" in said.out
    assert hub.private == {"someone/winner": True}
    names = ("README.md", "config.json", "model.safetensors")
    assert hub.files == {f"someone/winner/{name}": (tmp_path / "out" / name).read_bytes() for name in names}


def test_a_refused_push_keeps_the_folder(made: tuple[SearchRun, FaceDataset], hub: LocalHub, tmp_path: Path) -> None:
    hub.refuses = True
    said = command(made[0], "--timm", "--out", tmp_path / "out", "--push", "someone/winner")
    assert said.status == 1
    assert "could not be uploaded as someone/winner: " in said.err
    assert "The folder is complete, so it can be uploaded again." in said.err
    assert (tmp_path / "out" / "README.md").exists()


def test_what_timm_cannot_hold_is_refused(
    random_ensemble: Ensemble, random_bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    mlp = new_bundle(tmp_path / "mlp", random_classifier("single", head="mlp", head_width=8))
    for folder, message in (
        (random_ensemble.folder, r"is an ensemble of 3 classifiers, and timm's format holds one model\. .* --onnx\."),
        (random_bundle("three"), r"has the task split three \(mask3, gender2, age3\), and timm's format holds one"),
        (mlp, r"has a head of kind mlp, and timm's models end in a linear one"),
    ):
        with pytest.raises(CallError, match=message):
            check_single(read_bundle(folder))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Name a folder with --out; only --onnx works without one"),
        (["--timm"], "Name a folder with --out"),
        (["--onnx", "--timm", "--out", "o"], "--timm and --onnx write different folders."),
        (["--onnx", "--trial", "1", "--bundle", "b"], "Give either --trial or --bundle."),
        (["--bundle", "b", "--out", "o"], "b is a bundle already. Say in which format it is wanted: --onnx or --timm."),
        (["--int8", "--out", "o"], "--int8 belongs to --onnx, which is not given."),
        (["--push", "a/b", "--out", "o"], "--push belongs to --timm, which is not given."),
    ],
)
def test_options_that_do_not_go_together(words: list[str], message: str) -> None:
    said = call(export.main, "--run", "nowhere", *words)
    assert said.status == 2
    assert message in said.err


def test_a_bundle_of_another_split_is_refused(
    made: tuple[SearchRun, FaceDataset], random_bundle: Callable[[str], Path]
) -> None:
    said = command(made[0], "--onnx", "--bundle", random_bundle("single"))
    assert said.status == 2
    assert "was made of other photos, or of another split of the people, than small" in said.err
