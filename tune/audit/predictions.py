"""Out-of-fold predictions: what classifiers that did not train on a person predict for that person's photos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.data.dataset import FaceDataset
from maskcls.errors import DataError
from maskcls.tasks import task
from maskcls.text import counted
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.choice import read_choice_fits
from tune.selection.library import design_of_run

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class OutOfFold:
    """The audited photos, and their probabilities; row i of one is row i of the other."""

    photos: pd.DataFrame
    """n rows of the photo table (`maskcls.data.photos.read_photos`), numbered from 0."""
    probabilities: Floats
    """(n, 18)."""
    source: str
    """Where the predictions come from, in a sentence."""

    @cached_property
    def people(self) -> pd.DataFrame:
        """One row per person, in the order of the photos: columns person, gender, age, age_group."""
        columns = ["person", "gender", "age", "age_group"]
        return self.photos[columns].drop_duplicates("person").reset_index(drop=True)

    @cached_property
    def number(self) -> NDArray[np.int64]:
        """(n,): each photo's person as a row of `people`."""
        numbers = {person: number for number, person in enumerate(self.people["person"])}
        return self.photos["person"].map(numbers).to_numpy(np.int64)

    def by_photo(self, name: str) -> Floats:
        """Probabilities (n, k) of the labels of a task."""
        labels = task(name).of(np.arange(self.probabilities.shape[1]))  # (18,)
        return np.stack([self.probabilities[:, labels == label].sum(1) for label in range(labels.max() + 1)], axis=1)

    def by_person(self, name: str) -> Floats:
        """Probabilities (people, k) of the labels of a task: the mean over a person's photos."""
        of_photos = self.by_photo(name)
        summed = np.zeros((len(self.people), of_photos.shape[1]))
        np.add.at(summed, self.number, of_photos)
        return summed / np.bincount(self.number)[:, None]


def of_run(run: SearchRun, faces: FaceDataset) -> OutOfFold:
    """What the repeats of a search's finalists predicted for their validation people, the mean over the finalists.

    Raises:
        CallError: the run has no finalists.
        DataError: no repeat is complete, or predictions are damaged.
    """
    finalists, _ = read_choice_fits(run, records(run), faces, design_of_run(run))
    repeats = [repeat for finalist in finalists for repeat in finalist.repeats]
    if not repeats:
        raise DataError(f"No repeat of a finalist of {run.name} is complete. Go on with it: {run.resume_command}")
    trials = [finalist.trial_id for finalist in finalists if finalist.repeats]
    found = averaged(faces, ((repeat.keys, repeat.log_probabilities) for repeat in repeats), "")
    source = (
        f"Predictions of the repeats of {counted(len(trials), 'finalist')} of the search {run.name} (trials "
        f"{', '.join(trials)}), each for people whom it did not train on. The holdout is not audited: its labels must "
        "not depend on the classifiers that it scores."
    )
    return OutOfFold(found.photos, found.probabilities, source)


def averaged(
    faces: FaceDataset, predictions: Iterable[tuple[tuple[str, ...], NDArray[np.floating]]], source: str
) -> OutOfFold:
    """Return the mean of each photo's predictions, for the photos that have any.

    Args:
        predictions: keys of m photos, and (m, 18) log probabilities.
    """
    places = {key: row for row, key in enumerate(faces.photos["key"])}
    summed, counts = np.zeros((len(places), 18)), np.zeros(len(places), np.int64)
    for keys, log_probabilities in predictions:
        rows = np.array([places[key] for key in keys], np.int64)  # a key stands in a repeat once
        summed[rows] += np.exp(log_probabilities.astype(np.float64))
        counts[rows] += 1
    rows = np.flatnonzero(counts)
    probabilities = summed[rows] / counts[rows, None]
    return OutOfFold(faces.photos.iloc[rows].reset_index(drop=True), probabilities, source)
