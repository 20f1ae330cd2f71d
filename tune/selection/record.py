"""The choice among a search's finalists as search.json keeps it, under `choice`: read and written in this module alone.

Terminal and report describe the choice from this record, so that a resumed search, or a report that is written again,
repeats no fit. Keys of the file: `design`, `why` and `left` (how the repeats ended), `finalists`, and of the winner its
id (`winner`), `validation_f1` (the search's own score), `model_validation_f1` (of the model that is handed over),
`mean`, `spread`, the number of its `repeats`, its `holdout` score and the `optimism`. `preset` has the scores of the
preset's recipe, and `gain` the winner's gain over it; `others_left` counts fits beside the finalists' repeats that have
not ended. `by_rule` says that the repeats' classes are those of a decision rule, and `bundle_f1` is the validation
score of a bundle that has one, or of a bag, which `bag` describes. Runs of earlier versions lack some of these. JSON
has no nan: null stands for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from maskcls.errors import MaskclsError
from maskcls.files import number_of, share_of
from maskcls.text import counted
from tune.runs.holdout_record import HoldoutScore
from tune.runs.record import SearchRecord, damaged, typed
from tune.runs.stopping import Outcome, Reason
from tune.selection.finalists import NOT_KEPT, Design, Finalist, TrainedToEnd
from tune.statistics.paired import Difference, ModelDifference


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
    """One line for each repeat without a result: which one, and why; and one if the trial was stopped early and has no
    model that was trained to its end."""
    low: float = math.nan
    """Of the mean's 95 % interval over seeds and people (`tune.statistics.repeated`); nan for fewer than two repeats,
    and in runs of versions that did not record it."""
    high: float = math.nan
    to_end: TrainedToEnd | None = None
    """What the trial came to after the search, if the search had stopped it early."""
    has_lost: bool = False
    """Whether its repeats were so much worse than the leader's that it was left out (`tune.selection.race`)."""

    @property
    def model_f1(self) -> float:
        """Best validation macro F1 of the model that is handed over."""
        return self.to_end.validation_f1 if self.to_end else self.validation_f1

    @property
    def interval(self) -> str:
        """The mean's interval as text, as in `[0.4711, 0.5912]`; "" where there is none."""
        return "" if math.isnan(self.low) else f"[{self.low:.4f}, {self.high:.4f}]"

    @classmethod
    def from_finalist(cls, finalist: Finalist) -> FinalistScores:
        """The scores of a finalist, without what its repeats predicted."""
        repeats = tuple(RepeatScore(one.repeat, one.seed, one.best_epoch, one.f1) for one in finalist.repeats)
        missing = finalist.failed
        if finalist.unfinished == NOT_KEPT:
            missing = (*missing, NOT_KEPT)
        elif finalist.unfinished and not finalist.has_lost:
            missing = (*missing, f"stopped early, then trained to its end: {finalist.unfinished}")
        return cls(
            trial=finalist.trial_id,
            validation_f1=finalist.validation_f1,
            mean=finalist.mean,
            spread=finalist.spread,
            repeats=repeats,
            missing=missing,
            low=finalist.low,
            high=finalist.high,
            to_end=finalist.to_end,
            has_lost=finalist.has_lost,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> FinalistScores:
        """The inverse of `to_json`."""
        return cls(
            trial=str(content["trial"]),
            validation_f1=share_of(content["validation_f1"]),
            mean=_from_null(content["mean"]),
            spread=_from_null(content["spread"]),
            repeats=tuple(typed(RepeatScore, one) for one in content["repeats"]),
            missing=typed(tuple[str, ...], content["missing"]),
            low=_from_null(content.get("low")),
            high=_from_null(content.get("high")),
            to_end=typed(TrainedToEnd, content["to_end"]) if content.get("to_end") else None,
            has_lost=bool(content.get("has_lost", False)),
        )

    def to_json(self) -> dict[str, Any]:
        """The finalist as search.json has it."""
        return {**asdict(self), **{key: _to_null(getattr(self, key)) for key in ("mean", "spread", "low", "high")}}


@dataclass(frozen=True)
class BagScores:
    """The winner's own model, those of its repeats and of other trials as one bundle (`tune.selection.bag`)."""

    models: int
    """In the bundle; each takes as much work for a photo as the winner alone."""
    averaged: int
    """At least so many had left a validation person out, whose mean was scored for that person."""
    gain: ModelDifference
    """Of that mean, minus a single repeat, or the winner where there is none: macro F1 on the validation people."""
    trial: str
    """The winner, or where no repeat is complete the best trial by validation."""
    repeats: int
    """Of it in the bundle."""
    others: tuple[str, ...] = ()
    """The other trials in it."""

    @property
    def pays(self) -> bool:
        """Whether best/ holds the bag, and not the winner alone."""
        return self.gain.mean > 0

    @property
    def members_text(self) -> str:
        """Whose models they are, as in `trial 0003, its 2 repeats and trial 0000`."""
        repeats = [f"its {counted(self.repeats, 'repeat')}"] if self.repeats else []
        *first, last = [f"trial {self.trial}", *repeats, *(f"trial {other}" for other in self.others)]
        return f"{', '.join(first)} and {last}" if first else last

    @property
    def averaged_text(self) -> str:
        """How many of them are averaged for a validation person."""
        return f"{self.averaged} or more" if self.others else str(self.averaged)

    @property
    def gain_text(self) -> str:
        """What averaging brought, as a sentence."""
        people = counted(self.gain.people, "validation person", "validation people")
        return (
            f"Averaging {self.averaged_text} of them changed macro F1 by {self.gain.mean:+.4f} [{self.gain.low:+.4f}, "
            f"{self.gain.high:+.4f}] on {people} whom they had left out: {self.gain.verdict}."
        )


@dataclass(frozen=True)
class ChoiceRecord:
    """The choice, whether or not it is final."""

    design: Design
    reason: Reason
    """Why the finalists' repeats stopped."""
    remaining: int
    """Repeats of finalists that have not ended."""
    finalists: tuple[FinalistScores, ...]
    """Best validation score first."""
    winner_id: str | None
    """None where no repeat is complete, or no finalist can be handed over."""
    holdout: HoldoutScore | None = None
    """The score of the winner's bundle; None before it was evaluated there."""
    preset: FinalistScores | None = None
    """Trial 0, or the finalist with its recipe; None where it gave no model, or an earlier version did not repeat
    it."""
    gain: Difference | None = None
    """The winner's repeats minus the preset's; None where they cannot be compared, or the preset itself won."""
    others_left: int = 0
    """Fits beside the finalists' repeats that have not ended: stopped finalists to their end, the preset's repeats."""
    by_rule: bool = True
    """Whether the repeats' classes are those of a decision rule (`RepeatResult`); in runs of earlier versions they are
    the likeliest ones."""
    bundle_f1: float | None = None
    """Validation macro F1 of the winner's bundle where it has a decision rule; None where the likeliest class is named,
    and before the bundle was written."""
    bag: BagScores | None = None
    """None where averaging was not asked for or what it brings is not known, and in runs of earlier versions."""

    @classmethod
    def from_results(
        cls,
        design: Design,
        outcome: Outcome,
        finalists: tuple[Finalist, ...],
        winner: Finalist | None,
        preset: Finalist | None = None,
        gain: Difference | None = None,
        others_left: int = 0,
    ) -> ChoiceRecord:
        """The record of fits that just ended, before the winner is evaluated on the holdout."""
        return cls(
            design=design,
            reason=outcome.reason,
            remaining=outcome.remaining,
            finalists=tuple(map(FinalistScores.from_finalist, finalists)),
            winner_id=winner.trial_id if winner else None,
            preset=FinalistScores.from_finalist(preset) if preset else None,
            gain=gain,
            others_left=others_left,
        )

    @property
    def winner(self) -> FinalistScores | None:
        """The winner's scores; None where there is no winner."""
        return next((one for one in self.finalists if one.trial == self.winner_id), None)

    @property
    def is_bag(self) -> bool:
        """Whether several models are handed over as one bundle."""
        return self.bag is not None and self.bag.pays

    @property
    def model_f1(self) -> float | None:
        """Validation macro F1 of what is handed over, with its decision rule; None where there is no winner.

        Of a bag it is that of the models that had left a person out.
        """
        if self.bundle_f1 is not None:
            return self.bundle_f1
        return self.winner.model_f1 if self.winner else None

    @property
    def optimism(self) -> float | None:
        """Validation minus holdout score, both of the model that is handed over; None where either is missing."""
        return self.model_f1 - self.holdout.f1 if self.model_f1 is not None and self.holdout else None

    @property
    def search_best(self) -> FinalistScores | None:
        """The finalist with the search's best validation score, which need not be the winner."""
        return max(self.finalists, key=lambda one: one.validation_f1, default=None)

    @property
    def gain_text(self) -> str:
        """The gain with its interval and verdict, as in `+0.0210 [-0.0040, +0.0460], can't tell`; "" without one."""
        if self.gain is None:
            return ""
        interval = f" [{self.gain.low:+.4f}, {self.gain.high:+.4f}]" if self.gain.n > 1 else " by one repeat"
        return f"{self.gain.mean:+.4f}{interval}, {self.gain.verdict}"

    @property
    def why_no_winner(self) -> str:
        """Why there is no winner, as the beginning of a sentence."""
        if any(one.repeats for one in self.finalists):
            return "Every finalist with complete repeats diverged when it was trained to its end"
        return "No repeat of a finalist is complete"

    @property
    def is_complete(self) -> bool:
        """Whether every fit ended and the winner was evaluated on the holdout."""
        left = self.remaining + self.others_left
        return self.reason == Reason.FINISHED and not left and self.holdout is not None

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
            "model_validation_f1": self.model_f1,
            "mean": winner and _to_null(winner.mean),
            "spread": winner and _to_null(winner.spread),
            "repeats": len(winner.repeats) if winner else 0,
            "holdout": self.holdout and asdict(self.holdout),
            "optimism": self.optimism,
            "preset": self.preset and self.preset.to_json(),
            "gain": self.gain and {name: _to_null(value) for name, value in asdict(self.gain).items()},
            "others_left": self.others_left,
            "by_rule": self.by_rule,
            "bundle_f1": self.bundle_f1,
            "bag": self.bag and asdict(self.bag),
        }


def read_choice(search: SearchRecord) -> ChoiceRecord | None:
    """The choice in the content of a search.json; None where no finalists were repeated."""
    if not search.choice:
        return None
    try:
        return _choice_of(search.choice)
    except (ValueError, KeyError, TypeError, AttributeError, MaskclsError) as error:
        raise damaged("choice", error) from None


def _choice_of(content: Mapping[str, Any]) -> ChoiceRecord:
    return ChoiceRecord(
        # Design and Reason turn the file's words into their enums.
        design=typed(Design, content["design"]),
        reason=Reason(content["why"]),
        remaining=int(content["left"]),
        finalists=tuple(map(FinalistScores.from_json, content["finalists"])),
        winner_id=typed(str | None, content["winner"]),  # type: ignore[arg-type]
        holdout=typed(HoldoutScore, content["holdout"]) if content["holdout"] else None,
        # Not in runs of earlier versions.
        preset=FinalistScores.from_json(content["preset"]) if content.get("preset") else None,
        gain=_gain_of(content["gain"]) if content.get("gain") else None,
        others_left=int(content.get("others_left", 0)),
        by_rule=bool(content.get("by_rule", False)),
        bundle_f1=None if content.get("bundle_f1") is None else share_of(content["bundle_f1"]),
        bag=_bag_of(content) if content.get("bag") else None,
    )


def _bag_of(content: Mapping[str, Any]) -> BagScores:
    bag = content["bag"]
    # In runs of earlier versions it is of the winner and its repeats.
    return typed(BagScores, {"trial": content["winner"], "repeats": int(bag["models"]) - 1, **bag})


def _gain_of(content: Mapping[str, Any]) -> Difference:
    return Difference(int(content["n"]), *(_from_null(content[name]) for name in ("mean", "low", "high")))


def _to_null(value: float) -> float | None:
    return None if math.isnan(value) else value


def _from_null(value: float | None) -> float:
    return math.nan if value is None else number_of(value)
