"""The choice among a search's finalists: each is trained again, the best mean wins, and the winner's bundle is scored
on the holdout once.

The record in search.json (`tune.selection.record`) is what the terminal and the report describe.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.stores.arrays import CacheOptions
from maskcls.text import counted
from tune.fitting.pool import run_fits, to_do
from tune.fitting.request import FitRequest
from tune.runs import events
from tune.runs.folder import SearchRun
from tune.runs.record import SearchRecord
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import Record, records
from tune.selection.finalists import Design, Finalist, pick_winner, read_finalists, repeat_requests, top_trials
from tune.selection.finish import divergence
from tune.selection.holdout import HoldoutEvaluation, HoldoutScore, evaluate_on_holdout, holdout_evaluations
from tune.selection.record import ChoiceRecord, FinalistScores, read_choice

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset


@dataclass(frozen=True)
class Choice:
    """How the repeats ended, and the winner by their scores: None where `pick_winner` finds none."""

    outcome: Outcome
    finalists: tuple[Finalist, ...]
    winner: Finalist | None

    @property
    def is_final(self) -> bool:
        """Whether a resume would choose the same winner: there is one, and no repeat was interrupted.

        A repeat that failed or diverged would do so again, so it keeps nothing open.
        """
        return self.winner is not None and self.outcome.reason == Reason.FINISHED


def fits_to_do(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design) -> list[FitRequest]:
    """The repeats that have no result yet; where there are none, `choose` needs no Ray."""
    # What a fit is given of the machine is no part of its id, so any share will do.
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
    """Run the repeats that are missing, pick the winner and write both to search.json. The holdout takes no part.

    Ray must be connected where `fits_to_do` names any repeat; the caller holds the run's lock. A second call goes on
    with the repeats that the first one left.

    Raises:
        CallError: more folds than people.
        DataError: a fold's file, or a repeat's predictions, are damaged.
        RunError: as `run_fits`.
    """
    from tune.selection.fits import repeat_fit

    # Fits that are done already, also those of another design, are read instead of run again.
    requests = repeat_requests(run, trials, faces, design, cpus=cpus, gpus=gpus)
    work = functools.partial(repeat_fit, cache=cache)
    outcome = run_fits(requests, work, parallel=parallel, budget_s=budget_s, plain=plain)
    return _made(run, design, outcome, read_finalists(run, trials, faces, design))  # with the repeats of earlier calls


def choose_again(run: SearchRun, design: Design, chosen: Choice) -> Choice:
    """Pick the winner, and write it, once more after `tune.selection.finish` trained one: it may have diverged."""
    return _made(run, design, chosen.outcome, chosen.finalists)


def _made(run: SearchRun, design: Design, outcome: Outcome, read: Sequence[Finalist]) -> Choice:
    finalists = tuple(replace(one, diverged=divergence(run, one)) for one in read)
    winner = pick_winner(finalists)
    record = ChoiceRecord.from_results(design, outcome, finalists, winner)
    write_choice(run, record)
    _report_choice(record)
    return Choice(outcome, finalists, winner)


def _report_choice(record: ChoiceRecord) -> None:
    content = record.to_json()
    same_keys = ("winner", "validation_f1", "mean", "spread", "finalists")
    events.emit(
        events.ChoiceMade(**{key: content[key] for key in same_keys}, reason=record.reason, remaining=record.remaining)
    )


def is_made(run: SearchRun, design: Design) -> bool:
    """Whether search.json has the complete choice of this design among the run's trials as they are now."""
    made = read_choice(run.record())
    if made is None or made.design != design or not made.is_complete:
        return False
    # A trial that ended since, and scored better, is a finalist that the recorded choice does not know.
    wanted = [trial.trial_id for trial in top_trials(records(run), design.finalists)]
    return wanted == [one.trial for one in made.finalists]


def confirm(run: SearchRun, faces: FaceDataset, chosen: Choice, bundle: Path) -> HoldoutEvaluation:
    """Score the winner's bundle on the holdout, and add the score and the search's optimism to the choice's record.

    Raises DataError as `evaluate_on_holdout` does.
    """
    if chosen.winner is None:
        raise ValueError("There is no winner to confirm.")
    # May write search.json, so the choice is read from it afterwards.
    found = evaluate_on_holdout(run, faces, bundle, f"trial {chosen.winner.trial_id}")
    made = read_choice(run.record())
    if made is None:
        raise ValueError(f"{run.record_file} has no choice to confirm.")
    # All metrics of the evaluation are in search.json under `holdout`; the choice repeats F1, interval and counts.
    score = HoldoutScore(**{field.name: getattr(found, field.name) for field in fields(HoldoutScore)})
    record = replace(made, holdout=score)
    write_choice(run, record)
    evaluations = len(holdout_evaluations(run.record()))
    events.emit(
        events.HoldoutScored(
            trial=chosen.winner.trial_id,
            f1=found.f1,
            low=found.low,
            high=found.high,
            people=found.people,
            photos=found.photos,
            optimism=record.optimism,
            evaluations=evaluations,
        )
    )
    return found


def write_choice(run: SearchRun, record: ChoiceRecord) -> None:
    """Put the record into the run's search.json, in place of the one before."""
    # Read again, because search.json holds more than the choice, and may have changed since.
    run.write_record(run.record().changed(choice=record.to_json()))


def summary(search: SearchRecord) -> list[str]:
    """The choice in the content of a search.json, as lines for a terminal; none where no finalists were repeated."""
    choice = read_choice(search)
    if choice is None:
        return []
    missing = [f"Trial {one.trial}, {line}" for one in choice.finalists for line in one.missing]
    winner = choice.winner
    if winner is None:
        return [f"{choice.why_no_winner}, so the best trial is chosen by validation alone.", *missing]
    lines = [f"Winner: trial {winner.trial}, {mean_text(winner)} (validation {winner.validation_f1:.4f})."]
    if choice.holdout:
        lines.append(f"Holdout: {choice.holdout.f1:.4f} {choice.holdout.interval}, {choice.holdout.people_text}.")
        lines.append(f"Optimism of the search: {choice.optimism:+.4f} (validation minus holdout).")
    if holdout_evaluations(search):
        lines.append(holdout_note(search))
    return lines + missing


def mean_text(winner: FinalistScores) -> str:
    """A winner's score, as in `mean of 3 repeats 0.5312 +- 0.0121`."""
    if math.isnan(winner.spread):
        return f"one repeat {winner.mean:.4f}"
    return f"mean of {len(winner.repeats)} repeats {winner.mean:.4f} +- {winner.spread:.4f}"


def holdout_note(search: SearchRecord) -> str:
    """A sentence on how many different bundles were scored on the holdout, for each of them weakens the next score."""
    n = len(holdout_evaluations(search))
    if n < 2:
        return f"The holdout has been used {counted(n, 'time')}."
    return f"The holdout has been used {n} times: the best of those scores is too high again."
