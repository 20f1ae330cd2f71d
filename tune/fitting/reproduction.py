"""A recorded trial fitted again: its recipe and photos, and, segment by segment, the recorded threads, device and
micro-batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from maskcls.errors import CallError
from maskcls.files import expanded
from maskcls.machine import resolve_device, set_threads, use_deterministic_kernels
from maskcls.recipe import Recipe
from maskcls.text import first, shown
from maskcls.training.conditions import HARDWARE, Conditions, Segment, at_epoch, segments, unequal
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.result import EpochResult
from tune.fitting.curve import read_curve
from tune.fitting.request import RECIPE, RECIPE_FILE
from tune.runs.folder import DEFAULT_RUNS, SearchRun

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

_LISTED = 20


@dataclass(frozen=True)
class RecordedTrial:
    """A trial as its run's folder holds it."""

    run: Path
    trial_id: str
    recipe: Recipe
    segments: list[Segment]
    curve: list[dict[str, Any]]
    """Its epochs in order; fewer than the recipe's where it was stopped early."""

    @classmethod
    def open(cls, name: str) -> Self:
        """Open RUN/ID. RUN is a run's folder, or its name under runs/; leading zeros of ID may be missing.

        Raises CallError for an unknown run or trial, listing those that there are, and for a trial that began no fit.
        """
        run, trial_id = _run_folder(name), Path(name).name.zfill(4)
        there = sorted(file.parent.name for file in SearchRun(run).trials.glob(f"*/{RECIPE}"))
        if trial_id not in there:
            listed = first(there, _LISTED) or "none"
            raise CallError(f"--trial {name}: there is no trial {trial_id!r} in {run}. Trials there: {listed}.")
        folder = SearchRun(run).trial(trial_id)
        recorded = segments(folder)
        if not recorded:
            raise CallError(
                f"--trial {name}: {folder} has no {HARDWARE}, so this trial began no fit whose curve "
                "could be had again."
            )
        curve = read_curve(folder)
        file = folder / RECIPE
        with RECIPE_FILE.reading(file):
            recipe = Recipe.from_json(RECIPE_FILE.read_text(file))
        return cls(run, trial_id, recipe, recorded, curve)

    @property
    def title(self) -> str:
        return f"trial {self.trial_id} of {self.run.name}"


@dataclass(frozen=True)
class ReproducedEpoch:
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


class Reproduction:
    """Fits a recorded trial again. Its checkpoint lies in `folder`, so that a killed call goes on there.

    Args:
        device: to run on instead of the recorded one; None: the recorded one, or `auto` if this machine has none.
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
        self.compared: list[ReproducedEpoch] = []
        self._data = FitData.of(faces, trial.recipe, progress=True)
        self._plan = [
            (segment.from_epoch, self._here(segment.conditions, device, loader_workers)) for segment in trial.segments
        ]
        self.fit: Fit

    @property
    def differences(self) -> list[str]:
        """What is not as the trial recorded it, and may change the numbers."""
        found = [
            difference
            for (_, here), segment in zip(self._plan, self.trial.segments, strict=True)
            for difference in here.differences(segment.conditions)
        ]
        return list(dict.fromkeys(found))

    def epochs(self) -> Iterator[ReproducedEpoch]:
        """Yield every epoch of the recipe, those of a segment under its conditions. Raises Diverged."""
        ends = [begin - 1 for begin, _ in self._plan[1:]] + [self.trial.recipe.epochs]
        for (_, here), end in zip(self._plan, ends, strict=True):
            set_threads(here.threads)
            use_deterministic_kernels()
            self.fit = Fit(
                self.trial.recipe,
                self._data,
                here.device,
                here.loader_workers,
                micro_batch=here.micro_batch,
                validation_block=here.validation_block,
            )
            for result in self.fit.epochs(self.folder, last=end):
                if result.epoch > len(self.compared):
                    self.compared.append(self._compare(result))
                    yield self.compared[-1]

    def mismatches(self) -> list[int]:
        """Return the epochs that ran under the recorded conditions, like all before them, yet came out otherwise."""
        mine = segments(self.folder)
        alike = [_alike(at_epoch(mine, n), at_epoch(self.trial.segments, n)) for n in range(1, len(self.compared) + 1)]
        return [epoch.result.epoch for n, epoch in enumerate(self.compared, 1) if epoch.unequal and all(alike[:n])]

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
            validation_block=recorded.validation_block,
        )

    def _compare(self, result: EpochResult) -> ReproducedEpoch:
        if result.epoch > len(self.trial.curve):
            return ReproducedEpoch(result, None, [])
        recorded = self.trial.curve[result.epoch - 1]
        return ReproducedEpoch(result, float(recorded["validation_f1"]), unequal(recorded, result.to_row()))


def _nearest(device: str) -> str:
    """Return the recorded device, or what `auto` is if torch cannot use it here."""
    try:
        return resolve_device(device)
    except CallError:
        return resolve_device("auto")


def _alike(mine: Conditions | None, recorded: Conditions | None) -> bool:
    return mine is not None and recorded is not None and not mine.differences(recorded)


def _run_folder(name: str) -> Path:
    parent = expanded(name).parent
    places = [parent] if parent.is_absolute() else [parent, DEFAULT_RUNS / parent]
    for place in places:
        if Path(name).name and SearchRun(place).trials.is_dir():
            return place.absolute()
    there = ", ".join(sorted(str(folder.parent) for folder in DEFAULT_RUNS.glob("*/trials"))) or "none"
    raise CallError(
        f"--trial expects RUN/ID, as in runs/first/0007, but got '{shown(name)}', and {shown(parent)}/ holds no "
        f"search's trials. Searches under runs/: {there}."
    )
