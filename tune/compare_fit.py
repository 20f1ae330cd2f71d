"""The fits of a comparison. Each is trained on a repeat's people, and answers the photos of people whom neither training nor the choice
of the epoch has seen.

Beside what every fit leaves: answers.csv, a row a tested photo: key, truth, `answer`, and `answer:<treatment>` of each other reading.
"""

import csv
import io
import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls.files import write_atomically
from tune.compare_dir import CompareDir
from tune.comparison import Arm, Planned
from tune.fits import FitRequest, forget, read_result
from tune.trainable import COMPLETE
from tune.treatments import Treatment, find

if TYPE_CHECKING:
    from maskcls.data.facedata import FaceData
    from maskcls.data.splits import Split
    from maskcls.training.fit import Fit

Classes = NDArray[np.int64]

ANSWERS = "answers.csv"
PLAIN = "answer"


def column(reading: str) -> str:
    """The column of answers.csv that holds a reading's answers; "" is the plain one."""
    return f"{PLAIN}:{reading}" if reading else PLAIN


def requests(
    run: CompareDir,
    comparisons: Sequence[Planned],
    splits: "Sequence[Split]",
    data_digest: str,
    *,
    folds: int,
    cpus: int,
    gpus: float,
) -> list[FitRequest]:
    """Every different fit once, repeat by repeat, so that what is done early can be compared early.

    A fit that is done but was not read as a variant wants it is forgotten, for its weights are gone: it will be done again.
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
        if done and done["state"] == COMPLETE and not readings <= had:
            forget(run.fit(fit_id))
        settings = {
            "repeat": number,
            "split": str(run.repeat(folds, number).relative_to(run.path)),
            "treatment": arm.trained,
            "readings": sorted(readings | had),
        }
        recipe = arm.recipe.override({"seed": number}).model_dump()
        asked.append(FitRequest(fit_id, recipe, run.fit(fit_id), run.path, cpus, gpus, settings, label))
    return asked


def fit_and_answer(request: FitRequest, *, cache: Path | None, pixel_store_gb: float) -> Generator[dict[str, Any], None, dict[str, Any]]:
    """The work of one fit. `settings` hold `split` (a repeat's file), `treatment` (trained with), `readings` (treatments to read with).

    Args:
        cache: for decoded photos; None is the default of the machine that the fit runs on, which need not be the driver's.
    """
    import torch

    from maskcls.data.facedata import FaceData
    from maskcls.data.pixels import default_cache
    from maskcls.data.splits import Split
    from maskcls.device import default_loader_workers, set_threads
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData

    set_threads(max(1, request.cpus))  # said anew for each fit: Ray's workers are reused
    recipe = Recipe.model_validate(request.recipe)
    run = CompareDir(request.run)
    stored = FaceData.load(run.data, cache or default_cache().absolute(), pixel_store_gb)
    file = run.path / request.settings["split"]
    faces = replace(stored, split=Split.from_json(file.read_text(encoding="utf-8"), str(file)))
    device = "cuda" if request.gpus > 0 else "cpu"
    trained = find(request.settings["treatment"])
    generator = np.random.default_rng(int(faces.split.digest, 16))
    fit = Fit(recipe, trained.data(faces, FitData.of(faces, recipe), generator), device, default_loader_workers(device, request.cpus))
    trained.prepared(fit)
    readings = {request.settings["treatment"]: trained} | {name: find(name) for name in request.settings["readings"]}
    try:
        picked = yield from _epochs(request, fit, faces, readings)
        return _answer(request, fit, faces, readings, picked)
    finally:
        del fit
        if device == "cuda":
            torch.cuda.empty_cache()


def _epochs(
    request: FitRequest, fit: "Fit", faces: "FaceData", readings: Mapping[str, Treatment]
) -> Generator[dict[str, Any], None, dict[str, int]]:
    """The fit's epochs; the epoch that each reading which picks its own has picked, its answers kept in the state's folder."""
    folder = request.state_folder
    _begin_anew_for_other_readings(folder, list(readings))
    picked: dict[str, int] = {}
    done = len(fit.history) if fit.resume(folder) else 0
    for result in fit.epochs():
        for name, reading in readings.items():
            if reading.picks and (name not in picked or reading.better(result, fit.history[picked[name] - 1])):
                picked[name] = result.epoch
                if result.epoch > done:  # before the state says that the epoch is done
                    said = reading.answers(fit.answering, fit, faces, faces.rows("holdout"))
                    write_atomically(_kept(folder, list(readings).index(name)), json.dumps(said.tolist()))
        if result.epoch > done:
            fit.save(folder)
        yield {
            "epoch": result.epoch,
            "validation_f1": result.validation_f1,
            "train_loss": result.train_loss,
            "photos": result.photos,
            "seconds": result.seconds,
            "photos_per_second": result.photos_per_second,
            "scores": result.scores.to_dict(),
        }
    return picked


def _begin_anew_for_other_readings(folder: Path, names: list[str]) -> None:
    """A fit that was begun without a reading has no answers of epochs which that would have picked."""
    file = folder / "readings.json"
    if file.exists() and json.loads(file.read_text()) == names:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_atomically(file, json.dumps(names))


def _answer(
    request: FitRequest, fit: "Fit", faces: "FaceData", readings: Mapping[str, Treatment], picked: Mapping[str, int]
) -> dict[str, Any]:
    """Write answers.csv, and return the scores of each reading."""
    from maskcls.training.metrics import scores

    rows = faces.rows("holdout")
    truth = faces.photos["label"].to_numpy(np.int64)[rows]
    said: dict[str, Classes] = {}
    for number, (name, reading) in enumerate(readings.items()):
        if reading.picks:
            said[name] = np.array(json.loads(_kept(request.state_folder, number).read_text()), np.int64)
        else:
            with fit.at_best() as models:
                said[name] = reading.answers(models, fit, faces, rows)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["key", "truth", *map(column, said)])
    keys = faces.photos["key"].to_numpy(object)[rows]
    table.writerows(zip(keys, truth.tolist(), *(answer.tolist() for answer in said.values()), strict=True))
    write_atomically(request.folder / ANSWERS, text.getvalue())
    told = {}
    for name, answer in said.items():
        epoch = picked.get(name, fit.best_epoch)
        validated = fit.history[epoch - 1].validation_f1
        told[name] = {"epoch": epoch, "validation_f1": validated, "scores": scores(truth, answer).to_dict()}
    return {"readings": told}


def _kept(folder: Path, number: int) -> Path:
    return folder / f"reading-{number}.json"
