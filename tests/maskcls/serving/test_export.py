"""Bundles are written, with what is known of them, whole or not at all."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls.data.geometry import Geometry
from maskcls.errors import CallError, DataError, RunError
from maskcls.labels import CLASS_NAMES
from maskcls.models.backbones import normalisation
from maskcls.models.model import build_models, log_probabilities
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import Calibration, calibrated
from maskcls.serving.decision import Decision, log_prior
from maskcls.serving.export import Trained, check_writable, note_fitted, note_scores, write_bundle
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.people import person_hash
from maskcls.serving.predictor import Predictor
from maskcls.task_split import task_split
from tests.conftest import Ensemble

RandomBundle = Callable[[str], Path]
RECIPE = Recipe(
    task_split="single", backbone="mobilenetv3_small_050", weights="none", image_size=64, frozen_stages=2, seed=1
)
FAR_FEWER_BYTES_THAN_WEIGHTS = 100_000


def states(recipe: Recipe = RECIPE) -> list[dict[str, torch.Tensor]]:
    return [model.state_dict() for model in build_models(recipe, pretrained=False)]


def write(folder: Path, recipe: Recipe = RECIPE, *, overwrite: bool = False) -> None:
    write_all(folder, Trained(recipe, states(recipe)), overwrite=overwrite)


def write_all(folder: Path, *classifiers: Trained, overwrite: bool = False) -> None:
    write_bundle(
        folder,
        classifiers,
        {"validation": {"f1": 0.75}},
        data_digest="data",
        split_digest="split",
        seen_people=["Ann", "Bo"],
        holdout_people=["Di"],
        overwrite=overwrite,
    )


@contextmanager
def files_end_at(n_bytes: int):
    """As on a full disk: whoever writes more into a file gets an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["single", "three"])
def test_a_bundle_answers_as_the_members_it_was_written_from(tmp_path: Path, name: str) -> None:
    recipe = RECIPE.override({"task_split": name})
    write(tmp_path / "b", recipe)
    bundle = read_bundle(tmp_path / "b")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    models = build_models(recipe, pretrained=False)
    expected = log_probabilities(models, task_split(name), pixels)
    (classifier,) = bundle.classifiers
    assert np.array_equal(log_probabilities(classifier.models, classifier.task_split, pixels), expected)
    assert not any(model.training for model in classifier.models)
    assert (classifier.recipe, classifier.geometry, classifier.task_split) == (recipe, Geometry(64), task_split(name))
    assert (classifier.weight, classifier.weights_origin) == (1.0, "mobilenetv3_small_050 from none")
    assert bundle.scores == {"validation": {"f1": 0.75}}
    assert (bundle.data_digest, bundle.split_digest) == ("data", "split")


def test_what_lies_in_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "b")
    names = sorted(file.name for file in (tmp_path / "b").iterdir())
    assert names[0] == "bundle.json"
    assert len(names) == 2
    assert names[1].startswith("model-classes-")
    assert names[1].endswith(".safetensors")
    assert [folder.name for folder in tmp_path.iterdir()] == ["b"]
    manifest = json.loads((tmp_path / "b/bundle.json").read_text())
    assert manifest["classes"] == list(CLASS_NAMES)
    (classifier,) = manifest["classifiers"]
    assert classifier["preprocessing"]["geometry"]["image_size"] == 64
    mean, std = normalisation(RECIPE.backbone)
    assert classifier["preprocessing"]["normalisation"] == [{"mean": list(mean), "std": list(std)}]
    assert manifest["versions"]["torch"]


def test_people_are_known_again_but_not_listed(tmp_path: Path) -> None:
    write(tmp_path / "b")
    assert "Ann" not in (tmp_path / "b/bundle.json").read_text()
    bundle = read_bundle(tmp_path / "b")
    assert [bundle.has_seen(person) for person in ("Ann", "Bo", "Cy", "Di")] == [True, True, False, False]
    assert [bundle.is_held_out(person) for person in ("Ann", "Bo", "Cy", "Di")] == [False, False, False, True]
    assert person_hash("Ann", "split") != person_hash("Ann", "another split")


def test_a_folder_that_is_in_use_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"mine")
    with pytest.raises(
        CallError, match=r"photos exists and is no bundle \(it has no bundle\.json\)\. Name a new folder"
    ):
        write(tmp_path / "photos", overwrite=True)
    write(tmp_path / "b")
    with pytest.raises(CallError, match=r"b holds a bundle already\. Name a new folder, or give --overwrite"):
        check_writable(tmp_path / "b", overwrite=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b", "photos"]


def test_scores_may_be_noted_once_the_bundle_is_there(tmp_path: Path) -> None:
    write(tmp_path / "b")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "b").iterdir() if file.name != "bundle.json"}
    note_scores(tmp_path / "b", {"holdout": {"f1": 0.625}})
    assert read_bundle(tmp_path / "b").scores == {"validation": {"f1": 0.75}, "holdout": {"f1": 0.625}}
    assert {
        file.name: file.stat().st_mtime_ns for file in (tmp_path / "b").iterdir() if file.name != "bundle.json"
    } == before
    with pytest.raises(DataError, match=r" is no bundle: it has no bundle\.json"):
        note_scores(tmp_path, {})


CALIBRATION = Calibration(1.6, "drawn photos", 60, 2.1, 1.9, 0.2, 0.1)


def test_its_temperature_goes_with_it_and_changes_its_probabilities_but_no_class(
    tmp_path: Path, random_bundle: RandomBundle
) -> None:
    folder = Path(shutil.copytree(random_bundle("three"), tmp_path / "b"))
    before = Predictor(folder, "cpu")
    note_fitted(folder, CALIBRATION, None)
    bundle = read_bundle(folder)
    assert (bundle.calibration, bundle.temperature) == (CALIBRATION, 1.6)
    assert bundle_digest(bundle.manifest) == bundle_digest(before.bundle.manifest), "the holdout counts it once"
    photos = list(np.random.default_rng(0).integers(0, 256, (5, 80, 60, 3), np.uint8))
    after = Predictor(folder, "cpu")
    expected = calibrated(before.probabilities(photos), 1.6)
    assert np.array_equal(after.probabilities(photos), expected)
    assert not np.allclose(expected, before.probabilities(photos), rtol=1e-2)
    at_once = [predictor.at_once([predictor.crops(photo) for photo in photos]) for predictor in (before, after)]
    assert np.array_equal(at_once[1], calibrated(at_once[0], 1.6))
    assert before.predict(photos)["class"].tolist() == after.predict(photos)["class"].tolist()


DECISION = Decision(0.8, tuple(log_prior(np.repeat(np.arange(18), np.arange(18) * 4)).tolist()), "", 60, 0.4, 0.5)


def test_its_decision_rule_goes_with_it_and_changes_its_classes_but_no_probability(
    tmp_path: Path, random_bundle: RandomBundle
) -> None:
    folder = Path(shutil.copytree(random_bundle("three"), tmp_path / "b"))
    before = Predictor(folder, "cpu")
    note_fitted(folder, CALIBRATION, DECISION)
    after = Predictor(folder, "cpu")
    assert after.bundle.decision == DECISION
    assert bundle_digest(after.bundle.manifest) != bundle_digest(before.bundle.manifest), "another classifier"
    photos = list(np.random.default_rng(0).integers(0, 256, (5, 80, 60, 3), np.uint8))
    raw = before.probabilities(photos)
    probabilities = after.probabilities(photos)
    assert np.array_equal(probabilities, calibrated(raw, 1.6))
    expected = (np.log(raw) - 0.8 * np.array(DECISION.log_prior)).argmax(axis=1)
    assert (expected != raw.argmax(axis=1)).any()
    assert np.array_equal(after.classes(probabilities), expected)
    table, rows = after.predict(photos), after.rows(photos)
    named = probabilities[np.arange(5), expected]
    assert table["class"].tolist() == [row.class_ for row in rows] == expected.tolist()
    assert table["probability"].tolist() == [row.probability for row in rows] == named.tolist()
    limit = float(np.sort(named)[2])
    sure = Predictor(after.bundle, "cpu", abstain=limit)
    assert sure.predict(photos)["sure"].tolist() == [row.is_sure for row in sure.rows(photos)]
    assert [row.is_sure for row in sure.rows(photos)] == (named >= limit).tolist(), "by the class that is named"
    again = {**after.bundle.manifest, "decision": {**DECISION.to_dict(), "f1_after": 0.6, "photos": 70}}
    assert bundle_digest(again) == bundle_digest(after.bundle.manifest), "only what changes a class counts"


def test_a_bundle_of_format_version_4_names_the_likeliest_class(tmp_path: Path, random_bundle: RandomBundle) -> None:
    folder = Path(shutil.copytree(random_bundle("single"), tmp_path / "b"))
    manifest = json.loads((folder / "bundle.json").read_text())
    assert manifest.pop("decision") is None
    (folder / "bundle.json").write_text(json.dumps({**manifest, "format_version": 4}))
    bundle = read_bundle(folder, with_models=False)
    assert bundle.decision is None
    assert bundle.classes(np.eye(18)[[3, 17]]).tolist() == [3, 17]
    assert bundle_digest(bundle.manifest) == bundle_digest(read_bundle(random_bundle("single")).manifest)


def test_overwriting_leaves_the_new_bundle_alone(tmp_path: Path) -> None:
    write(tmp_path / "b", RECIPE.override({"task_split": "three"}))
    write(tmp_path / "b", RECIPE.override({"seed": 2}), overwrite=True)
    assert read_bundle(tmp_path / "b").classifiers[0].recipe.seed == 2
    assert len(list((tmp_path / "b").iterdir())) == 2


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with files_end_at(FAR_FEWER_BYTES_THAN_WEIGHTS), pytest.raises(OSError):
        write(tmp_path / "b")
    assert not list(tmp_path.iterdir())
    write(tmp_path / "b")
    before = sorted(file.name for file in (tmp_path / "b").iterdir())
    with files_end_at(FAR_FEWER_BYTES_THAN_WEIGHTS), pytest.raises(OSError):
        write(tmp_path / "b", RECIPE.override({"seed": 2}), overwrite=True)
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == before
    assert read_bundle(tmp_path / "b").classifiers[0].recipe == RECIPE


def test_weights_that_are_not_finite_become_no_bundle(tmp_path: Path) -> None:
    (state,) = states()
    name = next(iter(state))
    with pytest.raises(RunError, match=rf"The weights {name} are not finite, so no bundle is made of them"):
        write_all(tmp_path / "b", Trained(RECIPE, [{**state, name: state[name] * torch.inf}]))
    assert not list(tmp_path.iterdir())


def test_states_of_another_normalisation_or_number_are_refused(tmp_path: Path) -> None:
    (state,) = states()
    shifted = {**state, "mean": state["mean"] + 3}
    with pytest.raises(
        CallError,
        match=r"A model's mean is \[0\.49.* but mobilenetv3_small_050's own is \[0\.48.* Give the state of a model",
    ):
        write_all(tmp_path / "b", Trained(RECIPE, [shifted]))
    with pytest.raises(CallError, match="Task split three has 3 models, but got 1 states"):
        write_all(tmp_path / "b", Trained(RECIPE.override({"task_split": "three"}), [state]))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("weights", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (1.0, 0.0), (float("nan"), 0.5)])
def test_weights_that_are_no_shares_are_refused(tmp_path: Path, weights: tuple[float, ...]) -> None:
    classifiers = [Trained(RECIPE, states(), weight) for weight in weights]
    with pytest.raises(CallError, match=r"The classifiers' weights must be positive and sum to 1, but are \["):
        write_all(tmp_path / "b", *classifiers)


class TestEnsemble:
    def test_classifiers_of_the_same_tasks_and_even_weights_do_not_share_a_file(self, tmp_path: Path) -> None:
        trained = Trained(RECIPE, states(), 0.5)
        write_all(tmp_path / "b", trained, trained)
        assert len(list((tmp_path / "b").glob("model-*.safetensors"))) == 2
        assert [classifier.recipe for classifier in read_bundle(tmp_path / "b").classifiers] == [RECIPE, RECIPE]

    def test_overwriting_it_with_a_single_one_leaves_none_of_its_files(
        self, random_ensemble: Ensemble, tmp_path: Path
    ) -> None:
        folder = Path(shutil.copytree(random_ensemble.folder, tmp_path / "b"))
        assert len(list(folder.iterdir())) == 1 + 1 + 3 + 3
        write(folder, overwrite=True)
        assert len(list(folder.iterdir())) == 2
        assert read_bundle(folder).classifiers[0].recipe == RECIPE
