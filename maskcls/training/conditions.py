"""What a trial of a search records besides its numbers, so that its curve can be reproduced. In RUN/trials/ID/:

    recipe.json     every key of its recipe
    epochs.jsonl    its curve, one JSON object per epoch: epoch, validation_f1, train_loss, photos, scores, and times
    hardware.json   what else its numbers depend on, a list of segments: from_epoch, and the fields of Conditions

RUN/data/ holds the photos and the split of the run. A trial that was resumed with other threads, or on other hardware,
has a segment for each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from maskcls.errors import Missing
from maskcls.files import FileKind, write_atomically
from maskcls.machine import hardware_name, library_versions
from maskcls.recipe import Recipe
from maskcls.text import counted

HARDWARE = "hardware.json"
NUMBERS = ("validation_f1", "train_loss", "photos", "scores")
"""The fields of an epoch that are the same when it is computed again: all except times."""
_ADDED = {"validation_block": 0}
"""Fields that were added after some runs were made, and what these had."""
_COUNTS = ("threads", "micro_batch", "loader_workers", "validation_block")
HARDWARE_FILE = FileKind(
    "a list of segments, each with from_epoch and the conditions of its epochs",
    "Move it away: the fit then counts as one that recorded nothing.",
)
_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "albumentations")


@dataclass(frozen=True)
class Conditions:
    """What a fit's numbers depend on besides its recipe."""

    threads: int
    device: str
    """torch's name, as in `cpu` or `cuda`."""
    hardware: str
    """The GPU's name, or the CPU's model and the instruction set that torch uses."""
    micro_batch: int
    """Photos that go through a model at once at most, in training; a whole batch or less."""
    loader_workers: int
    """Processes that augment. The one field that changes no number."""
    data: str
    """Digest of photos, labels and split."""
    versions: dict[str, str]
    """By package; `maskcls` is a digest of its code."""
    validation_block: int = 0
    """Photos that go through a model at once in validation, where the memory was short; 0: as many as usual."""

    @classmethod
    def now(
        cls,
        recipe: Recipe,
        data_digest: str,
        *,
        device: str,
        threads: int,
        loader_workers: int,
        micro_batch: int = 0,
        validation_block: int = 0,
    ) -> Self:
        """The conditions of a fit in this process.

        Args:
            data_digest: of photos, labels and split.
            micro_batch: as `Fit` takes it; 0 for whole batches.
            validation_block: as `Fit` takes it; 0 for the usual one.
        """
        versions = {**{name: version(name) for name in _PACKAGES}, **library_versions(device), "maskcls": code_digest()}
        whole = whole_batch(recipe)
        return cls(
            threads,
            device,
            hardware_name(device),
            min(micro_batch or whole, whole),
            loader_workers,
            data_digest,
            versions,
            validation_block,
        )

    def differences(self, recorded: Conditions) -> list[str]:
        """What differs from the recorded conditions and may change the numbers, as in `2 threads instead of 1`."""
        found = [] if self.threads == recorded.threads else [f"{self.threads} threads instead of {recorded.threads}"]
        for name in ("device", "hardware", "micro_batch", "validation_block", "data"):
            mine, theirs = getattr(self, name), getattr(recorded, name)
            found += [] if mine == theirs else [f"{name.replace('_', '-')} {mine} instead of {theirs}"]
        for name in sorted(self.versions.keys() | recorded.versions.keys()):
            mine, theirs = self.versions.get(name, "none"), recorded.versions.get(name, "none")
            found += [] if mine == theirs else [f"{name} {mine} instead of {theirs}"]
        return found

    def __str__(self) -> str:
        where = f"{counted(self.threads, 'thread')} on {self.device} ({self.hardware})"
        return f"{where}, micro-batch {self.micro_batch}, torch {self.versions.get('torch')}"


def whole_batch(recipe: Recipe) -> int:
    """Photos in a batch; in the largest, where members have batch sizes of their own."""
    return max(recipe.of_model(tasks).batch_size for tasks in recipe.split.models)


@dataclass(frozen=True)
class Segment:
    """The conditions of the epochs from `from_epoch` (1-based) on, up to the next segment's first."""

    from_epoch: int
    conditions: Conditions


def note(folder: Path, conditions: Conditions, *, done: int, epochs: int) -> None:
    """Record that the epochs after `done` of `epochs` run under these conditions. Called as a fit begins or resumes."""
    if done >= epochs:
        return
    # A start that was killed before its first epoch may have left a segment without epochs.
    kept = [segment for segment in segments(folder) if segment.from_epoch <= done]
    if not kept or kept[-1].conditions != conditions:
        kept.append(Segment(done + 1, conditions))
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, kept)


def forget_unfinished(folder: Path, *, done: int) -> None:
    """Take away the segments that no epoch of the `done` ones ran under."""
    kept = [segment for segment in segments(folder) if segment.from_epoch <= done]
    if kept:
        _write(folder, kept)
    else:
        (folder / HARDWARE).unlink(missing_ok=True)


def _write(folder: Path, recorded: Sequence[Segment]) -> None:
    rows = [{"from_epoch": segment.from_epoch, **asdict(segment.conditions)} for segment in recorded]
    write_atomically(folder / HARDWARE, json.dumps(rows, indent=2) + "\n")


def segments(folder: Path) -> list[Segment]:
    """What a fit in this folder has run with so far; empty if none began. Raises Damaged."""
    file = folder / HARDWARE
    names = [field.name for field in fields(Conditions)]
    try:
        with HARDWARE_FILE.reading(file):
            return [
                Segment(int(row["from_epoch"]), _checked({name: {**_ADDED, **row}[name] for name in names}))
                for row in HARDWARE_FILE.read_json(file)
            ]
    except Missing:
        return []


def _checked(values: Mapping[str, Any]) -> Conditions:
    """The conditions with these values. Raises TypeError where one is of another type."""
    for name, value in values.items():
        expected = int if name in _COUNTS else dict if name == "versions" else str
        if not isinstance(value, expected):
            raise TypeError(f"{name} is {value!r}")
    return Conditions(**values)


def at_epoch(recorded: Sequence[Segment], epoch: int) -> Conditions | None:
    """The conditions of an epoch (1-based); None if they were not recorded."""
    return next((segment.conditions for segment in reversed(recorded) if segment.from_epoch <= epoch), None)


def unequal(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    """Names of an epoch's fields, except times, that differ from the recorded ones in any bit."""
    return [name for name in NUMBERS if json.dumps(recorded.get(name)) != json.dumps(computed.get(name))]


@cache
def code_digest() -> str:
    """12 hexadecimal digits over the names and contents of maskcls's modules."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
