"""Other ways to read a fit's answers, which a bundle offers too: the hard join, and test-time augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tune.compare.treatments import Treatment

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.recipe import Recipe


class HardJoin(Treatment):
    """The members' answers joined by the contest project's rule. The epoch is the one that the recipe's own join picked."""

    join = "hard"

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "the recipe joins so itself" if recipe.join == self.join else ""


class Flipped(Treatment):
    """Test-time augmentation: the mean over a photo and its mirror image."""

    flip = True
