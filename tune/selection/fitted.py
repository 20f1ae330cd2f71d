"""The temperature and the decision rule of a search's bundle, fitted on validation people: on the predictions of the
repeats where there are any, for these are of people on whom the repeat's model was not trained.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import MaskclsError
from maskcls.files import share_of
from maskcls.serving.bundle import MANIFEST, MANIFEST_FILE, read_bundle, read_manifest
from maskcls.serving.calibration import Calibration, fit_calibration
from maskcls.serving.decision import Decision, Predicted, cross_fitted_classes, fit_decision, prior_of
from maskcls.serving.export import note_fitted, note_scores
from maskcls.serving.predictor import Predictor
from maskcls.text import counted
from maskcls.training.fit_data import scored_rows
from maskcls.training.metrics import scores
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.selection.bundle_predictions import LEFT_OUT
from tune.selection.finalists import Finalist, predicted_by, read_finalists
from tune.selection.record import read_choice

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

log = logging.getLogger("maskcls")

ITS_EPOCH = "search_f1"
"""Key of a bundle's scores: its epoch's macro F1 in the search, by the likeliest classes, where a rule decides now."""


class Fitted(NamedTuple):
    """What is fitted on predictions for people on whom nothing was trained; None where there are too few people, or
    where it does not pay."""

    calibration: Calibration | None = None
    decision: Decision | None = None


def from_repeats(members: Sequence[tuple[Finalist, float]], faces: FaceDataset) -> Fitted | None:
    """Fit on what the repeats of one finalist predicted, or of several that are averaged by their weights.

    None where one has no repeats, or they are of different photos.
    """
    finalists = [finalist for finalist, _ in members]
    keys = [[repeat.keys for repeat in finalist.repeats] for finalist in finalists]
    if not keys or not keys[0] or any(other != keys[0] for other in keys):
        return None
    of_each = [predicted_by(finalist.repeats, faces) for finalist in finalists]  # n photos, repeat after repeat
    weighted = [weight * one.probabilities for one, (_, weight) in zip(of_each, members, strict=True)]
    repeats = counted(len(finalists[0].repeats), "repeat")
    together = Predicted(np.sum(weighted, axis=0), of_each[0].truth, of_each[0].person)
    return _fitted(together, faces, f"what {repeats} predicted for their own validation people")


def fit_on_validation(folder: Path, faces: FaceDataset) -> None:
    """Fit on what the bundle in the folder predicts for the validation people of `faces`, who also chose its epoch, and
    write that into the bundle, with its score there if a rule decides.
    """
    predicted = _validation_predictions(folder, faces)
    fitted = _fitted(predicted, faces, "what it predicted for the validation people, who also chose its epoch")
    note_fitted(folder, *fitted)
    if fitted.decision is not None:
        # By rules that were fitted on others: its own was fitted on these people.
        _note_validation(folder, predicted, cross_fitted_classes(predicted, prior_of(faces)))


def score_decision(folder: Path, faces: FaceDataset) -> None:
    """Where the bundle in the folder has a decision rule, or had another one, score it on the validation people, and
    write that into the bundle: the score of its epoch is that of the likeliest classes.
    """
    bundle = read_bundle(folder, with_models=False)
    if bundle.decision is not None or ITS_EPOCH in bundle.scores:
        predicted = _validation_predictions(folder, faces)
        _note_validation(folder, predicted, bundle.classes(predicted.probabilities, calibrated=False))


def decided_f1(folder: Path) -> float | None:
    """The validation macro F1 of a bundle whose score is not that of its epoch: by its decision rule, and of a bag that
    of the models that had left a person out. None of another bundle.

    Raises DataError where there is no whole bundle.json.
    """
    manifest = read_manifest(folder)
    with MANIFEST_FILE.reading(folder / MANIFEST):
        found = manifest["scores"]
        if ITS_EPOCH not in found or not (manifest.get("decision") or LEFT_OUT in found):
            return None
        return share_of(found["validation"]["f1"])


def finalist_of(run: SearchRun, trials: Sequence[Record], trial_id: str, faces: FaceDataset) -> Finalist | None:
    """Return the finalist that a trial is, with its repeats; None where it is none, or none were repeated.

    None, and a warning, where its repeats cannot be read, which its own weights do not depend on.
    """
    choice = read_choice(run.record())
    try:
        found = read_finalists(run, trials, faces, choice.design) if choice else []
    except MaskclsError as error:
        log.warning("The repeats of trial %s take no part in its calibration. %s", trial_id, error)
        return None
    return next((one for one in found if one.trial_id == trial_id), None)


def _fitted(predicted: Predicted, faces: FaceDataset, fitted_on: str) -> Fitted:
    return Fitted(
        fit_calibration(predicted.probabilities, predicted.truth, fitted_on),
        fit_decision(predicted, prior_of(faces), fitted_on),
    )


def _validation_predictions(folder: Path, faces: FaceDataset) -> Predicted:
    """What the bundle's models predict for the validation people. Only photos with all labels count; a warning says
    which cannot be read."""
    photos = faces.photos.iloc[scored_rows(faces, "validation")]  # n photos
    predictor = Predictor(replace(read_bundle(folder), calibration=None))
    # From the files: a pixel store would hold all other photos as well.
    found = predictor.predictions(photos["file"].tolist(), skip_bad=True)
    if found.bad:
        log.warning(
            "%d of %d validation photos cannot be read, and take no part in the calibration of %s. %s",
            len(found.bad),
            len(photos),
            folder,
            next(iter(found.bad.values())),
        )
    good = np.setdiff1d(np.arange(len(photos)), list(found.bad))  # (m,)
    labels, persons = photos["label"].to_numpy(np.int64), photos["person"].to_numpy(object)
    return Predicted(found.probabilities[good], labels[good], persons[good])


def _note_validation(folder: Path, predicted: Predicted, classes: NDArray[np.int64]) -> None:
    known = read_manifest(folder)["scores"]
    of_epoch = known.get(ITS_EPOCH, known.get("validation", {}).get("f1"))
    note_scores(folder, {"validation": scores(predicted.truth, classes).to_dict(), ITS_EPOCH: of_epoch})
