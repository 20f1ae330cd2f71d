"""Bundle: an exported classifier, a folder of `bundle.json` and one safetensors file per model.

No pickle; it loads without Ray, Optuna and albumentations. It holds one classifier, or an ensemble: several, whose
probabilities are averaged by their weights (Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004).
Format version 3; version 2, of one classifier, can be read, too.

People it has seen (it trained on them, or was chosen by their score), and those of the holdout, are stored as hashes
(`maskcls.serving.people`).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
from torch import Tensor

from maskcls.data.geometry import Geometry
from maskcls.errors import CallError, DataError
from maskcls.files import replacing, write_atomically
from maskcls.labels import CLASS_NAMES
from maskcls.models.backbones import normalisation
from maskcls.models.model import Model, build_models
from maskcls.recipe import Recipe
from maskcls.serving.people import person_hash, person_hashes
from maskcls.task_split import TaskSplit
from maskcls.tasks import Task

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

MANIFEST = "bundle.json"
FORMAT, FORMAT_VERSION, READ_VERSIONS = "maskcls-bundle", 3, (2, 3)
OF_A_CLASSIFIER = ("task_split", "recipe", "recipe_digest", "preprocessing", "models", "weights_origin")
"""Keys of each classifier in bundle.json, beside its weight; in format version 2 they stood at the top."""
WEIGHTS_TOLERANCE = 1e-9
LIBRARIES = ("maskcls", "torch", "timm", "safetensors", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Trained:
    """A classifier to be written.

    Args:
        states: a complete `Model.state_dict()` for each model of the recipe's task split.
        weight: its share of the bundle's prediction, in 0..1.
    """

    recipe: Recipe
    states: Sequence[Mapping[str, Tensor]]
    weight: float = 1.0


@dataclass(frozen=True)
class Classifier:
    """A classifier as it was read; `models` are in eval(), on the CPU. `weight` is its share of a prediction."""

    weight: float
    recipe: Recipe
    task_split: TaskSplit
    models: list[Model]
    geometry: Geometry
    weights_origin: str


@dataclass(frozen=True)
class Bundle:
    """A bundle as it was read: one classifier of weight 1, or several whose weights sum to 1."""

    folder: Path
    classifiers: tuple[Classifier, ...]
    scores: dict[str, Any]
    data_digest: str
    split_digest: str
    people_hashes: frozenset[str]
    holdout_hashes: frozenset[str]
    """Of the people whom it has not seen so that they can score it; empty in bundles of earlier versions."""
    manifest: dict[str, Any]

    def has_seen(self, person: str) -> bool:
        """Whether it trained on the person, or was chosen by a score on the person's photos."""
        return person_hash(person, self.split_digest) in self.people_hashes

    def is_held_out(self, person: str) -> bool:
        """Whether the person is in the holdout of the split that it was trained on."""
        return person_hash(person, self.split_digest) in self.holdout_hashes


def write_bundle(
    folder: Path,
    classifiers: Sequence[Trained],
    scores: Mapping[str, Any],
    *,
    data_digest: str,
    split_digest: str,
    seen_people: Sequence[str],
    holdout_people: Sequence[str] = (),
    overwrite: bool = False,
) -> None:
    """Write a bundle so that, whenever this is interrupted, `folder` holds a whole one: the old, the new, or none.

    Args:
        scores: its scores by where they were measured, ready for JSON.
        seen_people: people on whom any of the classifiers trained, or by whom it was chosen.
        holdout_people: people who were kept out of both.
        overwrite: whether a bundle that is there is replaced.

    Raises:
        CallError: `folder` exists and is no bundle, or is one and `overwrite` is False; states do not fit their recipe;
            weights are not positive with the sum 1.
    """
    check_writable(folder, overwrite=overwrite)
    _check_weights([trained.weight for trained in classifiers])
    contents: dict[str, bytes] = {}
    entries = []
    for number, trained in enumerate(classifiers):
        entry, files = _serialised(trained, "model" if len(classifiers) == 1 else f"model-{number}")
        entries.append(entry)
        contents.update(files)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "classes": CLASS_NAMES,
        "classifiers": entries,
        "scores": dict(scores),
        "data_digest": data_digest,
        "split_digest": split_digest,
        "people_hashes": person_hashes(seen_people, split_digest),
        "holdout_hashes": person_hashes(holdout_people, split_digest),
    }
    _put(folder, contents, _json(manifest))


def export(
    folder: Path,
    recipe: Recipe,
    states: Sequence[Mapping[str, Tensor]],
    *,
    scores: Mapping[str, Any],
    faces: FaceDataset,
    overwrite: bool = False,
) -> None:
    """Export a single fit with `export_classifiers`."""
    export_classifiers(folder, [Trained(recipe, states)], scores=scores, faces=faces, overwrite=overwrite)


def export_classifiers(
    folder: Path,
    classifiers: Sequence[Trained],
    *,
    scores: Mapping[str, Any],
    faces: FaceDataset,
    overwrite: bool = False,
) -> None:
    """Write a bundle of fits that trained on the training people of `faces`, chosen by its validation people."""
    write_bundle(
        folder,
        classifiers,
        scores,
        data_digest=faces.digest,
        split_digest=faces.split.digest,
        seen_people=(*faces.split.train, *faces.split.validation),
        holdout_people=faces.split.holdout,
        overwrite=overwrite,
    )


def note_scores(folder: Path, scores: Mapping[str, Any]) -> None:
    """Add scores to a bundle that were measured after it was written. Replaces bundle.json, in one step."""
    manifest = _read_manifest(folder)
    manifest["scores"] = {**manifest["scores"], **scores}
    write_atomically(folder / MANIFEST, _json(manifest))


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raises CallError if `write_bundle` would refuse the folder: to be asked before the training, not after it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        raise CallError(f"{folder} exists and is no bundle (it has no {MANIFEST}). Name a new folder.")
    if not overwrite:
        raise CallError(f"{folder} holds a bundle already. Name a new folder, or give --overwrite.")


def read_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every file. Raises DataError: no bundle, another version, files missing or damaged."""
    manifest = _read_manifest(folder)
    try:
        if manifest["format_version"] == 2:
            manifest = _from_version_2(manifest)
        if tuple(manifest["classes"]) != CLASS_NAMES:
            raise DataError("its classes are numbered in another way than this version's")
        classifiers = tuple(_read_classifier(folder, entry, manifest["versions"]) for entry in manifest["classifiers"])
        _check_weights([classifier.weight for classifier in classifiers])
        return Bundle(
            folder=folder,
            classifiers=classifiers,
            scores=manifest["scores"],
            data_digest=manifest["data_digest"],
            split_digest=manifest["split_digest"],
            people_hashes=frozenset(manifest["people_hashes"]),
            holdout_hashes=frozenset(manifest.get("holdout_hashes", ())),
            manifest=manifest,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{folder / MANIFEST} is damaged: {error!r} while reading it. Export the bundle again."
        ) from None
    except (CallError, DataError) as error:
        if str(folder) in str(error):
            raise
        raise DataError(
            f"The bundle {folder} does not fit this version of maskcls: {str(error).rstrip('.')}. Export it again."
        ) from None


def _check_weights(weights: Sequence[float]) -> None:
    if not weights or min(weights) <= 0 or not abs(sum(weights) - 1) <= WEIGHTS_TOLERANCE:  # so that nan fails
        raise CallError(f"The classifiers' weights must be positive and sum to 1, but are {list(weights)}.")


def _serialised(trained: Trained, prefix: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A classifier's entry in bundle.json, and the contents of its files by their names."""
    recipe = trained.recipe
    paired = _paired(recipe, trained.states)
    files = [
        _file(f"{prefix}-{'+'.join(task.name for task in tasks)}", safetensors.torch.save(_plain(state)))
        for tasks, state in paired
    ]
    entry = {
        "weight": trained.weight,
        "task_split": _describe(recipe.split),
        "recipe": recipe.model_dump(),
        "recipe_digest": recipe.digest,
        "preprocessing": {
            "geometry": Geometry(recipe.image_size, recipe.face_crop).to_dict(),
            "normalisation": [_normalisation(recipe.of_model(tasks).backbone, state) for tasks, state in paired],
        },
        "models": [described for described, _ in files],
        "weights_origin": f"{', '.join(recipe.backbones)} from {recipe.weights}",
    }
    return entry, {described["file"]: content for described, content in files}


def _json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)


def _from_version_2(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format version 2, of one classifier, in version 3."""
    classifier = {"weight": 1.0, **{key: manifest[key] for key in OF_A_CLASSIFIER}}
    kept = {key: value for key, value in manifest.items() if key not in OF_A_CLASSIFIER}
    return {**kept, "format_version": FORMAT_VERSION, "classifiers": [classifier]}


def _read_classifier(folder: Path, entry: Mapping[str, Any], versions: Mapping[str, str]) -> Classifier:
    recipe = Recipe.from_json(json.dumps(entry["recipe"]))
    split = recipe.split
    geometry = Geometry.from_dict(entry["preprocessing"]["geometry"])
    if entry["task_split"] != _describe(split):
        raise DataError(f"its tasks are numbered in another way than this version's {split.name}")
    states = [_read_model(folder, model) for model in entry["models"]]
    return Classifier(
        weight=float(entry["weight"]),
        recipe=recipe,
        task_split=split,
        models=_rebuild(recipe, states, versions),
        geometry=geometry,
        weights_origin=entry["weights_origin"],
    )


def _describe(split: TaskSplit) -> dict[str, Any]:
    return {
        "name": split.name,
        "tasks": [
            {"name": task.name, "label_names": list(task.label_names), "labels": list(task.labels)}
            for task in split.tasks
        ],
        "models": [[task.name for task in tasks] for tasks in split.models],
        "advisers": [task.name for task in split.advisers],
    }


def _paired(
    recipe: Recipe, states: Sequence[Mapping[str, Tensor]]
) -> list[tuple[tuple[Task, ...], Mapping[str, Tensor]]]:
    models = recipe.split.models
    if len(states) != len(models):
        raise CallError(f"Task split {recipe.task_split} has {len(models)} models, but got {len(states)} states.")
    return list(zip(models, states, strict=True))


def _normalisation(backbone: str, state: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """Mean and std, (3,) each, of RGB pixels in 0..1, for readers of bundle.json.

    Raises CallError unless the state, which is what computes, holds the same.
    """
    described = {}
    for name, own in zip(("mean", "std"), normalisation(backbone), strict=True):
        used = [value / 255 for value in state[name].flatten().tolist()]
        if any(abs(a - b) > 1e-6 for a, b in zip(used, own, strict=True)):
            raise CallError(
                f"A model's {name} is {used}, but {backbone}'s own is {list(own)}. "
                "Give the state of a model of that backbone."
            )
        described[name] = list(own)
    return described


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor in memory of its own on the CPU, as safetensors needs it."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _file(name: str, content: bytes) -> tuple[dict[str, Any], bytes]:
    """A file's entry in bundle.json, and its content. Its name has part of its digest: no new file replaces an old."""
    digest = hashlib.sha256(content).hexdigest()
    return {"file": f"{name}-{digest[:8]}.safetensors", "bytes": len(content), "sha256": digest}, content


def _put(folder: Path, weights: Mapping[str, bytes], manifest: str) -> None:
    """Write a new bundle beside and rename it; in an old one replace bundle.json, which names the weights, last."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        _put_files(folder, weights, manifest)
        for file in folder.glob("model-*.safetensors"):
            if file.name not in weights:
                file.unlink()
        return
    staged = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        staged.mkdir()
        _put_files(staged, weights, manifest)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _put_files(folder: Path, weights: Mapping[str, bytes], manifest: str) -> None:
    for name, content in {**weights, MANIFEST: manifest.encode()}.items():
        with replacing(folder / name) as stream:
            stream.write(content)


def _read_manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise DataError(
            f"{folder} is no bundle: it has no {MANIFEST}. Name a folder that maskcls.train or tune.export wrote."
        )
    try:
        manifest = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is damaged: no JSON ({error}). Export the bundle again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(
            f'{file} is no bundle\'s: "format": "{FORMAT}" expected. '
            "Name a folder that maskcls.train or tune.export wrote."
        )
    if manifest.get("format_version") not in READ_VERSIONS:
        raise DataError(
            f"{folder} is a bundle of format version {manifest.get('format_version')}, "
            f"and this maskcls reads versions {' and '.join(map(str, READ_VERSIONS))}. "
            "Export it again with this version, or install the one that wrote it."
        )
    return manifest


def _read_model(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    file = folder / Path(entry["file"]).name
    if not file.is_file():
        raise DataError(f"The bundle {folder} lacks {file.name}. Copy the whole folder again, or export it again.")
    content = file.read_bytes()
    if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DataError(
            f"{file} is damaged: {entry['bytes']:,} bytes of SHA-256 {entry['sha256'][:12]}… expected, but got "
            f"{len(content):,} of {hashlib.sha256(content).hexdigest()[:12]}…. "
            "Copy it again, or export the bundle again."
        )
    return safetensors.torch.load(content)


def _rebuild(recipe: Recipe, states: Sequence[Mapping[str, Tensor]], versions: Mapping[str, str]) -> list[Model]:
    models = build_models(recipe, pretrained=False)
    for model, state in zip(models, states, strict=True):
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            wrote = ", ".join(f"{name} {number}" for name, number in versions.items() if name in ("timm", "torch"))
            raise DataError(
                f"its weights do not fit {model.recipe.backbone} as built here; it was written with {wrote} ({error})"
            ) from None
        model.eval().requires_grad_(False)
    return models
