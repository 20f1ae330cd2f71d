"""What an epoch of a fit gave."""

from __future__ import annotations

from dataclasses import dataclass

from maskcls.training.metrics import Scores


@dataclass(frozen=True)
class EpochResult:
    """What an epoch gave. `scores` are of the joined answer for the validation people; where there are none they are UNSCORED."""

    epoch: int  # 1-based
    train_loss: float  # mean over models of the mean over photos
    validation_f1: float  # nan where there are no validation people
    scores: Scores
    photos: int  # drawn in this epoch, all models
    seconds: float  # training and validation
    photos_per_second: float  # training alone
