"""The gain over the preset's recipe: the paired difference of the winner's repeats and those of the preset's.

A gain by the search's own validation scores compares the best of many scores with one that nobody selected, and is too
high for that reason. Here both recipes were trained again with the same seeds on the same people, and predict the same
photos. Some optimism is left: the winner is the best of a few finalists by these very repeats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskcls.errors import DataError
from tune.selection.finalists import Finalist, RepeatResult, people_of
from tune.statistics.paired import Difference, Repeat, difference

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset


def gain_over_preset(winner: Finalist, preset: Finalist, faces: FaceDataset) -> Difference | None:
    """The winner's macro F1 minus the preset's, over the repeats that are complete of both; None where there is none.

    Raises DataError where two repeats have predictions for different photos.
    """
    return None if winner.trial_id == preset.trial_id else repeats_difference(preset, winner, faces)


def repeats_difference(
    base: Finalist, variant: Finalist, faces: FaceDataset, *, likeliest: bool = False
) -> Difference | None:
    """The variant's macro F1 minus the base's, over the repeats that are complete of both; None where there is none.

    Args:
        likeliest: whether photos have their likeliest class, and not that of the decision rule, which changes with
            every further repeat, because it is fitted on the other repeats.

    Raises DataError where two repeats have predictions for different photos.
    """
    of_base = {one.repeat: one for one in base.repeats}
    pairs = [(of_base[one.repeat], one) for one in variant.repeats if one.repeat in of_base]
    return difference([_paired(one, other, faces, likeliest) for one, other in pairs]) if pairs else None


def _paired(base: RepeatResult, variant: RepeatResult, faces: FaceDataset, likeliest: bool) -> Repeat:
    if base.keys != variant.keys:
        raise DataError(
            f"Repeat {variant.repeat + 1} of two finalists have predictions for different photos, so "
            "they cannot be compared. Remove the run's folder finalists/, and resume it."
        )
    # (n,) each
    of_base, of_variant = (
        one.log_probabilities.argmax(axis=1) if likeliest else one.classes for one in (base, variant)
    )
    return Repeat(base.truth, of_base, of_variant, *people_of(base.keys, faces))
