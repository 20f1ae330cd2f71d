"""The choice: finalists repeated, the best mean wins, and the winner's bundle is looked at on the holdout once.

search.json keeps it under `choice`: the design, each finalist with its scores, the winner, its holdout score and what the search's own
score promised too much (`optimism`). What the terminal and the report say is said from there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskcls.stores.arrays import CacheOptions
from maskcls.text import counted
from tune.runs.folder import SearchRun
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import Record
from tune.selection.finalists import Design, Finalist, pick_winner, read_finalists, repeat_requests, top_trials
from tune.selection.holdout import HoldoutEvaluation, evaluate_on_holdout, holdout_evaluations

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from tune.fitting.request import FitRequest

CHOICE = "choice"


@dataclass(frozen=True)
class Choice:
    """How the repeats ended and what they say. `winner` is None where no repeat is complete."""

    outcome: Outcome
    finalists: tuple[Finalist, ...]
    winner: Finalist | None

    @property
    def is_final(self) -> bool:
        """Whether there is a winner that going on would not change: nothing was interrupted. A fit that fails would fail again."""
        return self.winner is not None and self.outcome.reason == Reason.FINISHED


def fits_to_do(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design) -> list[FitRequest]:
    """The repeats that have no result yet; where there are none, `choose` needs no Ray."""
    from tune.fitting.pool import to_do

    return to_do(repeat_requests(run, trials, faces, design, cpus=1, gpus=0.0))


def choose(
    run: SearchRun,
    trials: Sequence[Record],
    faces: FaceDataset,
    design: Design,
    *,
    parallel: int,
    cpus: int,
    gpus: float,
    cache: CacheOptions,
    budget_s: float | None = None,
    plain: bool | None = None,
) -> Choice:
    """Run the repeats that are missing, and note in search.json what all of them say, without the holdout.

    Ray must be connected where `fits_to_do` names any; the caller holds the run. Called again it goes on with what is left.

    Raises CallError or DataError for folds that cannot be made, RunError as `run_fits` does.
    """
    from tune.fitting.pool import run_fits
    from tune.selection.fits import repeat_fit

    asked = repeat_requests(run, trials, faces, design, cpus=cpus, gpus=gpus)
    work = functools.partial(repeat_fit, cache=cache)
    outcome = run_fits(asked, work, parallel=parallel, budget_s=budget_s, plain=plain)
    finalists = tuple(read_finalists(run, trials, faces, design))
    chosen = Choice(outcome, finalists, pick_winner(finalists))
    run.write_search({**run.search(), CHOICE: record(design, chosen)})
    return chosen


def is_made(run: SearchRun, design: Design) -> bool:
    """Whether search.json tells the choice among the run's trials as they are now, to its end, the look at the holdout included."""
    from tune.runs.study import records

    made = run.search().get(CHOICE)
    if not made or made["design"] != asdict(design) or made["why"] != Reason.FINISHED or made["left"]:
        return False
    wanted = [trial.trial_id for trial in top_trials(records(run), design.finalists)]
    return wanted == [one["trial"] for one in made["finalists"]] and made["holdout"] is not None


def confirm(run: SearchRun, faces: FaceDataset, chosen: Choice, bundle: Path) -> HoldoutEvaluation:
    """Look at the winner's bundle on the holdout, and note its score and the search's optimism beside the choice.

    Raises DataError as `evaluate_on_holdout` does.
    """
    if chosen.winner is None:
        raise ValueError("There is no winner to confirm.")
    found = evaluate_on_holdout(run, faces, bundle, f"trial {chosen.winner.trial_id}")
    search = run.search()
    told = {name: value for name, value in asdict(found).items() if name != "scores"}
    optimism = chosen.winner.validation_f1 - found.f1
    run.write_search({**search, CHOICE: {**search[CHOICE], "holdout": told, "optimism": optimism}})
    return found


def record(design: Design, chosen: Choice) -> dict[str, Any]:
    """For search.json. Scores that are not there are None."""
    best = chosen.winner
    return {
        "design": asdict(design),
        "why": chosen.outcome.reason,
        "left": chosen.outcome.remaining,
        "finalists": [_of_finalist(finalist) for finalist in chosen.finalists],
        "winner": best and best.trial_id,
        "validation_f1": best and best.validation_f1,
        "mean": best and best.mean,
        "spread": best and _number(best.spread),
        "repeats": len(best.repeats) if best else 0,
        "holdout": None,
        "optimism": None,
    }


def summary(search: Mapping[str, Any]) -> list[str]:
    """What a run's search.json says of its choice, in lines for a terminal; none where no finalists were run."""
    choice = search.get(CHOICE)
    if not choice:
        return []
    missing = [f"Trial {one['trial']}, {line}" for one in choice["finalists"] for line in one["missing"]]
    if choice["winner"] is None:
        return ["No repeat of a finalist is complete, so nothing is chosen but by validation.", *missing]
    lines = [f"Winner: trial {choice['winner']}, {mean_text(choice)} (validation {choice['validation_f1']:.4f})."]
    found = choice["holdout"]
    if found:
        people = counted(found["people"], "person", "people")
        lines.append(f"Holdout: {found['f1']:.4f} [{found['low']:.4f}, {found['high']:.4f}], {people}.")
        lines.append(f"Optimism of the search: {choice['optimism']:+.4f} (validation less holdout).")
    if holdout_evaluations(search):
        lines.append(holdout_note(search))
    return lines + missing


def mean_text(choice: Mapping[str, Any]) -> str:
    """As in `mean of 3 repeats 0.5312 +- 0.0121`; of a choice that has a winner."""
    n, spread = choice["repeats"], choice["spread"]
    return (
        f"mean of {n} repeats {choice['mean']:.4f} +- {spread:.4f}"
        if spread is not None
        else f"one repeat {choice['mean']:.4f}"
    )


def holdout_note(search: Mapping[str, Any]) -> str:
    """How often the holdout has been looked at: how many different bundles were scored there."""
    n = len(holdout_evaluations(search))
    if n < 2:
        return f"The holdout has been looked at {counted(n, 'time')}."
    return f"The holdout has been looked at {n} times: the best of those scores is too good again."


def _of_finalist(finalist: Finalist) -> dict[str, Any]:
    return {
        "trial": finalist.trial_id,
        "validation_f1": finalist.validation_f1,
        "mean": _number(finalist.mean),
        "spread": _number(finalist.spread),
        "repeats": [
            {"repeat": one.repeat, "seed": one.seed, "best_epoch": one.best_epoch, "f1": one.f1}
            for one in finalist.repeats
        ],
        "missing": list(finalist.failed),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
