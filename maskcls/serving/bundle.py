"""Bundle: an exported classifier, a folder of `bundle.json` and one safetensors file per model; and how it is read.

No pickle; it loads without Ray, Optuna and albumentations. It holds one classifier, or an ensemble: several, whose
probabilities are averaged by their weights (Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004).
Its probabilities are calibrated by a temperature, and a decision rule makes classes of them. `maskcls.serving.export`
writes format version 5; version 4, without a decision rule, version 3, without a temperature, and version 2, of one
classifier, can be read, too.

People it has seen (it trained on them, or was chosen by their score), and those of the holdout, are stored as hashes
(`maskcls.serving.people`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcls.data.geometry import Geometry
from maskcls.errors import CallError, DataError, Missing, NoSuchPath, is_out_of_memory
from maskcls.files import FileKind, number_of
from maskcls.labels import CLASS_NAMES
from maskcls.recipe import Recipe, digest_of
from maskcls.serving.calibration import Calibration
from maskcls.serving.decision import Decision, decided
from maskcls.serving.people import person_hash
from maskcls.task_split import TaskSplit
from maskcls.text import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maskcls.models.model import Model

MANIFEST = "bundle.json"
MANIFEST_FILE = FileKind("a description of a bundle: a JSON object", "Export the bundle again, or copy it again.")
FORMAT, FORMAT_VERSION, READ_VERSIONS = "maskcls-bundle", 5, (2, 3, 4, 5)
WEIGHTS_FILE = FileKind("weights, or a graph", "Copy the whole folder again, or export it again.", most_bytes=1 << 44)
OF_A_CLASSIFIER = ("task_split", "recipe", "recipe_digest", "preprocessing", "models", "weights_origin")
"""Keys of each classifier in bundle.json, beside its weight; in format version 2 they stood at the top."""
WEIGHTS_TOLERANCE = 1e-9
_MOST_SAID = 2000
"""Characters of what is wrong: a damaged field may be long."""
_BUNDLE = "a folder that maskcls.train or tune.export wrote"


@dataclass(frozen=True)
class Classifier:
    """A classifier as it was read; `weight` is its share of a prediction.

    `models` are in eval(), on the CPU; there are none where they were not asked for.
    """

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
    calibration: Calibration | None = None
    """None where none was fitted, and in bundles of earlier versions."""
    decision: Decision | None = None
    """None where the likeliest class is the answer, as in bundles of earlier versions."""

    @property
    def temperature(self) -> float:
        """What its probabilities are calibrated by; 1 changes nothing."""
        return self.calibration.temperature if self.calibration else 1.0

    def classes(self, probabilities: NDArray[np.float64], *, calibrated: bool = True) -> NDArray[np.int64]:
        """The classes (n,) of 0..17 that it decides for by probabilities (n, 18): the likeliest, or by its rule.

        Args:
            calibrated: whether the probabilities have gone through its temperature. The classes are the same.
        """
        return decided(self.decision, probabilities, self.temperature if calibrated else 1.0)

    @property
    def heaviest(self) -> Classifier:
        """The classifier with the largest share of a prediction."""
        return max(self.classifiers, key=lambda one: one.weight)

    def has_seen(self, person: str) -> bool:
        """Whether it trained on the person, or was chosen by a score on the person's photos."""
        return person_hash(person, self.split_digest) in self.people_hashes

    def is_held_out(self, person: str) -> bool:
        """Whether the person is in the holdout of the split that it was trained on."""
        return person_hash(person, self.split_digest) in self.holdout_hashes


def read_bundle(folder: Path, *, with_models: bool = True) -> Bundle:
    """Read a bundle and check every file.

    Args:
        with_models: whether to build the models, which takes torch; without, their files need not be there.

    Raises DataError: no bundle, another version, files missing or damaged.
    """
    manifest = read_manifest(folder)
    try:
        if manifest["format_version"] == 2:
            manifest = _from_version_2(manifest)
        if tuple(manifest["classes"]) != CLASS_NAMES:
            raise DataError("its classes are numbered in another way than this version's")
        classifiers = tuple(_read_classifier(folder, entry, manifest, with_models) for entry in manifest["classifiers"])
        check_weights([classifier.weight for classifier in classifiers])
        return Bundle(
            folder=folder,
            classifiers=classifiers,
            scores=dict(manifest["scores"]),
            data_digest=_text(manifest["data_digest"]),
            split_digest=_text(manifest["split_digest"]),
            people_hashes=frozenset(map(_text, manifest["people_hashes"])),
            holdout_hashes=frozenset(map(_text, manifest.get("holdout_hashes", ()))),
            manifest=manifest,
            calibration=Calibration.from_dict(manifest["calibration"]) if manifest.get("calibration") else None,
            decision=Decision.from_dict(manifest["decision"]) if manifest.get("decision") else None,
        )
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise DataError(
            f"{folder / MANIFEST} is damaged: {repr(error)[:_MOST_SAID]} while reading it. Export the bundle again."
        ) from None
    except (CallError, DataError) as error:
        if str(folder) in str(error):
            raise
        said = str(error)[:_MOST_SAID].rstrip(".")
        raise DataError(f"The bundle {folder} does not fit this version of maskcls: {said}. Export it again.") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of a bundle's bundle.json. Raises DataError: there is none, it is damaged, or of another version."""
    file = folder / MANIFEST
    if not folder.exists():
        raise NoSuchPath(f"{shown(folder)} does not exist. Expected {_BUNDLE}.")
    if not file.is_file():
        inside = sorted(folder.glob(f"*/{MANIFEST}"))  # as in a search's run, whose winner is in best/
        hint = f" Did you mean {shown(inside[0].parent)}?" if inside else ""
        raise DataError(f"{shown(folder)} is no bundle: it has no {MANIFEST}. Name {_BUNDLE}.{hint}")
    manifest = MANIFEST_FILE.read_object(file)
    if manifest.get("format") != FORMAT:
        raise DataError(f'{file} is no bundle\'s: "format": "{FORMAT}" expected. Name {_BUNDLE}.')
    if manifest.get("format_version") not in READ_VERSIONS:
        raise DataError(
            f"{folder} is a bundle of format version {str(manifest.get('format_version'))[:40]}, "
            f"and this maskcls reads versions {', '.join(map(str, READ_VERSIONS))}. "
            "Export it again with this version, or install the one that wrote it."
        )
    return manifest


def read_checked(folder: Path, entry: Mapping[str, Any]) -> bytes:
    """Read a file of a bundle by its entry in bundle.json. Raises DataError where it is missing or damaged."""
    file = folder / Path(entry["file"]).name
    size = entry["bytes"]
    if not isinstance(size, int) or size < 0:
        raise ValueError(f"{file.name} has {size!r} bytes")
    try:
        with WEIGHTS_FILE.opened(file) as stream:
            content = stream.read(size + 1)  # one byte too many says as much as all of them
    except Missing:
        raise DataError(
            f"The bundle {folder} lacks {file.name}. Copy the whole folder again, or export it again."
        ) from None
    if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DataError(
            f"{file} is damaged: {entry['bytes']:,} bytes of SHA-256 {entry['sha256'][:12]}… expected, but got "
            f"{len(content):,} of {hashlib.sha256(content).hexdigest()[:12]}…. "
            "Copy it again, or export the bundle again."
        )
    return content


def check_weights(weights: Sequence[float]) -> None:
    """Raises CallError unless classifiers' weights are positive and sum to 1."""
    if not weights or min(weights) <= 0 or not abs(sum(weights) - 1) <= WEIGHTS_TOLERANCE:  # so that nan fails
        raise CallError(f"The classifiers' weights must be positive and sum to 1, but are {list(weights)}.")


def describe(split: TaskSplit) -> dict[str, Any]:
    """A task split as bundle.json has it: its name, its tasks with their labels' numbers, models, and advisers."""
    return {
        "name": split.name,
        "tasks": [
            {"name": task.name, "label_names": list(task.label_names), "labels": list(task.labels)}
            for task in split.tasks
        ],
        "models": [[task.name for task in tasks] for tasks in split.models],
        "advisers": [task.name for task in split.advisers],
    }


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text"[:400])
    return value


def _from_version_2(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest of format version 2, of one classifier, as later versions have it."""
    classifier = {"weight": 1.0, **{key: manifest[key] for key in OF_A_CLASSIFIER}}
    kept = {key: value for key, value in manifest.items() if key not in OF_A_CLASSIFIER}
    return {**kept, "format_version": FORMAT_VERSION, "classifiers": [classifier]}


def _read_classifier(
    folder: Path, entry: Mapping[str, Any], manifest: Mapping[str, Any], with_models: bool
) -> Classifier:
    recipe = Recipe.from_json(json.dumps(entry["recipe"]))
    split = recipe.split
    geometry = Geometry.from_dict(entry["preprocessing"]["geometry"])
    if geometry != Geometry(recipe.image_size, recipe.face_crop):
        raise DataError(
            f"its photos are cut by {geometry}, but its recipe has {recipe.image_size} px and {recipe.face_crop}"
        )
    if entry["recipe_digest"] != digest_of(entry["recipe"]):
        raise DataError(f"its recipe has another digest than {entry['recipe_digest']}")
    if entry["task_split"] != describe(split):
        raise DataError(f"its tasks are numbered in another way than this version's {split.name}")
    models: list[Model] = []
    if with_models:
        from maskcls.serving.bundle_models import read_models  # imports torch and timm

        models = read_models(folder, entry, recipe, manifest["versions"])
    return Classifier(
        weight=number_of(entry["weight"]),
        recipe=recipe,
        task_split=split,
        models=models,
        geometry=geometry,
        weights_origin=str(entry["weights_origin"]),
    )
