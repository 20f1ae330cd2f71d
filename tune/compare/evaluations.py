"""Other ways to predict with a trained fit, as a bundle can as well: the hard join, and test-time augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tune.compare.treatments import Treatment

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.recipe import Recipe


class HardJoin(Treatment):
    """The contest project's rule joins the members' predictions. The recipe's own join has picked the epoch."""

    join = "hard"

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "the recipe joins so itself" if recipe.join == self.join else ""


class Flipped(Treatment):
    """Test-time augmentation: the mean over a photo and its mirror image."""

    flip = True
