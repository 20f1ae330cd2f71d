"""The fits of a comparison. Each is trained on a repeat's people, and answers the photos of people whom neither training nor the choice
of the epoch has seen.

Beside what every fit leaves: answers.csv, a row a tested photo: key, truth, `answer`, and `answer:<treatment>` of each other reading.
A reading that fails has no such column, and in result.json a message in the place of its scores; the others are as they are without it.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls import machine
from maskcls.files import write_atomically, write_csv
from maskcls.stores.arrays import CacheOptions
from maskcls.training.conditions import told_of
from tune.compare.arms import Arm, PlannedComparison
from tune.compare.treatments import Treatment, find
from tune.fitting.failures import explain, is_unfit, state_of, write_error
from tune.fitting.pool import FitRequest, has_ended, read_result
from tune.runs.folder import ComparisonRun
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult

Classes = NDArray[np.int64]

ANSWERS = "answers.csv"
PLAIN = "answer"


def column(reading: str) -> str:
    """The column of answers.csv that holds a reading's answers; "" is the plain one."""
    return f"{PLAIN}:{reading}" if reading else PLAIN


def requests(
    run: ComparisonRun,
    comparisons: Sequence[PlannedComparison],
    splits: Sequence[Split],
    data_digest: str,
    *,
    folds: int,
    cpus: int,
    gpus: float,
) -> list[FitRequest]:
    """Every different fit once, repeat by repeat, so that what is done early can be compared early.

    A fit that was read before is asked for those readings again, for done again (`is_evaluated`) it replaces what it was.
    """
    arms: dict[str, tuple[int, Arm, set[str], str]] = {}
    for number, split in enumerate(splits):
        for name, arm in ((planned.name, arm) for planned in comparisons for arm in planned.arms):
            label = f"{name}: {arm.name}" if len(comparisons) > 1 else arm.name
            fit_id = arm.fit_id(number, split.digest, data_digest)
            readings = arms.setdefault(fit_id, (number, arm, set(), f"{label}, repeat {number + 1}"))[2]
            readings |= {arm.treatment} - {arm.trained}
    asked = []
    for fit_id, (number, arm, readings, label) in arms.items():
        done = read_result(run.fit(fit_id))
        had = set(done["settings"]["readings"]) if done else set()
        settings = {
            "repeat": number,
            "split": str(run.repeat(folds, number).relative_to(run.path)),
            "treatment": arm.trained,
            "readings": sorted(readings | had),
        }
        recipe = arm.recipe.override({"seed": number}).model_dump()
        asked.append(FitRequest(fit_id, recipe, run.fit(fit_id), run.path, cpus, gpus, settings, label))
    return asked


def is_evaluated(request: FitRequest, result: Mapping[str, Any]) -> bool:
    """Whether a result answers its request. A fit that was not read as a variant wants it must be done again: its weights are gone.

    A reading that failed would fail again, and so counts as read.
    """
    missing = set(request.settings["readings"]) - set(result["settings"]["readings"])
    return has_ended(request, result) and (result["state"] != TrialState.COMPLETE or not missing)


def fit_and_answer(request: FitRequest, *, cache: CacheOptions) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of one fit. `settings` hold `split` (a repeat's file), `treatment` (trained with), `readings` (treatments to read with).

    Args:
        cache: where decoded photos and frozen features are kept.
    """
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from maskcls.machine import default_loader_workers, set_threads
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData

    set_threads(max(1, request.cpus))  # said anew for each fit: Ray's workers are reused
    recipe = Recipe.model_validate(request.recipe)
    run = ComparisonRun(request.run)
    stored = FaceDataset.load(run.data, cache)
    file = run.path / request.settings["split"]
    faces = replace(stored, split=Split.from_json(file.read_text(encoding="utf-8"), str(file)))
    device = "cuda" if request.gpus > 0 else "cpu"
    trained = find(request.settings["treatment"])
    generator = np.random.default_rng(int(faces.split.digest, 16))
    workers = default_loader_workers(device, request.cpus)
    # A treatment may change what the photos' digest does not tell.
    stores = None if request.settings["treatment"] else faces.feature_stores(shared=True)
    fit = Fit(recipe, trained.data(faces, FitData.of(faces, recipe), generator), device, workers, stores=stores)
    trained.prepared(fit)
    readings = _Readings(request, fit, faces, trained)
    try:
        yield from _epochs(request, fit, readings)
        return _answer(request, fit, faces, readings)
    finally:
        del fit, readings
        machine.give_back_memory()  # Ray's worker lives on


def _epochs(request: FitRequest, fit: Fit, readings: _Readings) -> Generator[dict[str, Any], None, None]:
    """The fit's epochs, each shown to the readings before the state says that it is done."""
    folder = request.state_folder
    _begin_anew_for_other_picks(folder, readings.picking)
    readings.take_up()
    done = len(fit.history) if fit.resume(folder) else 0
    for result in fit.epochs():
        readings.look(result, is_new=result.epoch > done)
        if result.epoch > done:
            fit.save(folder)
        yield told_of(result)


def _begin_anew_for_other_picks(folder: Path, picking: Sequence[str]) -> None:
    """A fit that was begun without a reading which picks its own epoch has no answers of those that it would have picked."""
    file = folder / "readings.json"
    if (json.loads(file.read_text()) if file.exists() else []) != picking:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, json.dumps(picking))


class _Readings:
    """All that read one fit: what it was trained with, whose error ends the fit, and others, whose errors are theirs alone.

    What a reading answers with an epoch of its own stands in the state's folder, for the weights of that epoch go by.
    """

    def __init__(self, request: FitRequest, fit: Fit, faces: FaceDataset, trained: Treatment) -> None:
        self._request, self._fit, self._faces, self._rows = request, fit, faces, faces.rows("holdout")
        self._own: str = request.settings["treatment"]
        self._all = {self._own: trained} | {name: find(name) for name in request.settings["readings"]}
        self.picking = [name for name, reading in self._all.items() if reading.picks]
        self._picked: dict[str, int] = {}
        self.failed: dict[str, str] = {}
        """Why, by name."""
        self._traces: list[str] = []

    def take_up(self) -> None:
        """Know again which failed before a kill."""
        file = self._request.state_folder / "failed.json"
        self.failed = json.loads(file.read_text()) if file.exists() else {}

    def look(self, result: EpochResult, is_new: bool) -> None:
        """Ask those that pick whether they pick this epoch, and let them answer with it where it is new."""
        for name in self.picking:
            if name not in self.failed:
                with self._alone(name):
                    self._look(name, result, is_new)
                if name in self.failed:
                    write_atomically(self._request.state_folder / "failed.json", json.dumps(self.failed))

    def answers(self) -> dict[str, Classes]:
        """What each reading that does not fail answers to the tested photos."""
        said: dict[str, Classes] = {}
        for name in self._all:
            if name not in self.failed:
                with self._alone(name):
                    said[name] = self._answers(name)
        return said

    def epoch(self, name: str) -> int:
        """The epoch that a reading answers with."""
        return self._picked.get(name, self._fit.best_epoch)

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """An error in a reading's code is noted; what the machine lacks, and what broke it, ends the fit, and a resume tries again."""
        try:
            yield
        except Exception as error:
            if name == self._own or state_of(error) != TrialState.FAILED or is_unfit(error):
                raise
            self.failed[name] = explain(error)
            self._traces.append(f"Reading {name!r}:\n{traceback.format_exc()}")
            write_error(self._request.folder, "\n".join(self._traces))

    def _look(self, name: str, result: EpochResult, is_new: bool) -> None:
        reading = self._all[name]
        if name in self._picked and not reading.better(result, self._fit.history[self._picked[name] - 1]):
            return
        self._picked[name] = result.epoch
        if is_new:
            said = reading.predict(self._fit.answering, self._fit, self._faces, self._rows)
            write_atomically(self._kept(name), json.dumps(said.tolist()))

    def _answers(self, name: str) -> Classes:
        if name in self._picked:
            said = np.array(json.loads(self._kept(name).read_text()), np.int64)
        else:
            with self._fit.at_best() as models:
                said = self._all[name].predict(models, self._fit, self._faces, self._rows)
        if said.shape != self._rows.shape:
            raise ValueError(
                f"A reading must answer every tested photo, {self._rows.shape}, but answered {said.shape}."
            )
        return said

    def _kept(self, name: str) -> Path:
        return self._request.state_folder / f"reading-{self.picking.index(name)}-{self._picked[name]}.json"


def _answer(request: FitRequest, fit: Fit, faces: FaceDataset, readings: _Readings) -> dict[str, Any]:
    """Write answers.csv, and return the scores of each reading, or why it has none."""
    from maskcls.training.metrics import scores

    rows = faces.rows("holdout")
    truth = faces.photos["label"].to_numpy(np.int64)[rows]
    said = readings.answers()
    keys = faces.photos["key"].to_numpy(object)[rows]
    cells = zip(keys, truth.tolist(), *(answer.tolist() for answer in said.values()), strict=True)
    write_csv(request.folder / ANSWERS, ["key", "truth", *map(column, said)], cells)
    told: dict[str, dict[str, Any]] = {name: {"message": message} for name, message in readings.failed.items()}
    for name, answer in said.items():
        epoch = readings.epoch(name)
        validated = fit.history[epoch - 1].validation_f1
        told[name] = {"epoch": epoch, "validation_f1": validated, "scores": scores(truth, answer).to_dict()}
    message = " ".join(f"Reading {name!r} failed: {why}" for name, why in readings.failed.items())
    return {"message": message, "readings": told}
