"""Other ways to predict with a trained fit, as a bundle can as well: the hard join, test-time augmentation, the
decision rule, and the last epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from maskcls.serving.decision import Predicted, cross_fitted_classes, prior_of
from maskcls.training.fit_data import scored_rows
from tune.compare.treatments import Treatment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maskcls.data.dataset import FaceDataset
    from maskcls.models.model import Model
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.result import EpochResult


class HardJoin(Treatment):
    """The contest project's rule joins the members' predictions. The recipe's own join has picked the epoch."""

    join = "hard"

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "the recipe joins so itself" if recipe.join == self.join else ""


class Flipped(Treatment):
    """Test-time augmentation: the mean over a photo and its mirror image."""

    flip = True


class LastEpoch(Treatment):
    """The last epoch, which nobody chose, in place of the best one by validation."""

    def better(self, new: EpochResult, best: EpochResult) -> bool:
        return True


class DecisionRule(Treatment):
    """The decision rule (`maskcls.serving.decision`): each tested person is decided by a rule that was fitted on the
    validation people and the other tested ones, as a search does with its repeats.
    """

    def predict(
        self, models: Sequence[Model], fit: Fit, faces: FaceDataset, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        from maskcls.models.model import log_probabilities

        both = np.concatenate([rows, scored_rows(faces, "validation")])  # (m,), the tested photos first
        found = log_probabilities(models, fit.recipe.split, fit.data.pixels, both, join=fit.recipe.join)  # (m, 18)
        photos = faces.photos.iloc[both]
        answered = Predicted(np.exp(found), photos["label"].to_numpy(np.int64), photos["person"].to_numpy(object))
        return cross_fitted_classes(answered, prior_of(faces))[: len(rows)]
