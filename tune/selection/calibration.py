"""The temperature of a search's bundle, fitted on validation people: on the predictions of the repeats where there are
any, for these are of people on whom the repeat's model was not trained.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskcls.errors import MaskclsError
from maskcls.serving.bundle import read_bundle
from maskcls.serving.calibration import Calibration, fit_calibration
from maskcls.serving.predictor import Predictor
from maskcls.text import counted
from maskcls.training.fit_data import scored_rows
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.selection.finalists import Finalist, read_finalists
from tune.selection.record import read_choice

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

log = logging.getLogger("maskcls")


def from_repeats(members: Sequence[tuple[Finalist, float]]) -> Calibration | None:
    """Fit on what the repeats of one finalist predicted, or of several that are averaged by their weights.

    None where one has no repeats, where they are of different photos, or of too few.
    """
    finalists = [finalist for finalist, _ in members]
    keys = [[repeat.keys for repeat in finalist.repeats] for finalist in finalists]
    if not keys or not keys[0] or any(other != keys[0] for other in keys):
        return None
    truth = np.concatenate([repeat.truth for repeat in finalists[0].repeats])  # (n,), repeat after repeat
    weighted = [  # members x (n, 18)
        weight * np.exp(np.concatenate([repeat.log_probabilities for repeat in finalist.repeats]).astype(np.float64))
        for finalist, weight in members
    ]
    repeats = counted(len(finalists[0].repeats), "repeat")
    return fit_calibration(np.sum(weighted, axis=0), truth, f"what {repeats} predicted for their own validation people")


def from_validation(folder: Path, faces: FaceDataset) -> Calibration | None:
    """Fit on what the bundle in the folder predicts for the validation people of `faces`, who also chose its epoch.

    Only photos with all labels count. None where there are too few, with a warning where they cannot be read.
    """
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
    return fit_calibration(
        found.probabilities[good],
        photos["label"].to_numpy(np.int64)[good],
        "what it predicted for the validation people, who also chose its epoch",
    )


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
