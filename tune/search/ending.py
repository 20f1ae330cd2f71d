"""The end of a search: the choice, the winner's bundle in best/, its score on the holdout, the report, a summary."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from maskcls.errors import DataError, MaskclsError
from maskcls.text import counted, printable
from tune.runs import events, output
from tune.runs.folder import SearchRun
from tune.runs.record import MANY
from tune.runs.session import faces_of, say
from tune.runs.stopping import Outcome, Reason
from tune.search.options import SearchOptions
from tune.search.plan import CLOSE, NONE, SearchPlan
from tune.search.summary import no_model, short_summary, summary, what_is_left, what_next

if TYPE_CHECKING:
    from tune.runs.study import Record
    from tune.selection.choice import Choice
    from tune.selection.finalists import Design, Finalist
    from tune.selection.keeping import Keeping

REPEATS_ARE_FASTER = 1.2
"""By this, what a trial took counts for more than a repeat will take, in deciding how many finalists have room."""


@dataclass(frozen=True)
class SearchOutcome:
    """How the parts of a search ended: the trials, the choice among finalists, the winner's last fit on all people."""

    searched: Outcome
    chosen: Choice | None = None
    """None: there is none, and the best trial by validation is handed over."""
    retrained: Outcome | None = None

    @property
    def winner_is_unfinished(self) -> bool:
        """Whether the winner was stopped early, and is not trained to its end."""
        return bool(self.chosen and self.chosen.winner and self.chosen.winner.unfinished)

    @property
    def ended(self) -> Outcome:
        """The part that was interrupted, else the first whose time was up, else the search."""
        for reason in (Reason.INTERRUPTED, Reason.TIME_UP):
            for part in self._parts:
                if part.reason == reason:
                    return part
        return self.searched

    @property
    def _parts(self) -> list[Outcome]:
        of_choice = (self.chosen.outcome, self.chosen.others) if self.chosen else ()
        return [part for part in (self.searched, *of_choice, self.retrained) if part]

    @property
    def remaining(self) -> int:
        """Trials and fits that were wanted and have not ended; those that failed are not left."""
        return sum(part.remaining for part in self._parts if part is self.searched or part.reason != Reason.FINISHED)

    @property
    def reason(self) -> Reason:
        """Why the command ended."""
        return self.ended.reason

    @property
    def may_average(self) -> bool:
        """Whether other models may be averaged with what is handed over, if finalists were asked for: whoever
        interrupts does not wait for that."""
        return self.chosen is not None and not self.winner_is_unfinished and self.reason != Reason.INTERRUPTED

    @property
    def goes_on(self) -> bool:
        """Whether the next part may begin: nobody interrupted this one, and what is begun of the choice is final."""
        return (
            self.reason != Reason.INTERRUPTED
            and (self.chosen is None or self.chosen.is_final)
            and not self.winner_is_unfinished
        )


def import_meanwhile() -> threading.Thread:
    """Import what the choice and the hand-over need, while trials are at work; returns the thread that does.

    With torch and matplotlib it is seconds, in which otherwise no core would train. Whoever needs a module before it is
    there waits for it, as with any import.
    """

    def load() -> None:
        with suppress(Exception):  # whoever needs the module finds the error again
            import tune.report.page
            import tune.selection.fits  # noqa: F401

    thread = threading.Thread(target=load, name="imports of the hand-over")  # no daemon: at exit it is waited for
    thread.start()
    return thread


def design_of(options: SearchOptions) -> Design:
    """How the finalists are to be repeated, where there are any. Raises CallError where that cannot be."""
    from tune.selection.finalists import Design, RepeatBy

    return Design(options.finalists, options.repeats, RepeatBy(options.repeat_by))


def keeping_of(options: SearchOptions) -> Keeping | None:
    """Which trials' weights stay; None: all, with all else of their checkpoints, as in a run that was begun so."""
    from tune.selection.keeping import Keeping

    return Keeping(options.keep, options.finalists) if options.keep < MANY else None


_AFTER_TRIALS = ("finalists", "repeats", "repeat_by", "retrain_on_all")
"""The options that say what follows the trials."""


def handed_over(run: SearchRun, options: SearchOptions, *, time_is_up: bool = False) -> bool:
    """Whether best/ and the report are newer than the study: a driver may be killed between a trial and these.

    Args:
        time_is_up: whether the time was all that bounded the run, and is used up: then nothing more is wanted of them,
            unless the options that say what follows the trials are others than the run's.
    """
    from tune.selection.choice import is_made
    from tune.selection.record import read_choice

    made = [file for file in (run.best / "bundle.json", run.report) if file.exists()]
    if len(made) < 2 or min(file.stat().st_mtime for file in made) < run.journal.stat().st_mtime:
        return False
    recorded = read_choice(run.record())
    if options.single and recorded is not None and recorded.is_bag:
        return False
    before = SearchOptions.recorded(run.record())
    if time_is_up and all(getattr(options, name) == getattr(before, name) for name in _AFTER_TRIALS):
        return True
    chosen = not options.finalists or is_made(run, design_of(options), at_most=options.time_budget is not None)
    return chosen and (not options.retrain_on_all or _is_on_all(run))


def has_no_work(run: SearchRun, options: SearchOptions, enough: str) -> bool:
    """Whether a call has no work in a run of enough trials, which is said: all is done, or a plan is all it asks for.

    Args:
        enough: why there are enough, as the rest of a sentence.
    """
    is_done = handed_over(run, options, time_is_up=options.trials is None)
    if is_done or options.plan:
        left = "Nothing is left" if is_done else "What follows the trials is left"
        print(f"{left} to do: {run.name} {enough}", file=output.results())
    if is_done:
        emit_done(run, Reason.FINISHED, 0, remaining=0)
    return is_done or options.plan


def _is_on_all(run: SearchRun) -> bool:
    """Whether best-on-all/ is of the trial that was chosen, and not of one that was chosen before it."""
    from maskcls.serving.bundle import read_manifest  # imports torch
    from tune.runs import leaderboard
    from tune.runs.study import records
    from tune.selection.record import read_choice

    chosen, best = read_choice(run.record()), leaderboard.best(records(run))
    wanted = chosen.winner_id if chosen and chosen.winner_id else best and best.trial_id
    try:
        return bool(read_manifest(run.best_on_all)["scores"].get("trial") == wanted)
    except DataError:
        return False


def fits_left(run: SearchRun, options: SearchOptions, plan: SearchPlan) -> Callable[[Sequence[Record], float], int]:
    """Return what counts the fits that would follow the search if it ended with some trials: those not done yet.

    They are those of as many finalists as `room` fits are enough for, the second argument, and without the preset's
    repeats, which decide nothing. Of a finalist that is still to be found, all fits count.
    """
    from tune.selection.choice import affordable
    from tune.selection.finalists import top_trials

    of_one = options.repeats + int(options.scheduler != NONE)
    faces = functools.cache(lambda: faces_of(run, options))

    def left(trials: Sequence[Record], room: float) -> int:
        if not options.finalists:
            return plan.fits_after
        try:
            _, to_do = affordable(run, trials, faces(), design_of(options), room)
        except MaskclsError:  # the choice will say it
            return plan.fits_after
        there = len(top_trials(trials, options.finalists))
        to_find = options.finalists - there
        if room < math.inf:
            to_find = min(to_find, max(int((room - to_do) // of_one), int(not there)))  # one in any case
        to_do += of_one * max(0, to_find)
        on_all = options.retrain_on_all and (to_do > 0 or not _is_on_all(run))
        return to_do + int(on_all)

    return left


def choose(run: SearchRun, options: SearchOptions, plan: SearchPlan, left_s: float | None) -> Choice | None:
    """Repeat the finalists and the preset, and train those finalists to their end that were stopped early.

    As far as the time goes: where it has no room for a repeat that it was expected to have, the choice is by what is
    done, if that is enough for one. None where no trial has a score. Ray must be connected.
    """
    from tune.runs.study import records
    from tune.selection import choice
    from tune.selection.finalists import top_trials
    from tune.selection.keeping import remove_unneeded
    from tune.selection.race import fit_seconds, fits_in

    trials = [record for record in records(run) if record.f1 is not None]
    if not trials:
        return None
    faces, design = faces_of(run, options), design_of(options)
    if left_s is not None:
        if options.retrain_on_all:  # its fit comes last, and would find no time
            left_s -= min(fit_seconds(trials, plan.base.epochs), left_s / 3)
        # Folds train on fewer people than a trial.
        room = fits_in(left_s * REPEATS_ARE_FASTER, fit_seconds(trials, plan.base.epochs), plan.parallel)
        wanted, (design, _) = design, choice.affordable(run, trials, faces, design, room)
        if design.finalists < min(wanted.finalists, len(top_trials(trials, wanted.finalists))):
            say(f"The time has room for {counted(design.finalists, 'finalist')}, of the {wanted.finalists} wanted.")
        if design.repeats < wanted.repeats:
            say(f"The time has room for {counted(design.repeats, 'repeat')}, of the {wanted.repeats} wanted.")
    grace_s = CLOSE * (plan.time_budget_s or 0.0)
    among = functools.partial(
        choice.choose, run, trials, faces, parallel=plan.parallel, grace_s=grace_s, **_share(plan, options)
    )
    chosen = among(design=design, budget_s=left_s)
    if chosen.outcome.reason == Reason.TIME_UP:
        fewer, to_do = choice.affordable(run, trials, faces, design, room=0)
        if not to_do:
            done = f"{counted(fewer.repeats, 'repeat')} of {counted(fewer.finalists, 'finalist')}"
            say(f"The time has no room for the fits that are left. The choice is by {done}, which are done.")
            chosen = among(design=fewer, budget_s=0.0)
    keeping = keeping_of(options)
    if keeping is not None:
        remove_unneeded(run, records(run), keeping)  # finalists that are trained to their end need no state any more
    return chosen


def retrain(
    run: SearchRun, options: SearchOptions, plan: SearchPlan, left_s: float | None, chosen: Choice | None
) -> Outcome | None:
    """Fit the winner, or without finalists the best trial, on train and validation people. Ray must be connected."""
    from tune.runs.study import records
    from tune.selection import retrain as on_all

    winner = _winner(records(run), chosen)
    if winner is None:
        return None
    faces = faces_of(run, options)
    outcome = on_all.retrain_on_all(run, winner, faces, budget_s=left_s, **_share(plan, options))
    request = on_all.retrain_request(run, winner, faces, cpus=plan.cpus, gpus=plan.gpus)
    typer.echo(printable("\n".join(on_all.summary(run, request))))
    return outcome


def _winner(trials: Sequence[Record], chosen: Choice | None) -> Finalist | None:
    """The winner or, where repeats chose none, the best trial by validation; None where no trial has a score."""
    from tune.runs import leaderboard
    from tune.selection.finalists import Finalist

    best = leaderboard.best(trials)
    if chosen is not None and chosen.winner is not None:
        return chosen.winner
    return None if best is None else Finalist(best.trial_id, best.f1 or 0.0, best.best_epoch, best.recipe, ())


def _share(plan: SearchPlan, options: SearchOptions) -> dict[str, Any]:
    """What a single fit is given of the machine and its stores."""
    return {"cpus": plan.cpus, "gpus": plan.gpus, "cache": options.cache_options}


def hand_over(run: SearchRun, options: SearchOptions, outcome: SearchOutcome) -> int:
    """Write best/ and report.html and print the summary, and what cannot be made. Returns the exit status."""
    from tune.report.group_record import note_groups
    from tune.report.page import ReportOptions, write_report
    from tune.runs import leaderboard
    from tune.runs.study import records
    from tune.selection.choice import confirm

    trials, chosen, passed_over = records(run), outcome.chosen, list[str]()
    leaderboard.write(run, trials)
    winner = _winner(trials, chosen)
    exported = winner is not None and _try(
        "The best trial could not be exported", lambda: passed_over.extend(_export(run, trials, outcome))
    )
    if exported and not passed_over and not options.single and outcome.may_average:
        _try("best/ holds one model, not averaged with others", lambda: _average(run, options, winner))
    # What is handed over in the winner's place nobody chose, and its score would stand as the winner's.
    if exported and not passed_over and chosen is not None and outcome.goes_on:
        faces = faces_of(run, options)
        _try("The holdout could not be asked", lambda: confirm(run, faces, chosen, run.best))
    report = ReportOptions(options.cache_options, predicts=outcome.goes_on)
    reported = _try("The report could not be written", lambda: write_report(run, report))
    if exported:  # after the report, which predicts for the validation people
        _try("The bundle says nothing of groups of people", lambda: note_groups(run, run.best))
    if options.quiet:
        lines = short_summary(run, trials, bool(exported), reported)
    else:
        lines = summary(run, trials, outcome.searched, reported)
    lines += passed_over + what_is_left(run, outcome)
    if not options.quiet:
        lines += what_next(run, options, exported=bool(exported), reported=reported)
    print(printable("\n".join(lines)), file=output.results())
    if winner is None and outcome.reason != Reason.INTERRUPTED:
        print(f"Error: {printable(no_model(run, trials))}", file=output.errors())
    status = outcome.ended.exit_status or (0 if exported else 1)
    emit_done(run, outcome.reason, status, remaining=outcome.remaining)
    return status


def _export(run: SearchRun, trials: Sequence[Record], outcome: SearchOutcome) -> list[str]:
    """Write best/; return a line for each trial that was passed over because its checkpoint is damaged."""
    from tune.selection.export import export_best

    chosen = outcome.chosen
    winner, finalists = (chosen.winner, chosen.finalists) if chosen else (None, ())
    handed, passed_over = export_best(run, trials, winner, finalists, calibrates=outcome.goes_on)
    return [*passed_over, f"best/ holds trial {handed}."] if passed_over else []


def _average(run: SearchRun, options: SearchOptions, winner: Finalist | None) -> None:
    """Put the winner, its repeats and other trials into best/ as one bundle, where that pays."""
    from tune.selection.bag import hand_over as hand_over_bag

    if winner is not None:
        hand_over_bag(run, faces_of(run, options), winner, design_of(options))


def emit_done(run: SearchRun, reason: Reason, status: int, *, remaining: int) -> None:
    """Report that the command ends, and what it leaves.

    Args:
        remaining: trials and fits that were wanted and have not ended; MANY and the like where only the time bounds
            them.
    """
    events.emit(
        events.Done(
            reason,
            status,
            remaining=remaining if remaining < MANY // 2 else None,
            bundle=str(run.best) if (run.best / "bundle.json").exists() else None,
            bundle_on_all=str(run.best_on_all) if (run.best_on_all / "bundle.json").exists() else None,
            table=str(run.leaderboard) if run.leaderboard.exists() else None,
            report=str(run.report) if run.report.exists() else None,
        )
    )


def _try(what: str, do: Callable[[], object]) -> bool:
    try:
        do()
    except MaskclsError as error:
        print(printable(f"{what}: {error}"), file=output.errors())
        return False
    return True
