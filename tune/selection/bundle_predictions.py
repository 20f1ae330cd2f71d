"""What the bundle in best/ predicts for the people of one side of the search's split, kept in the run for its report.

The holdout's predictions are kept when a bundle is scored there. Where a run of an earlier version lacks them, they are
made again only for a bundle that was scored there already: the same bundle gives the same predictions, which is no
further use of the holdout.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.serving.holdout_uses import bundle_digest
from maskcls.training.fit_data import scored_rows
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.selection.predictions import PREDICTIONS, read_predictions, write_predictions

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.decision import Decision

LEFT_OUT = "left_out"
"""Key of the scores of a bag (`tune.selection.bag`): its score is that of the models that had left a person out."""
Stored = tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.float32]]
"""Keys of n photos, their classes (n,) and log probabilities (n, 18)."""
_LEAST = float(np.finfo(np.float32).tiny)
"""In place of a probability of 0, whose logarithm is not finite."""


def keep_predictions(
    run: SearchRun, faces: FaceDataset, side: str, digest: str, probabilities: NDArray[np.float64]
) -> None:
    """Write what a bundle predicts for the photos of one side.

    Args:
        probabilities: (n, 18) of its photos with all labels, in the order of the photo table.
    """
    photos = faces.photos.iloc[scored_rows(faces, side)]
    folder = run.predictions(side, digest)
    folder.mkdir(parents=True, exist_ok=True)
    truth = photos["label"].to_numpy(np.int64)  # (n,)
    write_predictions(folder, photos["key"].tolist(), truth, np.log(np.maximum(probabilities, _LEAST)))


def rule_of(folder: Path) -> Decision | None:
    """The decision rule of the bundle in a folder; None where it has none. Raises DataError as `read_bundle` does."""
    from maskcls.serving.bundle import read_bundle

    return read_bundle(folder, with_models=False).decision


def winner_predictions(
    run: SearchRun, faces: FaceDataset, side: str, *, predicts: bool, folder: Path | None = None
) -> Stored | None:
    """What the bundle in best/ predicts for `validation` or `holdout`; None where that is not known.

    For the holdout that is never more than was counted: a bundle that was not scored there is not asked.

    Of a bag, of which some models may have trained on the validation people, they are the means of the models that had
    left a person out, which are kept where the bag is written.

    Args:
        predicts: whether to predict what is not stored, which decodes photos.
        folder: another bundle of the run in place of best/.

    Raises DataError where the bundle, the stored predictions or the photos cannot be read.
    """
    folder = folder or run.best
    if not (folder / "bundle.json").exists() or not len(scored_rows(faces, side)):
        return None
    from maskcls.serving.bundle import read_bundle
    from maskcls.serving.predictor import probabilities_of

    bundle = read_bundle(folder, with_models=False)
    digest = bundle_digest(bundle.manifest)
    if side == "holdout" and all(one.bundle != digest for one in holdout_evaluations(run.record())):
        return None
    kept = run.predictions(side, digest)
    if not (kept / PREDICTIONS).exists():
        if not predicts or (side == "validation" and LEFT_OUT in bundle.scores):
            return None
        keep_predictions(run, faces, side, digest, probabilities_of(folder, faces, scored_rows(faces, side)))
    return read_predictions(kept)
