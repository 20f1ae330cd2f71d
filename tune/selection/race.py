"""How far finalists are repeated: as often as a time budget has room for, and none that has lost already.

A finalist has lost when the paired difference of its repeats and a better one's (`tune.statistics.paired`), over two or
more repeats of both, lies below zero with its whole interval. It is not repeated further, nor trained to its end; and
because the likeliest classes are compared, repeats of others that come later do not change what it has lost by. The
idea is that of Hoeffding races (Maron and Moore, The Racing Algorithm, Artificial Intelligence Review 11, 1997), with
the intervals that all comparisons have here; these are looked at more than once, which makes a wrong verdict somewhat
likelier than one in twenty. The two best by their means go on in any case, so that the winner has somebody beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tune.fitting.request import FitRequest
from tune.runs import leaderboard
from tune.runs.study import Record
from tune.selection.finalists import NOT_DONE, Design, Finalist
from tune.selection.gain import repeats_difference
from tune.statistics.paired import Difference, Verdict

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

AT_LEAST = 2
"""Repeats that a difference needs for an interval, and so for a verdict."""
IN_THE_RACE = 2
"""How many of the best go on whatever the interval."""
ENOUGH = 0.9
"""A fit may begin where it has so much of the time that it is expected to take."""
AT_BEST = 0.5
"""What share of its trial's time a repeat takes at best: of fewer people, and with stores that the trial filled."""
_PACE_OF = 3
"""A fit takes what one of so many best trials took, the slowest."""


def fit_seconds(trials: Sequence[Record], epochs: int) -> float:
    """Estimate the seconds of a fit of so many epochs by the best trials so far; 0 before one has ended an epoch."""
    timed = [record for record in trials if record.epochs and record.seconds]
    best = leaderboard.ranked(timed)[:_PACE_OF]
    return epochs * max((record.seconds / record.epochs for record in best), default=0.0)


def fits_in(seconds: float, a_fit_s: float, at_a_time: int) -> float:
    """How many fits have room in so many seconds, at least one turn of them; inf where a fit's time is not known."""
    return max(1, math.floor(seconds / a_fit_s)) * at_a_time if a_fit_s else math.inf


def with_repeats(design: Design, repeats: int) -> Design:
    """The design with so many of its repeats, the first ones: their folds stay the same."""
    return replace(design, repeats=repeats, folds=design.n_folds if repeats < design.n_folds else 0)


class TimeLeft:
    """What is left of a time budget: a repeat that would not end in it need not begin.

    It is expected to take what the fastest one before it took, and the first ones AT_BEST of their trial.

    Args:
        trials: those that are repeated.
    """

    def __init__(self, budget_s: float | None, trials: Sequence[Record]) -> None:
        self._of_trial = {one.trial_id: AT_BEST * one.seconds for one in trials}
        self._until = math.inf if budget_s is None else time.monotonic() + budget_s
        self._began: dict[str, float] = {}
        self._fastest_s = 0.0
        self.turned_away = False
        """Whether a repeat had no room."""

    def why_not(self, request: FitRequest) -> str:
        """Why the fit, which would begin now, need not; "" where it has room, and then its time begins."""
        now = time.monotonic()
        expected_s = self._fastest_s or self._of_trial.get(request.trial, 0.0)
        if request.repeat is not None and now + ENOUGH * expected_s > self._until:
            self.turned_away = True
            return "no time is left for it"
        self._began[request.trial_id] = now
        return ""

    def ended(self, request: FitRequest) -> None:
        """Note how long a repeat took."""
        if request.repeat is not None and request.trial_id in self._began:
            took_s = time.monotonic() - self._began[request.trial_id]
            self._fastest_s = min(took_s, self._fastest_s or math.inf)


def losers(finalists: Sequence[Finalist], faces: FaceDataset) -> dict[str, Difference]:
    """Return of each finalist that has lost, by its trial's id, the difference to the best one that it has lost to.

    Raises DataError where two repeats have predictions for different photos.
    """
    ranked = sorted((one for one in finalists if one.repeats), key=lambda one: -one.mean)
    found = {}
    for place, one in enumerate(ranked[IN_THE_RACE:], IN_THE_RACE):
        for better in ranked[:place]:
            difference = repeats_difference(better, one, faces, likeliest=True)
            if difference is not None and difference.verdict == Verdict.WORSE:
                found[one.trial_id] = difference
                break
    return found


def left_out(finalist: Finalist, lost: Difference) -> Finalist:
    """The finalist that has lost by that difference: it is the reason of all that is not done of it."""
    why = why_lost(lost)
    failed = tuple(
        line.removesuffix(NOT_DONE) + why if line.endswith(f": {NOT_DONE}") else line for line in finalist.failed
    )
    unfinished = why if finalist.unfinished == NOT_DONE else finalist.unfinished
    has_lost = (failed, unfinished) != (finalist.failed, finalist.unfinished)
    return replace(finalist, failed=failed, unfinished=unfinished, has_lost=has_lost)


def why_lost(lost: Difference) -> str:
    """Why a finalist is left out, in a few words."""
    return f"left out, worse by {lost.n} repeats ({lost.mean:+.4f} [{lost.low:+.4f}, {lost.high:+.4f}])"
