"""The choice among a search's finalists: each is trained again, the best mean wins, and the winner's bundle is scored
on the holdout once.

Beside the finalists' repeats, those that the search stopped early are trained to their end, and the preset's recipe is
repeated on the same people with the same seeds, for the gain over it.

The record in search.json (`tune.selection.record`) is what the terminal and the report describe.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.stores.cache_options import CacheOptions
from maskcls.text import counted
from tune.fitting.pool import run_fits, to_do
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.fitting.worker import FitOutcome
from tune.runs import events
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import HoldoutEvaluation, HoldoutScore, holdout_evaluations
from tune.runs.holdout_uses import holdout_note, holdout_uses
from tune.runs.session import say
from tune.runs.stopping import Outcome, Reason
from tune.runs.study import Record, records
from tune.selection.finalists import (
    Design,
    Finalist,
    RepeatBy,
    pick_winner,
    preset_trial,
    read_finalists,
    repeat_requests,
    top_trials,
    why_unfinished,
)
from tune.selection.finish import finish_request, has_ended, is_left, with_end
from tune.selection.gain import gain_over_preset
from tune.selection.holdout import evaluate_on_holdout
from tune.selection.race import AT_LEAST, IN_THE_RACE, TimeLeft, left_out, losers, why_lost, with_repeats
from tune.selection.record import BagScores, ChoiceRecord, FinalistScores, read_choice
from tune.states import TrialState
from tune.statistics.paired import Difference

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset


@dataclass(frozen=True)
class Choice:
    """How the fits ended, and the winner by the repeats' scores: None where `pick_winner` finds none."""

    outcome: Outcome
    """Of the finalists' repeats, which decide."""
    others: Outcome
    """Of the fits beside them: stopped finalists to their end, and the preset's repeats."""
    finalists: tuple[Finalist, ...]
    winner: Finalist | None

    @property
    def is_final(self) -> bool:
        """Whether a resume would choose the same winner: there is one, and no repeat was interrupted.

        A repeat that failed or diverged would do so again, so it keeps nothing open.
        """
        return self.winner is not None and self.outcome.reason == Reason.FINISHED


@dataclass(frozen=True)
class Requests:
    """The fits of a choice."""

    repeats: tuple[FitRequest, ...]
    """Of the finalists, which decide."""
    others: tuple[FitRequest, ...]
    """Stopped finalists to their end, then the preset's repeats. They come last, where the time may be up."""

    @classmethod
    def of(
        cls, run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design, *, cpus: int, gpus: float
    ) -> Requests:
        """Plan the fits. Raises as `repeat_requests` does."""
        finalists = top_trials(trials, design.finalists)
        to_end = [finish_request(run, one, cpus=cpus, gpus=gpus) for one in finalists if why_unfinished(run, one)]
        preset = preset_trial(trials, finalists)
        alone = [preset] if preset is not None and preset not in finalists else []
        of_preset = repeat_requests(run, alone, faces, replace(design, finalists=1), cpus=cpus, gpus=gpus)
        named = [replace(request, label=f"preset, {request.label}", keeps_checkpoint=False) for request in of_preset]
        repeats = repeat_requests(run, trials, faces, design, cpus=cpus, gpus=gpus)
        return cls(tuple(repeats), (*to_end, *named))

    def to_do(self, lost: Collection[str] = ()) -> list[FitRequest]:
        """Those that have no result yet, but for the finalists that have lost, by their trials' ids."""
        return [one for one in to_do((*self.repeats, *self.others), is_done) if one.trial not in lost]

    @property
    def deciding(self) -> Requests:
        """Without the preset's repeats."""
        return replace(self, others=tuple(one for one in self.others if one.continues_trial))


def is_done(request: FitRequest, result: FitResult) -> bool:
    """Whether a fit of a choice needs no more work."""
    return has_ended(request, result) if request.continues_trial else result.is_final


def fits_to_do(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design) -> list[FitRequest]:
    """The fits that have no result yet; where there are none, `choose` needs no Ray."""
    # What a fit is given of the machine is no part of its id, so any share will do.
    return Requests.of(run, trials, faces, design, cpus=1, gpus=0.0).to_do(_lost(run, trials, faces, design))


def affordable(
    run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design, room: float
) -> tuple[Design, int]:
    """As many of the design's finalists as `room` fits are enough for, or one with fewer repeats, at least AT_LEAST;
    and how many fits these still need, their repeats and their trainings to the end. What is done needs none.

    Raises as `repeat_requests` does.
    """

    def needed(fewer: Design) -> int:
        deciding = Requests.of(run, trials, faces, fewer, cpus=1, gpus=0.0).deciding
        return len(deciding.to_do(_lost(run, trials, faces, fewer)))

    fewest = min(design.repeats, AT_LEAST)
    of_one = [with_repeats(replace(design, finalists=1), n) for n in range(fewest, design.repeats + 1)]
    of_more = [replace(design, finalists=n) for n in range(2, len(top_trials(trials, design.finalists)) + 1)]
    found = [(fewer, needed(fewer)) for fewer in (*of_one, *of_more)]  # ever more fits
    return [one for one in found if one[1] <= max(room, found[0][1])][-1]


def _lost(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design) -> dict[str, Difference]:
    """The finalists that have lost by the repeats that are done, but for the preset, whose repeats give the gain."""
    top = top_trials(trials, design.finalists)
    if len(top) <= IN_THE_RACE:  # then nobody can lose, and nothing need be read
        return {}
    found = losers(read_finalists(run, trials, faces, design), faces)
    preset = preset_trial(trials, top)
    return {trial: lost for trial, lost in found.items() if preset is None or trial != preset.trial_id}


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
    grace_s: float = 0.0,
    plain: bool | None = None,
) -> Choice:
    """Run the fits that are missing, pick the winner and write both to search.json. The holdout takes no part.

    Ray must be connected where `fits_to_do` names any fit; the caller holds the run's lock. A second call goes on with
    the fits that the first one left.

    Raises:
        CallError: more folds than people.
        DataError: a fold's file, or a repeat's predictions, are damaged.
        RunError: as `run_fits`.
    """
    from tune.selection.fits import choice_fit

    # Fits that are done already, also those of another design, are read instead of run again.
    requests = Requests.of(run, trials, faces, design, cpus=cpus, gpus=gpus)
    watch = _Watch(functools.partial(_why_lost, run, trials, faces, design), TimeLeft(budget_s, trials))
    work = functools.partial(choice_fit, cache=cache)
    wanted = (*requests.repeats, *requests.others)
    waiting = requests.to_do(_lost(run, trials, faces, design))
    if waiting:  # a log would be silent from the last trial's end to the first end of these
        say(f"{_what_is_repeated(requests, design)}; {counted(len(waiting), 'fit')} to do.")
    ended = run_fits(
        wanted,
        work,
        parallel=parallel,
        budget_s=budget_s,
        grace_s=grace_s,
        plain=plain,
        on_end=watch.note_end,
        is_done=is_done,
        why_skip=watch.why_skip,
    )
    ended = watch.outcome(ended)
    lost = _lost(run, trials, faces, design)
    outcome, others = (_outcome_of(part, ended, watch.failed, lost) for part in (requests.repeats, requests.others))
    if ended.reason == Reason.INTERRUPTED:  # be it after the last fit's end
        others = replace(others, reason=Reason.INTERRUPTED)
    finalists, preset = read_choice_fits(run, trials, faces, design)  # with the fits of earlier calls
    winner = pick_winner(finalists)
    gain = gain_over_preset(winner, preset, faces) if winner and preset else None
    left = others.remaining
    record = ChoiceRecord.from_results(design, outcome, finalists, winner, preset, gain, left)
    write_choice(run, record)
    _report_choice(record)
    return Choice(outcome, others, finalists, winner)


class _Watch:
    """Says before each fit whether it is wanted, by `why_lost` and the time left, and notes which of them failed."""

    def __init__(self, why_lost: Callable[[FitRequest], str], time_left: TimeLeft) -> None:
        self._why_lost, self._time_left = why_lost, time_left
        self.failed: set[str] = set()

    def why_skip(self, request: FitRequest) -> str:
        """Why the fit need not begin; "" where it begins now."""
        return self._why_lost(request) or self._time_left.why_not(request)

    def note_end(self, request: FitRequest, ended: FitOutcome) -> None:
        """Note how a fit ended."""
        self._time_left.ended(request)
        if ended.state in (TrialState.FAILED, TrialState.OUT_OF_MEMORY):
            self.failed.add(request.trial_id)

    def outcome(self, ended: Outcome) -> Outcome:
        """How the fits ended: the time is up as well where one did not begin for want of it."""
        no_time = self._time_left.turned_away and ended.reason == Reason.FINISHED
        return replace(ended, reason=Reason.TIME_UP) if no_time else ended


def _why_lost(run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design, request: FitRequest) -> str:
    """Why a fit need not begin, because its finalist has lost; "" where it is wanted."""
    if not (request.continues_trial or (request.repeat or 0) >= AT_LEAST):
        return ""  # nobody has lost yet
    lost = _lost(run, trials, faces, design).get(request.trial)
    return why_lost(lost) if lost else ""


def _what_is_repeated(requests: Requests, design: Design) -> str:
    n = len({request.trial for request in requests.repeats})
    best = "trial" if n == 1 else f"{n} trials"
    preset = " and the preset" if any(request.repeat is not None for request in requests.others) else ""
    often = counted(design.repeats, design.by.removesuffix("s"))
    if design.by == RepeatBy.FOLDS and design.repeats < design.n_folds:
        often = f"{design.repeats} of {design.n_folds} folds"
    return f"Trained again: the best {best}{preset}, with {often} each"


def _outcome_of(part: Sequence[FitRequest], ended: Outcome, failed: Collection[str], lost: Collection[str]) -> Outcome:
    """How some of the fits ended that ran together. Those that failed remain, as `run_fits` counts; those of finalists
    that have lost are not wanted."""
    left = [request.trial_id for request in to_do(part, is_done) if request.trial not in lost]
    reason = ended.reason if set(left) - set(failed) else Reason.FINISHED
    return Outcome(reason, len(left), ended.signal_number)


def read_choice_fits(
    run: SearchRun, trials: Sequence[Record], faces: FaceDataset, design: Design
) -> tuple[tuple[Finalist, ...], Finalist | None]:
    """The finalists, best validation score first, and the preset's trial (`preset_trial`), with what their fits gave.

    Raises DataError where a result is damaged.
    """
    lost = _lost(run, trials, faces, design)
    read = (with_end(run, one) for one in read_finalists(run, trials, faces, design))
    finalists = tuple(left_out(one, lost[one.trial_id]) if one.trial_id in lost else one for one in read)
    preset = preset_trial(trials, top_trials(trials, design.finalists))
    if preset is None:
        return finalists, None
    own = next((one for one in finalists if one.trial_id == preset.trial_id), None)
    if own is None:
        (own,) = read_finalists(run, [preset], faces, replace(design, finalists=1))
        # Nobody asks for its model, so it is not trained to its end.
        own = replace(own, unfinished="")
    return finalists, own


def _report_choice(record: ChoiceRecord) -> None:
    content = record.to_json()
    same_keys = ("winner", "validation_f1", "model_validation_f1", "mean", "spread", "finalists", "preset", "gain")
    events.emit(
        events.ChoiceMade(**{key: content[key] for key in same_keys}, reason=record.reason, remaining=record.remaining)
    )


def is_made(run: SearchRun, design: Design, *, at_most: bool = False) -> bool:
    """Whether search.json has the complete choice of this design among the run's trials as they are now.

    Args:
        at_most: whether it may be one among fewer finalists, or with fewer repeats, for want of time.
    """
    made = read_choice(run.record())
    if made is None or not made.is_complete:
        return False
    if at_most:
        design = replace(design, finalists=min(made.design.finalists, design.finalists))
        design = with_repeats(design, min(made.design.repeats, design.repeats))
    if made.design != design:
        return False
    # A trial that ended since, and scored better, is a finalist that the recorded choice does not know.
    wanted = top_trials(records(run), design.finalists)
    if [trial.trial_id for trial in wanted] != [one.trial for one in made.finalists]:
        return False
    # Earlier versions trained the winner alone to its end.
    lost = {one.trial for one in made.finalists if one.has_lost}
    return not any(is_left(run, one) for one in wanted if why_unfinished(run, one) and one.trial_id not in lost)


def confirm(run: SearchRun, faces: FaceDataset, chosen: Choice, bundle: Path) -> HoldoutEvaluation:
    """Score the winner's bundle on the holdout, add the score to it, and score and optimism to the choice's record.

    Raises DataError as `evaluate_on_holdout` does.
    """
    from maskcls.serving.export import note_scores  # imports torch
    from tune.selection.fitted import decided_f1

    if chosen.winner is None:
        raise ValueError("There is no winner to confirm.")
    before = read_choice(run.record())
    bag = before.bag if before is not None else None
    what = bag.members_text if bag is not None and bag.pays else f"trial {chosen.winner.trial_id}"
    # May write search.json, so the choice is read from it afterwards.
    found = evaluate_on_holdout(run, faces, bundle, what)
    made = read_choice(run.record())
    if made is None:
        raise ValueError(f"{run.record_file} has no choice to confirm.")
    # All metrics of the evaluation are in search.json under `holdout`; the choice repeats F1, interval and counts.
    score = HoldoutScore(**{field.name: getattr(found, field.name) for field in fields(HoldoutScore)})
    record = replace(made, holdout=score, bundle_f1=decided_f1(bundle))
    write_choice(run, record)
    note_scores(bundle, {"holdout": {**found.scores, "low": found.low, "high": found.high}})
    events.emit(
        events.HoldoutScored(
            trial=chosen.winner.trial_id,
            f1=found.f1,
            low=found.low,
            high=found.high,
            people=found.people,
            photos=found.photos,
            validation_f1=record.model_f1,
            optimism=record.optimism,
            evaluations=len(holdout_uses(run)),
            models=record.bag.models if record.bag and record.is_bag else 1,
        )
    )
    return found


def write_choice(run: SearchRun, record: ChoiceRecord) -> None:
    """Put the record into the run's search.json, in place of the one before."""
    # Read again, because search.json holds more than the choice, and may have changed since.
    run.write_record(run.record().changed(choice=record.to_json()))


def summary(run: SearchRun) -> list[str]:
    """The choice in a run's search.json, as lines for a terminal; none where no finalists were repeated."""
    search = run.record()
    choice = read_choice(search)
    if choice is None:
        return []
    missing = [f"Trial {one.trial}, {line}" for one in choice.finalists for line in one.missing]
    winner = choice.winner
    of_bag = [] if choice.bag is None else [bag_text(choice.bag), choice.bag.gain_text]
    if winner is None:
        return [f"{choice.why_no_winner}, so the best trial is chosen by validation alone.", *of_bag, *missing]
    lines = [f"Winner: trial {winner.trial}, {mean_text(winner)} (validation {choice.model_f1:.4f}).", *of_bag]
    if winner.to_end:
        lines.append(
            f"The search stopped it at {winner.validation_f1:.4f}; {winner.model_f1:.4f} is its validation at its end."
        )
    best = choice.search_best
    if best is not None and best.trial != winner.trial:
        lines.append(f"The search's best score: {best.validation_f1:.4f}, trial {best.trial}.")
    if choice.holdout:
        lines.append(f"Holdout: {choice.holdout.f1:.4f} {choice.holdout.interval}, {choice.holdout.people_text}.")
        of = "validation by the models that left a person out," if choice.is_bag else "the winner's validation"
        lines.append(f"Optimism of the search: {choice.optimism:+.4f} ({of} minus holdout).")
    if holdout_evaluations(search):
        lines.append(holdout_note(run))
    return lines + missing


def bag_text(bag: BagScores) -> str:
    """What best/ holds of the models that may be averaged, as a sentence."""
    if not bag.pays:
        return f"best/ holds the own model of trial {bag.trial} alone: averaging {bag.models} models does not pay."
    return (
        f"best/ is a bag of {bag.models} models: {bag.members_text}. A photo is answered by all {bag.models}, which "
        f"takes so many times the work (--single: by trial {bag.trial} alone)."
    )


def mean_text(winner: FinalistScores) -> str:
    """A winner's score, as in `mean of 3 repeats 0.5312 +- 0.0121`."""
    if math.isnan(winner.spread):
        return f"one repeat {winner.mean:.4f}"
    return f"mean of {len(winner.repeats)} repeats {winner.mean:.4f} +- {winner.spread:.4f}"
