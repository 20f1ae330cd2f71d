"""What a trial of a search records, so that its curve can be had again. In RUN/trials/ID/:

    recipe.json     every key of its recipe
    epochs.jsonl    its curve, a JSON object an epoch: epoch, validation_f1, train_loss, photos, scores, and times
    hardware.json   what its numbers hang on besides, a list of stretches: from_epoch, and the fields of Conditions

RUN/data/ holds the photos and the split of the run. A trial that was resumed with other threads, or elsewhere, has a stretch for each.
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

from maskcls.errors import DataError
from maskcls.files import write_atomically
from maskcls.recipe import Recipe
from maskcls.text import counted

HARDWARE = "hardware.json"
NUMBERS = ("validation_f1", "train_loss", "photos", "scores")
"""What of an epoch is the same where it is computed again: all but times."""
_PACKAGES = ("torch", "timm", "numpy", "opencv-python-headless", "albumentations")


@dataclass(frozen=True)
class Conditions:
    """What a fit's numbers hang on beside its recipe."""

    threads: int
    device: str
    """torch's name, as in `cpu` or `cuda`."""
    hardware: str
    """Name of the GPU; of the CPU its model and the instructions that torch uses of it."""
    micro_batch: int
    """Photos that go through a model at a time at most, in training; a whole batch or less."""
    loader_workers: int
    """Processes that augment. The one field that changes no number."""
    data: str
    """Digest of photos, labels and split."""
    versions: dict[str, str]
    """By package; `maskcls` is a digest of its code."""

    @classmethod
    def now(
        cls, recipe: Recipe, data_digest: str, *, device: str, threads: int, loader_workers: int, micro_batch: int = 0
    ) -> Self:
        """Those of a fit in this process. `micro_batch`: as `Fit` is given it, 0 for whole batches."""
        from maskcls.machine import hardware_name, library_versions

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
        )

    def differences(self, recorded: Conditions) -> list[str]:
        """What may make other numbers than the recorded conditions did, as in `2 threads instead of 1`; empty where nothing may."""
        said = [] if self.threads == recorded.threads else [f"{self.threads} threads instead of {recorded.threads}"]
        for name in ("device", "hardware", "micro_batch", "data"):
            mine, theirs = getattr(self, name), getattr(recorded, name)
            said += [] if mine == theirs else [f"{name.replace('_', '-')} {mine} instead of {theirs}"]
        for name in sorted(self.versions.keys() | recorded.versions.keys()):
            mine, theirs = self.versions.get(name, "none"), recorded.versions.get(name, "none")
            said += [] if mine == theirs else [f"{name} {mine} instead of {theirs}"]
        return said

    def __str__(self) -> str:
        return f"{counted(self.threads, 'thread')} on {self.device} ({self.hardware}), micro-batch {self.micro_batch}, torch {self.versions.get('torch')}"


def whole_batch(recipe: Recipe) -> int:
    """Photos of a batch; of the largest, where members have batches of their own."""
    return max(recipe.of_model(tasks).batch_size for tasks in recipe.split.models)


@dataclass(frozen=True)
class Segment:
    """The conditions of the epochs from one (1-based) on, up to the next stretch's first."""

    from_epoch: int
    conditions: Conditions


def note(folder: Path, conditions: Conditions, *, done: int, epochs: int) -> None:
    """Record that the epochs after `done` of `epochs` run under these conditions. Called as a fit begins or is taken up again."""
    if done >= epochs:
        return
    kept = [
        segment for segment in segments(folder) if segment.from_epoch <= done
    ]  # a killed start may have left one without an epoch
    if not kept or kept[-1].conditions != conditions:
        kept.append(Segment(done + 1, conditions))
    told = [{"from_epoch": segment.from_epoch, **asdict(segment.conditions)} for segment in kept]
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / HARDWARE, json.dumps(told, indent=2) + "\n")


def segments(folder: Path) -> list[Segment]:
    """What a fit in this folder ran with so far; empty where none began. Raises DataError where the file is damaged."""
    file = folder / HARDWARE
    if not file.exists():
        return []
    names = [field.name for field in fields(Conditions)]
    try:
        return [
            Segment(int(told["from_epoch"]), Conditions(**{name: told[name] for name in names}))
            for told in json.loads(file.read_text())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} can't be read ({error!r}). Expected a list of stretches, each with from_epoch, {', '.join(names)}."
        ) from None


def at_epoch(recorded: Sequence[Segment], epoch: int) -> Conditions | None:
    """The conditions of an epoch (1-based); None where they were not recorded."""
    return next((segment.conditions for segment in reversed(recorded) if segment.from_epoch <= epoch), None)


def unequal(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    """Names of the numbers of an epoch, times apart, that are not the recorded ones to the bit."""
    return [name for name in NUMBERS if json.dumps(recorded.get(name)) != json.dumps(computed.get(name))]


@cache
def code_digest() -> str:
    """Of maskcls's own modules, 12 hexadecimal digits."""
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
