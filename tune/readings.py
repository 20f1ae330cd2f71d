"""Other ways to read a fit's answers, which a bundle offers too: the hard join, and test-time augmentation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tune.treatments import Treatment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maskcls.data.facedata import FaceData
    from maskcls.models.model import Model
    from maskcls.training.fit import Fit


class HardJoin(Treatment):
    """The members' answers joined by the contest project's rule. The epoch is the one that the recipe's own join picked."""

    def answers(self, models: "Sequence[Model]", fit: "Fit", faces: "FaceData", rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
        from maskcls.models.model import log_probabilities

        classes: NDArray[np.int64] = log_probabilities(models, fit.recipe.split, fit.data.pixels, rows, join="hard").argmax(1)
        return classes


class Flipped(Treatment):
    """The mean over a photo and its mirror image."""

    def answers(self, models: "Sequence[Model]", fit: "Fit", faces: "FaceData", rows: "NDArray[np.int64]") -> "NDArray[np.int64]":
        from maskcls.models.model import log_probabilities

        said = log_probabilities(models, fit.recipe.split, fit.data.pixels, rows, join=fit.recipe.join, flip=True)
        classes: NDArray[np.int64] = said.argmax(1)
        return classes
