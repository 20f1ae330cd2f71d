"""Bundles are read, also those of earlier versions, and refused where they are damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from maskcls.data.geometry import Geometry
from maskcls.errors import DataError, NoSuchPath
from maskcls.labels import CLASS_NAMES
from maskcls.recipe import Recipe
from maskcls.serving.bundle import read_bundle
from maskcls.serving.holdout_uses import bundle_digest
from tests.conftest import Ensemble

RandomBundle = Callable[[str], Path]


def test_reading_leaves_torchs_generator_alone(random_bundle: RandomBundle) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    read_bundle(random_bundle("single"))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.slow
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


class TestEnsemble:
    @pytest.mark.slow
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
        with pytest.raises(NoSuchPath, match=r"nowhere does not exist\. Expected a folder that maskcls\.train"):
            read_bundle(tmp_path / "nowhere")
        with pytest.raises(
            DataError, match=r" is no bundle: it has no bundle\.json\. Name a folder that maskcls\.train"
        ):
            read_bundle(tmp_path)

    def test_a_run_is_no_bundle_but_its_best_is(self, folder: Path) -> None:
        with pytest.raises(DataError, match=rf"wrote\. Did you mean {folder}\?$"):
            read_bundle(folder.parent)

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
        self.change(folder, format_version=6)
        with pytest.raises(
            DataError,
            match=r"is a bundle of format version 6, and this maskcls reads versions 2, 3, 4, 5\. Export it again",
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
