"""The choice among a search's finalists as search.json keeps it, under `choice`: read and written in this module alone.

Terminal and report describe the choice from this record, so that a resumed search, or a report that is written again,
repeats no fit. Keys of the file: `design`, `why` and `left` (how the repeats ended), `finalists`, and of the winner its
id (`winner`), `validation_f1`, `mean`, `spread`, the number of its `repeats`, its `holdout` score and the search's
`optimism`. JSON has no nan: null stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tune.runs.record import SearchRecord
from tune.runs.stopping import Outcome, Reason
from tune.selection.finalists import Design, Finalist
from tune.selection.holdout import HoldoutScore


@dataclass(frozen=True)
class RepeatScore:
    """One complete repeat of a finalist."""

    repeat: int
    """From 0."""
    seed: int
    best_epoch: int
    f1: float


@dataclass(frozen=True)
class FinalistScores:
    """A finalist: the search's own score of it, and those of its repeats."""

    trial: str
    validation_f1: float
    """Best validation macro F1 of the trial itself, by which it became a finalist."""
    mean: float
    """Of the repeats' F1; nan where no repeat is complete."""
    spread: float
    """Standard deviation of the repeats' F1 (n - 1); nan for fewer than two."""
    repeats: tuple[RepeatScore, ...]
    missing: tuple[str, ...]
    """One line for each repeat without a result: which one, and why; and one if the trial diverged when it was trained
    to its end, so that it cannot be handed over."""
    low: float = math.nan
    """Of the mean's 95 % interval over seeds and people (`tune.statistics.repeated`); nan for fewer than two repeats,
    and in runs of versions that did not record it."""
    high: float = math.nan

    @property
    def interval(self) -> str:
        """The mean's interval as text, as in `[0.4711, 0.5912]`; "" where there is none."""
        return "" if math.isnan(self.low) else f"[{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def from_finalist(cls, finalist: Finalist) -> FinalistScores:
        """The scores of a finalist, without what its repeats predicted."""
        repeats = tuple(RepeatScore(one.repeat, one.seed, one.best_epoch, one.f1) for one in finalist.repeats)
        missing = finalist.failed
        if finalist.diverged:
            missing = (*missing, f"stopped early, then trained to its end: diverged. {finalist.diverged}")
        own = (finalist.trial_id, finalist.validation_f1, finalist.mean, finalist.spread)
        return cls(*own, repeats, missing, finalist.low, finalist.high)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FinalistScores:
        """The inverse of `to_json`."""
        return cls(
            trial=content["trial"],
            validation_f1=content["validation_f1"],
            mean=_from_null(content["mean"]),
            spread=_from_null(content["spread"]),
            repeats=tuple(RepeatScore(**one) for one in content["repeats"]),
            missing=tuple(content["missing"]),
            low=_from_null(content.get("low")),
            high=_from_null(content.get("high")),
        )

    def to_json(self) -> dict[str, Any]:
        """The finalist as search.json has it."""
        return {**asdict(self), **{key: _to_null(getattr(self, key)) for key in ("mean", "spread", "low", "high")}}


@dataclass(frozen=True)
class ChoiceRecord:
    """The choice, whether or not it is final."""

    design: Design
    reason: Reason
    """Why the repeats stopped."""
    remaining: int
    """Repeats that have not ended."""
    finalists: tuple[FinalistScores, ...]
    """Best validation score first."""
    winner_id: str | None
    """None where no repeat is complete, or no finalist can be handed over."""
    holdout: HoldoutScore | None = None
    """The score of the winner's bundle; None before it was evaluated there."""

    @classmethod
    def from_results(
        cls, design: Design, outcome: Outcome, finalists: tuple[Finalist, ...], winner: Finalist | None
    ) -> ChoiceRecord:
        """The record of repeats that just ended, before the winner is evaluated on the holdout."""
        scores = tuple(map(FinalistScores.from_finalist, finalists))
        return cls(design, outcome.reason, outcome.remaining, scores, winner.trial_id if winner else None)

    @property
    def winner(self) -> FinalistScores | None:
        """The winner's scores; None where there is no winner."""
        return next((one for one in self.finalists if one.trial == self.winner_id), None)

    @property
    def optimism(self) -> float | None:
        """The search's own score of the winner minus its holdout score; None where either is missing."""
        winner = self.winner
        return winner.validation_f1 - self.holdout.f1 if winner and self.holdout else None

    @property
    def why_no_winner(self) -> str:
        """Why there is no winner, as the beginning of a sentence."""
        if any(one.repeats for one in self.finalists):
            return "Every finalist with complete repeats diverged when it was trained to its end"
        return "No repeat of a finalist is complete"

    @property
    def is_complete(self) -> bool:
        """Whether every repeat ended and the winner was evaluated on the holdout."""
        return self.reason == Reason.FINISHED and not self.remaining and self.holdout is not None

    def to_json(self) -> dict[str, Any]:
        """The record as search.json has it.

        The winner's scores stand there twice, so that a reader finds them at once.
        """
        winner = self.winner
        return {
            "design": asdict(self.design),
            # `why` and `left` are the file's names for reason and remaining, as in older runs.
            "why": self.reason,
            "left": self.remaining,
            "finalists": [one.to_json() for one in self.finalists],
            "winner": self.winner_id,
            "validation_f1": winner and winner.validation_f1,
            "mean": winner and _to_null(winner.mean),
            "spread": winner and _to_null(winner.spread),
            "repeats": len(winner.repeats) if winner else 0,
            "holdout": self.holdout and asdict(self.holdout),
            "optimism": self.optimism,
        }


def read_choice(search: SearchRecord) -> ChoiceRecord | None:
    """The choice in the content of a search.json; None where no finalists were repeated."""
    content = search.choice
    if not content:
        return None
    return ChoiceRecord(
        # Design and Reason turn the file's words into their enums.
        design=Design(**content["design"]),
        reason=Reason(content["why"]),
        remaining=content["left"],
        finalists=tuple(map(FinalistScores.from_json, content["finalists"])),
        winner_id=content["winner"],
        holdout=HoldoutScore(**content["holdout"]) if content["holdout"] else None,
    )


def _to_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _from_null(value: float | None) -> float:
    return math.nan if value is None else value
