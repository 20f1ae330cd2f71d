"""The fits of a comparison.

Each is trained on a repeat's people, and evaluated on photos of people whom neither training nor the choice of the
epoch has seen: they stand as `holdout` in the repeat's split, and are not the run's holdout.

Besides what every fit leaves: answers.csv, with one row per tested photo: key, truth, `answer`, and
`answer:<treatment>` of each other evaluation. An evaluation that fails has no such column, and in result.json a message
in place of its scores; the others are as they are without it. In files and messages an evaluation is a "reading".
"""

from __future__ import annotations

import json
import math
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import Damaged, Missing
from maskcls.files import FileKind, write_atomically, write_csv
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import Scores, scores
from tune.compare.arms import Arm, PlannedComparison
from tune.compare.treatments import Treatment, find
from tune.fitting.failures import explain, is_unfit, state_of, write_error
from tune.fitting.request import FitRequest, Rows
from tune.fitting.result import RESULT, RESULT_FILE, FitResult
from tune.fitting.worker import HAS_ERRORS, After, run_fit
from tune.runs.folder import ComparisonRun
from tune.runs.record import typed
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from maskcls.stores.cache_options import CacheOptions
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult

Classes = NDArray[np.int64]

ANSWERS = "answers.csv"
ANSWERS_FILE = FileKind("a table of answers", "Remove the folder {folder} to do this fit again.", most_bytes=1 << 34)
_KEPT = FileKind("what an evaluation has kept, as JSON", "Remove the folder {folder} to do this fit again.")
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

    A fit that was evaluated before is asked for those evaluations as well: if it must be done again (`is_evaluated`),
    its new result replaces the old one.
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
        done = FitResult.read(run.fit(fit_id))
        had = set(_asked_of(done, run.fit(fit_id))) if done else set()
        file = str(run.repeat(folds, number).relative_to(run.path))
        settings = {
            "repeat": number,
            "split": file,
            "treatment": arm.trained,
            "readings": sorted(readings | had),
        }
        recipe = arm.recipe.override({"seed": number}).model_dump()
        folder = run.fit(fit_id)
        asked.append(FitRequest(fit_id, recipe, folder, run.path, cpus, gpus, settings, label, file, repeat=number))
    return asked


def is_evaluated(request: FitRequest, result: FitResult) -> bool:
    """Whether a result answers its request.

    A fit without an evaluation that is asked for must be done again: its weights are gone.

    An evaluation that failed would fail again, and so counts.
    """
    missing = set(request.settings["readings"]) - set(_asked_of(result, request.folder))
    return result.is_final and (result.state != TrialState.COMPLETE or not missing)


def _asked_of(result: FitResult, folder: Path) -> list[str]:
    """The evaluations that the fit in a folder was asked for. Raises Damaged where its result does not say them."""
    with RESULT_FILE.reading(folder / RESULT):
        return typed(list[str], result.settings["readings"])


@dataclass(frozen=True)
class Evaluation:
    """What result.json says of one evaluation of a fit."""

    message: str = ""
    """Why it failed; "" where it did not."""
    epoch: int = 0
    """The epoch that it predicts with."""
    validation_f1: float = math.nan
    """Of that epoch."""
    scores: Scores | None = None
    """Of the tested people; None where the evaluation failed."""

    def to_json(self) -> dict[str, Any]:
        """For result.json."""
        if self.scores is None:
            return {"message": self.message}
        return {"epoch": self.epoch, "validation_f1": self.validation_f1, "scores": self.scores.to_dict()}

    @classmethod
    def of(cls, result: FitResult, treatment: str, folder: Path) -> Self | None:
        """The evaluation of a complete fit, in its folder, under a treatment; None where it was not asked for, or the
        fit is not complete. Raises Damaged."""
        with RESULT_FILE.reading(folder / RESULT):
            found = result.values.get("readings", {}).get(treatment)
            if found is None:
                return None
            scores = Scores.from_dict(found["scores"]) if "scores" in found else None
            return typed(cls, {**found, "scores": scores})


def fit_and_evaluate(request: FitRequest, *, cache: CacheOptions) -> Rows:
    """Fit an arm on a repeat's people, and evaluate it in every way that is asked for (`settings`: treatment,
    readings)."""
    own = request.settings["treatment"]
    evaluations = _Evaluations([own, *(name for name in request.settings["readings"] if name != own)])
    return run_fit(request, cache=cache, after=evaluations, treatment=evaluations.own if own else None)


class _Evaluations(After):
    """All evaluations of one fit: the first is what it was trained with, whose error ends the fit; errors of others are
    theirs alone.

    What an evaluation predicts with an epoch of its own choice stands in the checkpoint's folder: that epoch's weights
    are not kept.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._all = {name: find(name) for name in names}
        self._own = names[0]
        self.own: Treatment = self._all[self._own]
        self._picking = [name for name, treatment in self._all.items() if treatment.picks]
        self._picked: dict[str, int] = {}
        self._failed: dict[str, str] = {}
        """Why, by name."""
        self._traces: list[str] = []

    def before_fit(self, request: FitRequest, dataset: FaceDataset) -> None:
        """Begin the fit again where it was begun without an evaluation that picks its own epoch; know which failed
        before a kill."""
        self._request, self._dataset, self._rows = request, dataset, scored_rows(dataset, "holdout")
        folder = request.checkpoint_folder
        file = folder / "readings.json"
        try:
            if (_KEPT.read_json(file) if file.exists() else []) != self._picking:
                shutil.rmtree(folder, ignore_errors=True)
            self._failed = typed(dict[str, str], _KEPT.read_object(folder / "failed.json"))
        except Missing:
            self._failed = {}
        except (Damaged, ValueError):  # then nobody knows what was predicted for these evaluations
            shutil.rmtree(folder, ignore_errors=True)
            self._failed = {}
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(self._picking))

    def before_saving(self, fit: Fit, result: EpochResult, is_new: bool) -> None:
        """Ask each evaluation that picks whether it picks this epoch, and let it predict with it where it is new."""
        if result.epoch == 1:  # an attempt that ran out of memory may have been here before
            self._picked.clear()
        for name in self._picking:
            if name not in self._failed:
                with self._errors_of(name):
                    self._pick(name, fit, result, is_new)
                if name in self._failed:
                    write_atomically(self._request.checkpoint_folder / "failed.json", json.dumps(self._failed))

    def result(self, fit: Fit, request: FitRequest, dataset: FaceDataset) -> dict[str, Any]:
        """Write answers.csv; return the scores of each evaluation, or why it has none."""
        predicted: dict[str, Classes] = {}
        for name in self._all:
            if name not in self._failed:
                with self._errors_of(name):
                    predicted[name] = self._predictions(name, fit)
        truth = dataset.photos["label"].to_numpy(np.int64)[self._rows]
        self._write_answers(truth, predicted)
        evaluations = {name: Evaluation(message).to_json() for name, message in self._failed.items()}
        for name, classes in predicted.items():
            epoch = self._picked.get(name, fit.best_epoch)
            validated = fit.history[epoch - 1].validation_f1
            evaluations[name] = Evaluation("", epoch, validated, scores(truth, classes)).to_json()
        message = " ".join(f"Reading {name!r} failed: {reason}" for name, reason in self._failed.items())
        return {"message": message, "readings": evaluations, HAS_ERRORS: bool(self._failed)}

    def _write_answers(self, truth: Classes, predicted: Mapping[str, Classes]) -> None:
        keys = self._dataset.photos["key"].to_numpy(object)[self._rows]
        cells = zip(keys, truth.tolist(), *(classes.tolist() for classes in predicted.values()), strict=True)
        write_csv(self._request.folder / ANSWERS, ["key", "truth", *map(column, predicted)], cells)

    @contextmanager
    def _errors_of(self, name: str) -> Iterator[None]:
        """Note an error in an evaluation's code.

        What the machine lacks, and what broke it, ends the fit, and a resume tries again.
        """
        try:
            yield
        except Exception as error:
            if name == self._own or state_of(error) != TrialState.FAILED or is_unfit(error):
                raise
            self._failed[name] = explain(error)
            self._traces.append(f"Reading {name!r}:\n{traceback.format_exc()}")
            write_error(self._request.folder, "\n".join(self._traces))

    def _pick(self, name: str, fit: Fit, result: EpochResult, is_new: bool) -> None:
        treatment = self._all[name]
        if name in self._picked and not treatment.better(result, fit.history[self._picked[name] - 1]):
            return
        if is_new:
            classes = treatment.predict(fit.eval_models, fit, self._dataset, self._rows)
            write_atomically(self._picked_file(name, result.epoch), json.dumps(classes.tolist()))
        self._picked[name] = result.epoch

    def _predictions(self, name: str, fit: Fit) -> Classes:
        if name in self._picked:
            file = self._picked_file(name, self._picked[name])
            with _KEPT.reading(file):
                classes = np.array(_KEPT.read_json(file), np.int64)
        else:
            with fit.at_best() as models:
                classes = self._all[name].predict(models, fit, self._dataset, self._rows)
        if classes.shape != self._rows.shape:
            raise ValueError(
                f"A reading must answer every tested photo, {self._rows.shape}, but answered {classes.shape}."
            )
        return classes

    def _picked_file(self, name: str, epoch: int) -> Path:
        return self._request.checkpoint_folder / f"reading-{self._picking.index(name)}-{epoch}.json"
