"""The holdout: people on whom no trial was trained, and by whom nothing was chosen. A bundle is scored on them once.

Evaluations are counted, by the bundle's digest, over all runs of the same photos and split (`tune.runs.holdout_uses`).
A choice that knows several holdout scores has used the holdout to choose, so that the best of these scores is
optimistic again (Dwork et al., The reusable holdout, Science 349, 2015). The same bundle gives the same score, which is
read from the record and counted once.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from maskcls.errors import DataError
from maskcls.labels import stratum_of
from maskcls.serving.holdout_uses import bundle_digest, note_uses
from maskcls.text import first
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import HoldoutEvaluation, holdout_evaluations, with_evaluations
from tune.runs.holdout_uses import digests, holdout_uses
from tune.runs.record import now
from tune.selection.bundle_predictions import keep_predictions
from tune.statistics.intervals import f1_interval

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.bundle import Bundle

log = logging.getLogger("maskcls")

_SHOWN_PEOPLE = 5
"""How many people an error names."""


def evaluate_on_holdout(run: SearchRun, faces: FaceDataset, folder: Path, what: str) -> HoldoutEvaluation:
    """Score the bundle in the folder on the run's holdout people, and write that to search.json. The caller holds the
    run's lock.

    Args:
        what: for people, as in `trial 0007`.

    Raises DataError where the holdout is empty, the bundle has seen holdout people, or the folder holds no bundle.
    """
    from maskcls.serving.bundle import read_bundle

    if not faces.split.holdout:
        raise DataError(
            f"Nobody is in the holdout of {run.name}, so nothing can be scored there. Expected people under holdout in "
            f"{run.data / 'split.json'}. Begin a run whose --split has some, or with more people."
        )
    bundle = read_bundle(folder)
    digest = bundle_digest(bundle.manifest)
    # The same bundle has the same score: reading it again is no further use of the holdout.
    before = next((one for one in holdout_evaluations(run.record()) if one.bundle == digest), None)
    if before is not None:
        return before
    _refuse_seen(bundle, faces)  # before anything is predicted, so that no such score exists
    found = _evaluate(run, bundle, faces, what, digest)
    # Evaluations are added, never replaced: their number says how much the holdout was used.
    search = run.record()
    run.write_record(with_evaluations(search, [*holdout_evaluations(search), found]))
    _note_for_other_runs(run)
    return found


def _note_for_other_runs(run: SearchRun) -> None:
    """Note the uses beside the run, where `maskcls.evaluate` finds them, and where they stay if the run is deleted."""
    if not all(digests(run)):
        return
    try:
        note_uses(run.path.parent, holdout_uses(run))
    except OSError as error:  # the run's own record has it
        log.warning("The use of the holdout is noted in %s alone: %s.", run.record_file, error)


def _refuse_seen(bundle: Bundle, faces: FaceDataset) -> None:
    """Raises DataError where the bundle trained on, or was chosen by, people of the holdout."""
    seen = [person for person in faces.split.holdout if bundle.has_seen(person)]
    if seen:
        raise DataError(
            f"{bundle.folder} has seen {len(seen):,} of the {len(faces.split.holdout):,} holdout people "
            f"({first(seen, _SHOWN_PEOPLE)}): it trained on them, or was chosen by them, so its score there "
            "would be too high. Score a bundle of this run's own split."
        )


def _evaluate(run: SearchRun, bundle: Bundle, faces: FaceDataset, what: str, digest: str) -> HoldoutEvaluation:
    """Predict the holdout's photos, keep that in the run, and score it. Raises DataError where it is not finite."""
    from maskcls.serving.predictor import probabilities_of
    from maskcls.training.fit_data import scored_rows
    from maskcls.training.metrics import scores

    rows = scored_rows(faces, "holdout")
    photos = faces.photos.iloc[rows]  # n photos
    truth = photos["label"].to_numpy(np.int64)  # (n,) classes 0..17
    probabilities = probabilities_of(bundle, faces, rows)  # (n, 18)
    if not np.isfinite(probabilities).all():
        raise DataError(
            f"{bundle.folder} gives probabilities that are not finite, so it has no score. Export another trial."
        )
    # For the report, so that nothing has to be predicted there again.
    keep_predictions(run, faces, "holdout", digest, probabilities)
    # The interval resamples people, not photos: the photos of one person are right or wrong together.
    strata = np.array(list(map(stratum_of, truth.tolist())), np.int64)  # (n,) 0..5
    classes = bundle.classes(probabilities, calibrated=False)  # (n,)
    interval = f1_interval(truth, classes, photos["person"].to_numpy(object), strata)
    return HoldoutEvaluation(
        what=what,
        when=now(),
        f1=interval.f1,
        low=interval.low,
        high=interval.high,
        people=int(photos["person"].nunique()),
        photos=len(rows),
        bundle=digest,
        scores=scores(truth, classes).to_dict(),
    )
