"""What photos of unknown age bring: half of the training people's ages are removed, and their photos used or left out.

In each repeat both treatments, and every arm, choose the same people, so that the arms differ in nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.labels import UNKNOWN
from tune.compare.treatments import Treatment

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.training.fit_data import FitData

AGE_GROUP = 2
"""Column of `FitData.attributes`."""


class UnknownAges(Treatment):
    """The ages of half of the training people are not known: their photos train the tasks that need no age."""

    keeps_features = True

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        rows = _photos_of_half(faces, data, generator)
        labels, ages = data.labels.copy(), data.ages.copy()
        attributes = data.known_attributes()  # (photos, 3)
        labels[rows], ages[rows], attributes[rows, AGE_GROUP] = UNKNOWN, UNKNOWN, UNKNOWN
        return replace(data, labels=labels, ages=ages, attributes=attributes, digest=f"{data.digest}-unknown-ages")


class WithoutUnknownAges(Treatment):
    """The same people are left out of training, as was done before a photo could lack a label."""

    keeps_features = True

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        rows = _photos_of_half(faces, data, generator)
        return replace(data, train=np.setdiff1d(data.train, rows), digest=f"{data.digest}-without-unknown-ages")


def _photos_of_half(faces: FaceDataset, data: FitData, generator: np.random.Generator) -> NDArray[np.int64]:
    """The rows of the photos of half of the training people, drawn at random."""
    persons = faces.photos["person"].to_numpy(object)[data.train]
    drawn = generator.permutation(np.unique(persons.astype(str)))
    return data.train[np.isin(persons.astype(str), drawn[: len(drawn) // 2])]
