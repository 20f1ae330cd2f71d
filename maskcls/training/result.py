"""The result of one epoch of a fit, and its row in a curve on disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from maskcls.training.metrics import Scores


@dataclass(frozen=True)
class EpochResult:
    """One epoch's numbers. `scores` are of the joined prediction for the validation people; without any, UNSCORED."""

    epoch: int  # 1-based
    train_loss: float  # mean over models of the mean over photos
    validation_f1: float  # nan where there are no validation people
    scores: Scores
    photos: int  # drawn in this epoch, all models
    seconds: float  # training and validation
    photos_per_second: float  # training alone

    def to_row(self) -> dict[str, Any]:
        """The epoch as one row of a curve, ready for JSON."""
        return {
            "epoch": self.epoch,
            "validation_f1": self.validation_f1,
            "train_loss": self.train_loss,
            "photos": self.photos,
            "seconds": self.seconds,
            "photos_per_second": self.photos_per_second,
            "scores": self.scores.to_dict(),
        }
