"""The holdout: people whom no trial saw and no choice looked at. A bundle is scored on them once, and looks are counted.

A look is a bundle that was scored there, by its digest. Each further one may inform a choice, and so makes the best of them too good
again; the same bundle gives the same number and tells nobody anything new, so it is read from the record and counted once. What
`maskcls.evaluate` is given by hand is not counted here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import DataError
from maskcls.labels import stratum
from maskcls.text import first
from tune.runs.folder import SearchRun
from tune.runs.record import now
from tune.statistics.intervals import f1_interval

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.bundle import Bundle

HOLDOUT, EVALUATIONS = "holdout", "looks"
"""search.json: {"holdout": {"looks": [a HoldoutEvaluation, ...]}}."""
_PASSING = ("created", "versions", "scores")
"""Of bundle.json: what says nothing of how the bundle answers."""
_NAMED = 5


@dataclass(frozen=True)
class HoldoutEvaluation:
    """A bundle's score on the holdout people, with its 95 % interval over people."""

    what: str
    when: str
    f1: float
    low: float
    high: float
    people: int
    photos: int
    bundle: str
    """Digest of the bundle."""
    scores: dict[str, Any]
    """All of `maskcls.training.metrics.Scores`, ready for JSON."""


def evaluate_on_holdout(run: SearchRun, faces: FaceDataset, folder: Path, what: str) -> HoldoutEvaluation:
    """Score the bundle in the folder on the run's holdout people, and note it in search.json. The caller holds the run.

    Args:
        what: for people, as in `trial 0007`.

    Raises DataError where nobody is in the holdout, or the bundle has seen some of them, or is none.
    """
    from maskcls.serving.bundle import read_bundle

    if not faces.split.holdout:
        raise DataError(
            f"Nobody is in the holdout of {run.name}, so nothing can be scored there. Expected people under holdout in "
            f"{run.data / 'split.json'}. Begin a run whose --split has some, or with more people."
        )
    bundle = read_bundle(folder)
    digest = bundle_digest(bundle.manifest)
    before = next((one for one in holdout_evaluations(run.search()) if one.bundle == digest), None)
    if before is not None:
        return before
    _refuse_seen(bundle, faces)
    found = _scored(bundle, faces, what, digest)
    search = run.search()
    run.write_search({**search, HOLDOUT: {EVALUATIONS: [asdict(one) for one in (*holdout_evaluations(search), found)]}})
    return found


def holdout_evaluations(search: Mapping[str, Any]) -> list[HoldoutEvaluation]:
    """Every look that search.json knows of, in their order."""
    return [HoldoutEvaluation(**one) for one in search.get(HOLDOUT, {}).get(EVALUATIONS, ())]


def bundle_digest(manifest: Mapping[str, Any]) -> str:
    """12 hex digits, the same for bundles of the same weights, recipes and people, whenever they were exported."""
    kept = {key: value for key, value in manifest.items() if key not in _PASSING}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _refuse_seen(bundle: Bundle, faces: FaceDataset) -> None:
    seen = [person for person in faces.split.holdout if bundle.has_seen(person)]
    if seen:
        raise DataError(
            f"{bundle.folder} has seen {len(seen):,} of the {len(faces.split.holdout):,} holdout people ({first(seen, _NAMED)}): it trained on them, or "
            "was chosen by them, so its score there would be too good. Score a bundle of this run's own split."
        )


def _scored(bundle: Bundle, faces: FaceDataset, what: str, digest: str) -> HoldoutEvaluation:
    from maskcls.training.metrics import scores

    rows = faces.rows("holdout")
    photos = faces.photos.iloc[rows]
    truth = photos["label"].to_numpy(np.int64)
    found = _probabilities(bundle, faces, rows)
    if not np.isfinite(found).all():
        raise DataError(
            f"{bundle.folder} gives probabilities that are not finite, so it has no score. Export another trial."
        )
    strata = np.array(list(map(stratum, photos["gender"], photos["age"])), np.int64)  # (n,)
    interval = f1_interval(truth, found.argmax(1), photos["person"].to_numpy(object), strata)
    return HoldoutEvaluation(
        what=what,
        when=now(),
        f1=interval.f1,
        low=interval.low,
        high=interval.high,
        people=int(photos["person"].nunique()),
        photos=len(rows),
        bundle=digest,
        scores=scores(truth, found).to_dict(),
    )


def _probabilities(bundle: Bundle, faces: FaceDataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n, 18) that the bundle gives these rows of the photo table."""
    from maskcls.serving.predictor import probabilities_of

    return probabilities_of(bundle, faces, rows)
