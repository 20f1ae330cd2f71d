"""A trial of a search fitted once more: its recipe and photos, and, stretch by stretch, the recorded threads, device and micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.errors import CallError
from maskcls.machine import resolve_device, set_threads, use_deterministic_kernels
from maskcls.training.conditions import Conditions, RecordedTrial, at_epoch, note, segments, told_of, unequal
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.result import EpochResult

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset


@dataclass(frozen=True)
class Answer:
    """An epoch computed again beside the recorded one."""

    result: EpochResult
    recorded: float | None
    """The recorded validation F1; None where the trial has no such epoch."""
    unequal: list[str]
    """Which of its numbers are not the recorded ones to the bit."""

    def __str__(self) -> str:
        if self.recorded is None:
            return "not recorded: the trial was stopped before"
        if not self.unequal:
            return "equal to the recorded epoch"
        if "validation_f1" in self.unequal:
            return f"NOT equal to the recorded epoch, whose validation F1 is {self.recorded:.4f}"
        return f"validation F1 equal to the recorded epoch, NOT so {', '.join(self.unequal)}"


class Again:
    """The fit of a recorded trial, kept in `folder` as any fit is, so that it can be killed and goes on there.

    Args:
        device: to run on instead of the recorded one; None: the recorded one, or `auto` where it is not to be had.
        loader_workers: instead of the recorded number.
    """

    def __init__(
        self,
        trial: RecordedTrial,
        faces: FaceDataset,
        folder: Path,
        *,
        device: str | None = None,
        loader_workers: int | None = None,
    ) -> None:
        self.trial, self.folder = trial, folder
        self.answers: list[Answer] = []
        self._data = FitData.of(faces, trial.recipe, progress=True)
        self._plan = [
            (segment.from_epoch, self._here(segment.conditions, device, loader_workers)) for segment in trial.segments
        ]
        self.fit: Fit

    @property
    def differences(self) -> list[str]:
        """What is not as the trial recorded it, and may make other numbers."""
        said = [
            difference
            for (_, here), segment in zip(self._plan, self.trial.segments, strict=True)
            for difference in here.differences(segment.conditions)
        ]
        return list(dict.fromkeys(said))

    def epochs(self) -> Iterator[Answer]:
        """All epochs of the recipe, those of a stretch under its conditions. Raises Diverged."""
        epochs = self.trial.recipe.epochs
        ends = [begin - 1 for begin, _ in self._plan[1:]] + [epochs]
        for (_, here), end in zip(self._plan, ends, strict=True):
            set_threads(here.threads)
            use_deterministic_kernels()
            self.fit = Fit(
                self.trial.recipe, self._data, here.device, here.loader_workers, micro_batch=here.micro_batch
            )
            done = len(self.fit.history) if self.fit.resume(self.folder) else 0
            if done < end:
                note(self.folder, here, done=done, epochs=epochs)
            for result in self.fit.epochs():
                if result.epoch > done:
                    self.fit.save(self.folder)
                if result.epoch > len(self.answers):
                    self.answers.append(self._answer(result))
                    yield self.answers[-1]
                if result.epoch >= max(end, done):
                    break

    def wrong(self) -> list[int]:
        """Epochs that ran, like all before them, as the trial's did, and yet are not equal to them."""
        mine = segments(self.folder)
        alike = [_alike(at_epoch(mine, n), at_epoch(self.trial.segments, n)) for n in range(1, len(self.answers) + 1)]
        return [answer.result.epoch for n, answer in enumerate(self.answers, 1) if answer.unequal and all(alike[:n])]

    def _here(self, recorded: Conditions, device: str | None, loader_workers: int | None) -> Conditions:
        workers = recorded.loader_workers if loader_workers is None else loader_workers
        here = resolve_device(device) if device else _nearest(recorded.device)
        return Conditions.now(
            self.trial.recipe,
            self._data.digest,
            device=here,
            threads=recorded.threads,
            loader_workers=workers,
            micro_batch=recorded.micro_batch,
        )

    def _answer(self, result: EpochResult) -> Answer:
        if result.epoch > len(self.trial.curve):
            return Answer(result, None, [])
        recorded = self.trial.curve[result.epoch - 1]
        return Answer(result, float(recorded["validation_f1"]), unequal(recorded, told_of(result)))


def _nearest(device: str) -> str:
    """The recorded device, or what `auto` is where torch cannot use it here."""
    try:
        return resolve_device(device)
    except CallError:
        return resolve_device("auto")


def _alike(mine: Conditions | None, recorded: Conditions | None) -> bool:
    return mine is not None and recorded is not None and not mine.differences(recorded)
