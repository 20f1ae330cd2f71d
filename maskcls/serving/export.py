"""Writes a bundle (`maskcls.serving.bundle`), and adds scores to one."""

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
from maskcls.errors import CallError, RunError
from maskcls.files import check_writable_name, replacing, write_atomically
from maskcls.labels import CLASS_NAMES
from maskcls.models.backbones import normalisation
from maskcls.models.weights import not_finite
from maskcls.recipe import Recipe
from maskcls.serving.bundle import FORMAT, FORMAT_VERSION, MANIFEST, check_weights, describe, read_manifest
from maskcls.serving.calibration import Calibration
from maskcls.serving.decision import Decision
from maskcls.serving.people import person_hashes
from maskcls.tasks import Task

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

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


def write_bundle(
    folder: Path,
    classifiers: Sequence[Trained],
    scores: Mapping[str, Any],
    *,
    data_digest: str,
    split_digest: str,
    seen_people: Sequence[str],
    holdout_people: Sequence[str] = (),
    calibration: Calibration | None = None,
    decision: Decision | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bundle so that, whenever this is interrupted, `folder` holds a whole one: the old, the new, or none.

    Args:
        scores: its scores by where they were measured, ready for JSON.
        seen_people: people on whom any of the classifiers trained, or by whom it was chosen.
        holdout_people: people who were kept out of both.
        calibration: of the bundle's probabilities; None: they stay as they are.
        decision: the rule that makes classes of them; None: the likeliest one.
        overwrite: whether a bundle that is there is replaced.

    Raises:
        CallError: `folder` exists and is no bundle, or is one and `overwrite` is False; states do not fit their recipe;
            weights are not positive with the sum 1.
        RunError: a state is not finite.
    """
    check_writable(folder, overwrite=overwrite)
    check_weights([trained.weight for trained in classifiers])
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
        "calibration": calibration and calibration.to_dict(),
        "decision": decision and decision.to_dict(),
    }
    _put(folder, contents, _json(manifest))


def export(
    folder: Path,
    recipe: Recipe,
    states: Sequence[Mapping[str, Tensor]],
    *,
    scores: Mapping[str, Any],
    faces: FaceDataset,
    calibration: Calibration | None = None,
    decision: Decision | None = None,
    overwrite: bool = False,
) -> None:
    """Export a single fit with `export_classifiers`."""
    trained = [Trained(recipe, states)]
    export_classifiers(
        folder,
        trained,
        scores=scores,
        faces=faces,
        calibration=calibration,
        decision=decision,
        overwrite=overwrite,
    )


def export_classifiers(
    folder: Path,
    classifiers: Sequence[Trained],
    *,
    scores: Mapping[str, Any],
    faces: FaceDataset,
    calibration: Calibration | None = None,
    decision: Decision | None = None,
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
        calibration=calibration,
        decision=decision,
        overwrite=overwrite,
    )


def note_scores(folder: Path, scores: Mapping[str, Any]) -> None:
    """Add scores to a bundle that were measured after it was written. Replaces bundle.json, in one step."""
    manifest = read_manifest(folder)
    manifest["scores"] = {**manifest["scores"], **scores}
    write_atomically(folder / MANIFEST, _json(manifest))


def note_fitted(folder: Path, calibration: Calibration | None, decision: Decision | None) -> None:
    """Give a bundle that was written another calibration and decision rule, or none. Replaces bundle.json, in one step.

    A bundle of format version 2 stays as it is: in another version it would be another bundle to the holdout's counts.
    """
    manifest = read_manifest(folder)
    changed = {
        "format_version": FORMAT_VERSION,
        "calibration": calibration and calibration.to_dict(),
        "decision": decision and decision.to_dict(),
    }
    if manifest["format_version"] == 2:
        return
    write_atomically(folder / MANIFEST, _json({**manifest, **changed}))


def note_entry(folder: Path, key: str, entry: Mapping[str, Any]) -> None:
    """Put an entry into a bundle's bundle.json, in one step: what is derived from its models, as a graph."""
    write_atomically(folder / MANIFEST, _json({**read_manifest(folder), key: dict(entry)}))


def check_writable(folder: Path, *, overwrite: bool) -> None:
    """Raise CallError if `write_bundle` would refuse the folder: to be asked before the training, not after it."""
    check_writable_name(
        folder, "--out", f".{os.getpid()}.state"
    )  # beside it stand the checkpoint and a bundle half done
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST).is_file():
        raise CallError(f"{folder} exists and is no bundle (it has no {MANIFEST}). Name a new folder.")
    if not overwrite:
        raise CallError(f"{folder} holds a bundle already. Name a new folder, or give --overwrite.")


def _serialised(trained: Trained, prefix: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """A classifier's entry in bundle.json, and the contents of its files by their names."""
    recipe = trained.recipe
    paired = _paired(recipe, trained.states)
    for _, state in paired:
        name = not_finite(state)
        if name:
            raise RunError(f"The weights {name} are not finite, so no bundle is made of them. Export another trial.")
    files = [
        _file(f"{prefix}-{'+'.join(task.name for task in tasks)}", safetensors.torch.save(_plain(state)))
        for tasks, state in paired
    ]
    entry = {
        "weight": trained.weight,
        "task_split": describe(recipe.split),
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
        for file in (*folder.glob("model-*.safetensors"), *folder.glob("classifier*.onnx")):
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
    for name, content in {**weights, MANIFEST: manifest.encode(errors="backslashreplace")}.items():
        with replacing(folder / name) as stream:
            stream.write(content)
