"""The exported classifier, a folder: `bundle.json` and one safetensors file a model. No pickle; loads without Ray, Optuna, albumentations.

People it has seen, those it trained on and those by whose score it was chosen, are kept as salted hashes, so that a bundle handed
on does not list them, and yet `maskcls.evaluate` can tell whom it has seen. The salt is the split's digest. Short names can be
guessed, so this hides them from readers, not from attackers.
"""

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
from maskcls.files import replacing
from maskcls.labels import CLASS_NAMES
from maskcls.models.backbones import normalisation as normalisation_of
from maskcls.models.model import Model, build_models
from maskcls.recipe import Recipe
from maskcls.task_split import TaskSplit
from maskcls.tasks import Task

if TYPE_CHECKING:
    from maskcls.data.facedata import FaceData

MANIFEST = "bundle.json"
FORMAT, FORMAT_VERSION = "maskcls-bundle", 2
HASH_DIGITS = 16
"""64 bits: among a million people the odds that any two share a hash are 1 in 40 million."""
LIBRARIES = ("maskcls", "torch", "timm", "safetensors", "numpy", "opencv-python-headless")
Normalisation = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation, RGB, of pixels in 0..1."""


@dataclass(frozen=True)
class Bundle:
    """A classifier read from its folder; `models` are in eval(), on the CPU."""

    folder: Path
    recipe: Recipe
    task_split: TaskSplit
    models: list[Model]
    geometry: Geometry
    scores: dict[str, Any]
    data_digest: str
    split_digest: str
    people_hashes: frozenset[str]
    weights_origin: str
    manifest: dict[str, Any]

    def has_seen(self, person: str) -> bool:
        """Whether the person was among those whom it trained on, or by whose score it was chosen."""
        return person_hash(person, self.split_digest) in self.people_hashes


def person_hash(person: str, split_digest: str) -> str:
    """16 hex digits of SHA-256 over the split's digest and the person."""
    return hashlib.sha256(f"{split_digest}:{person}".encode()).hexdigest()[:HASH_DIGITS]


def write_bundle(
    folder: Path,
    recipe: Recipe,
    states: Sequence[Mapping[str, Tensor]],
    geometry: Geometry,
    normalisations: Sequence[Normalisation],
    scores: Mapping[str, Any],
    data_digest: str,
    split_digest: str,
    seen_people: Sequence[str],
    weights_origin: str,
    *,
    overwrite: bool = False,
) -> None:
    """Write a bundle so that, whenever this is interrupted, `folder` holds a whole one: the old, the new, or none.

    Args:
        states: a complete Model state dict for each model, in the order of the recipe's task split.
        normalisations: the backbones' mean and std, told to readers; what a model computes with is in its state, and must agree.
        scores: what it scored where, ready for JSON.
        weights_origin: where training began, as in `resnet10t from hub`.
        overwrite: replace the bundle that is there.

    Raises:
        CallError: `folder` exists and is no bundle, or is one and `overwrite` is not given; states that do not fit the recipe.
    """
    check_writable(folder, overwrite=overwrite)
    files = [(_model_name(tasks), safetensors.torch.save(_plain(state))) for tasks, state in _paired(recipe, states)]
    entries = [_entry(name, content) for name, content in files]
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        "classes": CLASS_NAMES,
        "task_split": _describe(recipe.split),
        "recipe": recipe.model_dump(),
        "recipe_digest": recipe.digest,
        "preprocessing": {
            "geometry": geometry.to_dict(),
            "normalisation": [_agreed(stated, state) for stated, state in zip(normalisations, states, strict=True)],
        },
        "models": entries,
        "scores": dict(scores),
        "data_digest": data_digest,
        "split_digest": split_digest,
        "people_hashes": sorted(person_hash(person, split_digest) for person in set(seen_people)),
        "weights_origin": weights_origin,
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    _put(folder, {entry["file"]: content for entry, (_, content) in zip(entries, files, strict=True)}, text)


def export(
    folder: Path,
    recipe: Recipe,
    states: Sequence[Mapping[str, Tensor]],
    *,
    scores: Mapping[str, Any],
    faces: "FaceData",
    overwrite: bool = False,
) -> None:
    """`write_bundle` for a fit of a recipe on `faces`: it trained on the training people, and the validation people chose its epoch."""
    write_bundle(
        folder,
        recipe,
        states,
        Geometry(recipe.image_size, recipe.face_crop),
        [normalisation_of(recipe.of_model(tasks).backbone) for tasks in recipe.split.models],
        scores,
        data_digest=faces.digest,
        split_digest=faces.split.digest,
        seen_people=(*faces.split.train, *faces.split.validation),
        weights_origin=f"{', '.join(recipe.backbones)} from {recipe.weights}",
        overwrite=overwrite,
    )


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raises CallError where `write_bundle` would refuse the folder: ask before the training, not after it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        raise CallError(f"{folder} exists and is no bundle (it has no {MANIFEST}). Name a new folder.")
    if not overwrite:
        raise CallError(f"{folder} holds a bundle already. Name a new folder, or give --overwrite.")


def read_bundle(folder: Path) -> Bundle:
    """The classifier in a folder, every file checked. Raises DataError: no bundle, another version, files missing or damaged."""
    manifest = _read_manifest(folder)
    try:
        recipe = Recipe.from_json(json.dumps(manifest["recipe"]))
        split = recipe.split
        geometry = Geometry.from_dict(manifest["preprocessing"]["geometry"])
        if manifest["task_split"] != _describe(split) or tuple(manifest["classes"]) != CLASS_NAMES:
            raise DataError(f"its tasks or classes are numbered in another way than this version's {split.name}")
        states = [_read_model(folder, entry) for entry in manifest["models"]]
        return Bundle(
            folder=folder,
            recipe=recipe,
            task_split=split,
            models=_rebuild(recipe, states, manifest),
            geometry=geometry,
            scores=manifest["scores"],
            data_digest=manifest["data_digest"],
            split_digest=manifest["split_digest"],
            people_hashes=frozenset(manifest["people_hashes"]),
            weights_origin=manifest["weights_origin"],
            manifest=manifest,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / MANIFEST} is damaged: {error!r} while reading it. Export the bundle again.") from None
    except (CallError, DataError) as error:
        if str(folder) in str(error):
            raise
        raise DataError(f"The bundle {folder} does not fit this version of maskcls: {str(error).rstrip('.')}. Export it again.") from None


def _describe(split: TaskSplit) -> dict[str, Any]:
    return {
        "name": split.name,
        "tasks": [{"name": task.name, "label_names": list(task.label_names), "labels": list(task.labels)} for task in split.tasks],
        "models": [[task.name for task in tasks] for tasks in split.models],
        "advisers": [task.name for task in split.advisers],
    }


def _model_name(tasks: Sequence[Task]) -> str:
    return f"model-{'+'.join(task.name for task in tasks)}"


def _paired(recipe: Recipe, states: Sequence[Mapping[str, Tensor]]) -> list[tuple[tuple[Task, ...], Mapping[str, Tensor]]]:
    models = recipe.split.models
    if len(states) != len(models):
        raise CallError(f"Task split {recipe.task_split} has {len(models)} models, but got {len(states)} states.")
    return list(zip(models, states, strict=True))


def _agreed(normalisation: Normalisation, state: Mapping[str, Tensor]) -> dict[str, list[float]]:
    described = {}
    for name, stated in zip(("mean", "std"), normalisation, strict=True):
        used = [value / 255 for value in state[name].flatten().tolist()]
        if any(abs(a - b) > 1e-6 for a, b in zip(used, stated, strict=True)):
            raise CallError(f"A model's {name} is {used}, but {list(stated)} was given. Give the backbone's own.")
        described[name] = list(stated)
    return described


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own on the CPU, as safetensors asks for."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}


def _entry(name: str, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    return {"file": f"{name}-{digest[:8]}.safetensors", "bytes": len(content), "sha256": digest}


def _put(folder: Path, weights: Mapping[str, bytes], manifest: str) -> None:
    """A new bundle is written beside and renamed; in an old one bundle.json, which names the weights, is replaced last."""
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
        raise DataError(f"{folder} is no bundle: it has no {MANIFEST}. Name a folder that maskcls.train or tune.export wrote.")
    try:
        manifest = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is damaged: no JSON ({error}). Export the bundle again.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f'{file} is no bundle\'s: "format": "{FORMAT}" expected. Name a folder that maskcls.train or tune.export wrote.')
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{folder} is a bundle of format version {manifest.get('format_version')}, and this maskcls reads version {FORMAT_VERSION}. "
            f"Export it again with this version, or install the one that wrote it."
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
            f"{len(content):,} of {hashlib.sha256(content).hexdigest()[:12]}…. Copy it again, or export the bundle again."
        )
    return safetensors.torch.load(content)


def _rebuild(recipe: Recipe, states: Sequence[Mapping[str, Tensor]], manifest: Mapping[str, Any]) -> list[Model]:
    models = build_models(recipe, pretrained=False)
    for model, state in zip(models, states, strict=True):
        try:
            model.load_state_dict(dict(state))
        except RuntimeError as error:
            wrote = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items() if name in ("timm", "torch"))
            raise DataError(
                f"its weights do not fit {model.recipe.backbone} as built here; it was written with {wrote} ({error})"
            ) from None
        model.eval().requires_grad_(False)
    return models
