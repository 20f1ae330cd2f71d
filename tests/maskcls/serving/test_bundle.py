from __future__ import annotations

import hashlib
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from maskcls.data.geometry import Geometry
from maskcls.errors import CallError, DataError, RunError
from maskcls.labels import CLASS_NAMES
from maskcls.models.backbones import normalisation
from maskcls.models.model import build_models, log_probabilities
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import Calibration, calibrated
from maskcls.serving.export import Trained, check_writable, note_calibration, note_scores, write_bundle
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


def test_reading_leaves_torchs_generator_alone(random_bundle: RandomBundle) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    read_bundle(random_bundle("single"))
    assert torch.equal(torch.rand(4), expected)


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


def test_loading_and_predicting_needs_neither_ray_nor_optuna_nor_albumentations(random_bundle: RandomBundle) -> None:
    code = """
import sys
from pathlib import Path
import numpy as np
from maskcls.serving.predictor import Predictor
Predictor(Path(sys.argv[1]), "cpu").probabilities([np.zeros((80, 60, 3), np.uint8)])
import maskcls.predict, maskcls.evaluate, maskcls.serve, maskcls.serving.evaluation, maskcls.serving.web.app
print(sorted({"ray", "optuna", "albumentations"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, random_bundle("single")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


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
    with pytest.raises(DataError, match=r"nowhere is no bundle: it has no bundle\.json"):
        note_scores(tmp_path / "nowhere", {})


CALIBRATION = Calibration(1.6, "drawn photos", 60, 2.1, 1.9, 0.2, 0.1)


def test_its_temperature_goes_with_it_and_changes_its_probabilities_but_no_class(
    tmp_path: Path, random_bundle: RandomBundle
) -> None:
    folder = Path(shutil.copytree(random_bundle("three"), tmp_path / "b"))
    before = Predictor(folder, "cpu")
    note_calibration(folder, CALIBRATION)
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


def test_a_bundle_of_format_version_3_has_no_temperature(tmp_path: Path, random_bundle: RandomBundle) -> None:
    folder = Path(shutil.copytree(random_bundle("single"), tmp_path / "b"))
    manifest = json.loads((folder / "bundle.json").read_text())
    assert manifest.pop("calibration") is None
    (folder / "bundle.json").write_text(json.dumps({**manifest, "format_version": 3}))
    bundle = read_bundle(folder)
    assert (bundle.calibration, bundle.temperature) == (None, 1.0)
    assert bundle_digest(bundle.manifest) == bundle_digest(read_bundle(random_bundle("single")).manifest)
    (folder / "bundle.json").write_text(json.dumps({**manifest, "calibration": {"temperature": 0}}))
    with pytest.raises(DataError, match=r"bundle\.json is damaged: .* Export the bundle again"):
        read_bundle(folder)


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
    def test_it_holds_what_its_classifiers_held_alone(self, random_ensemble: Ensemble) -> None:
        bundle = read_bundle(random_ensemble.folder)
        assert tuple(classifier.weight for classifier in bundle.classifiers) == random_ensemble.weights
        for classifier, folder in zip(bundle.classifiers, random_ensemble.alone, strict=True):
            (alone,) = read_bundle(folder).classifiers
            assert (classifier.recipe, classifier.geometry, classifier.task_split) == (
                alone.recipe,
                alone.geometry,
                alone.task_split,
            )
            for model, other in zip(classifier.models, alone.models, strict=True):
                tensors = other.state_dict()
                assert all(tensor.equal(tensors[name]) for name, tensor in model.state_dict().items())

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

    def test_a_damaged_file_of_any_classifier_is_found(self, random_ensemble: Ensemble, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(random_ensemble.folder, tmp_path / "b"))
        file = next(folder.glob("model-1-age3-*"))
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{file.name} is damaged: .* Copy it again"):
            read_bundle(folder)

    def test_weights_that_were_tampered_with_are_refused(self, random_ensemble: Ensemble, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(random_ensemble.folder, tmp_path / "b"))
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["classifiers"][0]["weight"] = 0.9
        (folder / "bundle.json").write_text(json.dumps(manifest))
        with pytest.raises(
            DataError,
            match=r"does not fit this version of maskcls: .* sum to 1, but are \[0\.9, 0\.3, 0\.2\]\. Export it",
        ):
            read_bundle(folder)


def as_version_2(folder: Path) -> None:
    """Rewrite the bundle of one classifier in the format that held only one, at the top of its manifest."""
    manifest = json.loads((folder / "bundle.json").read_text())
    (classifier,) = manifest.pop("classifiers")
    del classifier["weight"]
    (folder / "bundle.json").write_text(json.dumps({**manifest, "format_version": 2, **classifier}))


def test_a_bundle_of_format_version_2_is_read(random_bundle: RandomBundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(random_bundle("three"), tmp_path / "b"))
    as_version_2(folder)
    assert "classifiers" not in json.loads((folder / "bundle.json").read_text())
    new, old = read_bundle(random_bundle("three")), read_bundle(folder)
    (is_new,), (was_old,) = new.classifiers, old.classifiers
    assert (was_old.weight, was_old.recipe, was_old.geometry) == (1.0, is_new.recipe, is_new.geometry)
    for model, other in zip(is_new.models, was_old.models, strict=True):
        tensors = other.state_dict()
        assert all(tensor.equal(tensors[name]) for name, tensor in model.state_dict().items())
    assert (old.scores, old.split_digest, old.people_hashes) == (new.scores, new.split_digest, new.people_hashes)


class TestDamage:
    @pytest.fixture
    def folder(self, random_bundle: RandomBundle, tmp_path: Path) -> Path:
        return Path(shutil.copytree(random_bundle("three"), tmp_path / "b"))

    @staticmethod
    def change(folder: Path, **values: object) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest.update(values)
        (folder / "bundle.json").write_text(json.dumps(manifest))

    @staticmethod
    def change_classifier(folder: Path, **values: object) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        manifest["classifiers"][0].update(values)
        (folder / "bundle.json").write_text(json.dumps(manifest))

    @staticmethod
    def classifier(folder: Path) -> dict[str, Any]:
        return json.loads((folder / "bundle.json").read_text())["classifiers"][0]

    def test_no_bundle(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"nowhere is no bundle: it has no bundle\.json\. Name a folder that maskcls\.train"
        ):
            read_bundle(tmp_path / "nowhere")

    def test_another_projects_json(self, folder: Path) -> None:
        (folder / "bundle.json").write_text('{"name": "package"}')
        with pytest.raises(DataError, match=r'bundle\.json is no bundle\'s: "format": "maskcls-bundle" expected'):
            read_bundle(folder)

    def test_json_cut_short(self, folder: Path) -> None:
        text = (folder / "bundle.json").read_text()
        (folder / "bundle.json").write_text(text[: len(text) // 2])
        with pytest.raises(DataError, match=r"bundle\.json can't be read: .* JSON object\. Export the bundle again"):
            read_bundle(folder)

    def test_a_key_is_missing(self, folder: Path) -> None:
        manifest = json.loads((folder / "bundle.json").read_text())
        del manifest["classifiers"][0]["models"]
        (folder / "bundle.json").write_text(json.dumps(manifest))
        with pytest.raises(DataError, match=r"bundle\.json is damaged: KeyError\('models'\)"):
            read_bundle(folder)
        (folder / "bundle.json").write_text(json.dumps({**manifest, "format_version": 2}))
        with pytest.raises(DataError, match=r"bundle\.json is damaged: KeyError\('task_split'\)"):
            read_bundle(folder)

    def test_a_weight_is_no_number(self, folder: Path) -> None:
        self.change_classifier(folder, weight="half")
        with pytest.raises(DataError, match=r"bundle\.json is damaged: ValueError.* Export the bundle again"):
            read_bundle(folder)

    def test_another_format_version(self, folder: Path) -> None:
        self.change(folder, format_version=5)
        with pytest.raises(
            DataError,
            match=r"is a bundle of format version 5, and this maskcls reads versions 2, 3, 4\. Export it again",
        ):
            read_bundle(folder)

    def test_weights_are_missing(self, folder: Path) -> None:
        file = next(folder.glob("model-gender2-*"))
        file.unlink()
        with pytest.raises(DataError, match=rf"lacks {file.name}\. Copy the whole folder again"):
            read_bundle(folder)

    def test_weights_are_cut_short(self, folder: Path) -> None:
        file = next(folder.glob("model-age3-*"))
        content = file.read_bytes()
        file.write_bytes(content[:1000])
        with pytest.raises(DataError, match=rf"{file.name} is damaged: {len(content):,} bytes of .* but got 1,000 of"):
            read_bundle(folder)

    def test_one_bit_of_the_weights_has_turned(self, folder: Path) -> None:
        file = next(folder.glob("model-mask3-*"))
        content = bytearray(file.read_bytes())
        content[-5] ^= 1
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"{file.name} is damaged: .* Copy it again"):
            read_bundle(folder)

    def test_tasks_numbered_in_another_way(self, folder: Path) -> None:
        described = self.classifier(folder)["task_split"]
        described["tasks"][2]["labels"].reverse()
        self.change_classifier(folder, task_split=described)
        with pytest.raises(
            DataError, match="does not fit this version of maskcls: its tasks are numbered in another way than .* three"
        ):
            read_bundle(folder)

    def test_classes_numbered_in_another_way(self, folder: Path) -> None:
        self.change(folder, classes=list(CLASS_NAMES[::-1]))
        with pytest.raises(
            DataError, match="does not fit this version of maskcls: its classes are numbered in another way than this"
        ):
            read_bundle(folder)

    def test_a_recipe_of_a_later_version(self, folder: Path) -> None:
        recipe = self.classifier(folder)["recipe"]
        self.change_classifier(folder, recipe={**recipe, "warp": 9})
        with pytest.raises(DataError, match="does not fit this version of maskcls: A recipe has no key 'warp'"):
            read_bundle(folder)

    def change_recipe(self, folder: Path, **values: object) -> None:
        recipe = Recipe().override({**self.classifier(folder)["recipe"], **values})
        self.change_classifier(folder, recipe=recipe.model_dump(), recipe_digest=recipe.digest)

    def test_a_recipe_that_is_not_the_one_of_its_digest(self, folder: Path) -> None:
        recipe = self.classifier(folder)["recipe"]
        self.change_classifier(folder, recipe={**recipe, "join": "hard"})
        with pytest.raises(DataError, match="its recipe has another digest than"):
            read_bundle(folder, with_models=False)

    def test_a_network_that_fills_no_memory_until_it_is_known_to_be_the_right_one(self, folder: Path) -> None:
        self.change_recipe(folder, head="mlp", head_width=10**12)
        with pytest.raises(DataError, match=r"its weights do not fit mobilenetv3_small_050 .*heads\..* differ"):
            read_bundle(folder)

    def test_photos_cut_in_another_way_than_its_recipe_says(self, folder: Path) -> None:
        preprocessing = self.classifier(folder)["preprocessing"]
        other = {**preprocessing, "geometry": Geometry(96).to_dict()}
        self.change_classifier(folder, preprocessing=other)
        with pytest.raises(DataError, match="its photos are cut by .*96.*, but its recipe has 64 px and none"):
            read_bundle(folder, with_models=False)

    def test_a_normalisation_that_is_not_the_one_of_its_weights(self, folder: Path) -> None:
        preprocessing = self.classifier(folder)["preprocessing"]
        other = [{**one, "std": [0.5, 0.5, 0.5]} for one in preprocessing["normalisation"]]
        self.change_classifier(folder, preprocessing={**preprocessing, "normalisation": other})
        with pytest.raises(DataError, match="its std is not the one of mobilenetv3_small_050"):
            read_bundle(folder)

    def test_a_model_that_is_one_too_many(self, folder: Path) -> None:
        self.change_classifier(folder, models=self.classifier(folder)["models"] * 2)
        with pytest.raises(DataError, match="it has 6 models, and three 3"):
            read_bundle(folder)

    def test_weights_that_are_not_finite(self, folder: Path) -> None:
        """A wrong value under the right checksum, as a damaged memory leaves it when a bundle is written."""
        described = self.classifier(folder)["models"]
        state = safetensors.torch.load_file(folder / described[0]["file"])
        next(tensor for tensor in state.values() if tensor.is_floating_point()).fill_(torch.nan)
        content = safetensors.torch.save(state)
        (folder / described[0]["file"]).write_bytes(content)
        described[0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        self.change_classifier(folder, models=described)
        with pytest.raises(DataError, match=r"the weights .* in model-mask3-.* are not finite\. Export it again"):
            read_bundle(folder)
        assert not read_bundle(folder, with_models=False).classifiers[0].models

    def test_weights_of_another_backbone(self, folder: Path) -> None:
        self.change_recipe(folder, backbone="resnet10t")
        with pytest.raises(
            DataError, match=r"its weights do not fit resnet10t as built here; it was written with torch .*, timm"
        ):
            read_bundle(folder)
