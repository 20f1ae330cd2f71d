"""The stored predictions that a report is about: which people each set is of, and by which models."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.errors import MaskclsError
from maskcls.labels import stratum_of
from maskcls.serving.decision import Decision, decided
from maskcls.text import counted
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.selection.bundle_predictions import rule_of, winner_predictions
from tune.selection.finalists import RepeatBy, read_finalists
from tune.selection.record import ChoiceRecord
from tune.statistics.people import PeopleResamples

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

log = logging.getLogger("maskcls")


@dataclass(frozen=True)
class Predicted:
    """n photos, their true classes and what was predicted."""

    name: str
    """A word for plots and tables."""
    about: str
    """A sentence: which people, predicted by which model."""
    photos: pd.DataFrame
    """(n rows) of the run's photo table; a photo that several repeats predicted stands there as often."""
    truth: NDArray[np.int64]
    """(n,) classes 0..17."""
    log_probabilities: NDArray[np.float64]
    """(n, 18)."""
    decided: NDArray[np.int64] | None = None
    """(n,) the classes that a decision rule named; None: the most probable ones."""

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """(n,) the classes that were named."""
        if self.decided is not None:
            return self.decided
        classes: NDArray[np.int64] = self.log_probabilities.argmax(axis=1).astype(np.int64)
        return classes

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(n,) probabilities of these classes, 0 to 1."""
        found: NDArray[np.float64] = np.exp(self.log_probabilities[np.arange(len(self.predicted)), self.predicted])
        return found

    @cached_property
    def person(self) -> NDArray[np.object_]:
        """(n,) the photo's person."""
        persons: NDArray[np.object_] = self.photos["person"].to_numpy(object)
        return persons

    @cached_property
    def stratum(self) -> NDArray[np.int64]:
        """(n,) gender x age group of that person."""
        return np.array(list(map(stratum_of, self.photos["label"].tolist())), np.int64)

    @cached_property
    def resamples(self) -> PeopleResamples:
        """Resamples of the people, the same for all that is computed of these predictions."""
        return PeopleResamples(self.person, self.stratum)

    @property
    def size(self) -> str:
        """For people, as in `36 people, 252 photos`."""
        return f"{counted(self.resamples.people, 'person', 'people')}, {counted(self.photos['key'].nunique(), 'photo')}"


@dataclass(frozen=True)
class PredictedSets:
    """What is known of a search's winner."""

    repeats: Predicted | None = None
    """The winner's recipe, on people on whom the repeat's model was not trained."""
    validation: Predicted | None = None
    """The model in best/, on the people who chose its epoch."""
    holdout: Predicted | None = None
    """The model in best/, on people who took no part."""
    notes: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def shown(self) -> list[Predicted]:
        """The sets by which the winner is judged, most people first: the repeats, or else validation; the holdout."""
        return [one for one in (self.repeats or self.validation, self.holdout) if one is not None]


def read_sets(
    run: SearchRun,
    faces: FaceDataset,
    trials: Sequence[Record],
    choice: ChoiceRecord | None,
    model: str,
    *,
    predicts: bool,
    sides: Sequence[str] = ("validation", "holdout"),
    bundle: Path | None = None,
) -> PredictedSets:
    """Read what is stored, and predict what is missing and may be predicted.

    Args:
        model: what best/ holds, for people, as in `trial 0007`.
        predicts: whether to predict for the validation people, and again for the holdout where an earlier version did
            not keep it.
        sides: for which the predictions of the model in best/ are wanted.
        bundle: another bundle of the run in place of best/.
    """
    notes: list[str] = []
    found: dict[str, Predicted | None] = {"repeats": None, "validation": None, "holdout": None}
    model = model[:1].upper() + model[1:]  # it begins a sentence
    abouts = {
        "validation": f"{model}, the model in best/, on the validation people, {_left_out(choice)}who also chose its "
        "epoch, and by whose score the search ranked it: these figures are too good.",
        "holdout": f"{model}, the model in best/, on the holdout: people who took no part in any trial or choice.",
    }
    for side in sides:
        try:
            stored = winner_predictions(run, faces, side, predicts=predicts, folder=bundle)
        except MaskclsError as error:
            notes.append(f"Predictions for the {side} people are missing. {error}")
            continue
        if stored is not None:
            found[side] = _joined(side, abouts[side], faces, *stored, rule_of(bundle or run.best))
    if choice is not None and choice.winner_id is not None:
        try:
            found["repeats"] = _repeats(run, faces, trials, choice)
        except MaskclsError as error:
            notes.append(f"The predictions of the winner's repeats are missing. {error}")
    return PredictedSets(**found, notes=tuple(notes))


def _left_out(choice: ChoiceRecord | None) -> str:
    """Which models of a bag are meant, as a part of a sentence."""
    return "each by the models that had left them out, " if choice is not None and choice.is_bag else ""


def _repeats(run: SearchRun, faces: FaceDataset, trials: Sequence[Record], choice: ChoiceRecord) -> Predicted | None:
    """The predictions of all of the winner's repeats; None where none is complete."""
    finalists = read_finalists(run, trials, faces, choice.design)
    repeats = next((one.repeats for one in finalists if one.trial_id == choice.winner_id), ())
    if not repeats:
        return None
    n = counted(len(repeats), "repeat")
    about = (
        f"The winner's recipe, trained again: {n}, each of which predicts the people of the fold that it was not "
        "trained on (they chose its epoch)."
        if choice.design.by == RepeatBy.FOLDS
        else f"The winner's recipe, trained again with other seeds: {n}, which all predict the validation people (they "
        "chose the epochs)."
    )
    keys = tuple(key for one in repeats for key in one.keys)
    truth = np.concatenate([one.truth for one in repeats])
    joined = _joined("repeats", about, faces, keys, truth, np.concatenate([one.log_probabilities for one in repeats]))
    # Scored as the record has it: in runs of earlier versions, by the most probable classes.
    return replace(joined, decided=np.concatenate([one.classes for one in repeats])) if choice.by_rule else joined


def _joined(
    name: str,
    about: str,
    faces: FaceDataset,
    keys: Sequence[str],
    truth: NDArray[np.int64],
    log_probabilities: NDArray[np.float32],
    decision: Decision | None = None,
) -> Predicted:
    photos = faces.photos.set_index("key", drop=False).loc[list(keys)].reset_index(drop=True)
    logs = log_probabilities.astype(np.float64)
    return Predicted(name, about, photos, truth, logs, decided(decision, np.exp(logs)) if decision else None)
