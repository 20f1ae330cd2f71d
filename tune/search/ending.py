"""The end of a search: the choice, the winner's bundle in best/, its score on the holdout, the report, a summary."""

from __future__ import annotations

import functools
import os
import shlex
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from maskcls.errors import MaskclsError
from maskcls.text import command, counted, predict_command, printable
from tune.runs import events, output
from tune.runs.folder import SearchRun
from tune.runs.session import faces_of
from tune.runs.stopping import Outcome, Reason
from tune.search.options import SPACE_COPY, SearchOptions
from tune.search.plan import MANY, NONE, SearchPlan

if TYPE_CHECKING:
    from tune.runs.study import Record
    from tune.selection.choice import Choice
    from tune.selection.finalists import Design
    from tune.selection.keeping import Keeping
    from tune.selection.record import ChoiceRecord

WIDTH = 80
"""Columns of a narrow terminal."""


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
        """The part that did not come to its end, else the search."""
        parts = [self.searched, self.chosen and self.chosen.outcome, self.chosen and self.chosen.others]
        stopped = (Reason.INTERRUPTED, Reason.TIME_UP)
        return next((part for part in (*parts, self.retrained) if part and part.reason in stopped), self.searched)

    @property
    def reason(self) -> Reason:
        """Why the command ended."""
        return self.ended.reason

    @property
    def goes_on(self) -> bool:
        """Whether the next part may begin: nobody interrupted this one, and what is begun of the choice is final."""
        return (
            self.reason != Reason.INTERRUPTED
            and (self.chosen is None or self.chosen.is_final)
            and not self.winner_is_unfinished
        )


def design_of(options: SearchOptions) -> Design:
    """How the finalists are to be repeated, where there are any. Raises CallError where that cannot be."""
    from tune.selection.finalists import Design, RepeatBy

    return Design(options.finalists, options.repeats, RepeatBy(options.repeat_by))


def keeping_of(options: SearchOptions) -> Keeping | None:
    """Which trials' weights stay; None: all, with all else of their checkpoints, as in a run that was begun so."""
    from tune.selection.keeping import Keeping

    return Keeping(options.keep, options.finalists) if options.keep < MANY else None


def handed_over(run: SearchRun, options: SearchOptions) -> bool:
    """Whether best/ and the report are newer than the study: a driver may be killed between a trial and these."""
    from tune.selection.choice import is_made

    made = [file for file in (run.best / "bundle.json", run.report) if file.exists()]
    if len(made) < 2 or min(file.stat().st_mtime for file in made) < run.journal.stat().st_mtime:
        return False
    chosen = not options.finalists or is_made(run, design_of(options))
    return chosen and (not options.retrain_on_all or (run.best_on_all / "bundle.json").exists())


def fits_left(run: SearchRun, options: SearchOptions, plan: SearchPlan) -> Callable[[Sequence[Record]], int]:
    """Return what counts the fits that would follow the search if it ended with some trials: those not done yet.

    Of a finalist that is still to be found, it counts all.
    """
    from tune.selection.choice import fits_to_do
    from tune.selection.finalists import top_trials

    of_one = options.repeats + int(options.scheduler != NONE)
    faces = functools.cache(lambda: faces_of(run, options))

    def left(trials: Sequence[Record]) -> int:
        if not options.finalists:
            return plan.fits_after
        try:
            to_do = len(fits_to_do(run, trials, faces(), design_of(options)))
        except MaskclsError:  # the choice will say it
            return plan.fits_after
        to_do += of_one * (options.finalists - len(top_trials(trials, options.finalists)))
        on_all = options.retrain_on_all and (to_do > 0 or not (run.best_on_all / "bundle.json").exists())
        return to_do + int(on_all)

    return left


def choose(run: SearchRun, options: SearchOptions, plan: SearchPlan, left_s: float | None) -> Choice | None:
    """Repeat the finalists and the preset, and train those finalists to their end that were stopped early.

    As far as the time goes. None where no trial has a score. Ray must be connected.
    """
    from tune.runs.study import records
    from tune.selection import choice
    from tune.selection.keeping import remove_unneeded

    trials = [record for record in records(run) if record.f1 is not None]
    if not trials:
        return None
    chosen = choice.choose(
        run,
        trials,
        faces_of(run, options),
        design_of(options),
        parallel=plan.parallel,
        budget_s=left_s,
        **_share(plan, options),
    )
    keeping = keeping_of(options)
    if keeping is not None:
        remove_unneeded(run, records(run), keeping)  # finalists that are trained to their end need no state any more
    return chosen


def retrain(
    run: SearchRun, options: SearchOptions, plan: SearchPlan, left_s: float | None, chosen: Choice | None
) -> Outcome | None:
    """Fit the winner, or without finalists the best trial, on train and validation people. Ray must be connected."""
    from tune.runs import leaderboard
    from tune.runs.study import records
    from tune.selection import retrain as on_all
    from tune.selection.finalists import Finalist

    winner = chosen.winner if chosen else None
    best = leaderboard.best(records(run))
    if winner is None and best is not None:
        winner = Finalist(best.trial_id, best.f1 or 0.0, best.best_epoch, best.recipe, ())
    if winner is None:
        return None
    faces = faces_of(run, options)
    outcome = on_all.retrain_on_all(run, winner, faces, budget_s=left_s, **_share(plan, options))
    request = on_all.retrain_request(run, winner, faces, cpus=plan.cpus, gpus=plan.gpus)
    typer.echo(printable("\n".join(on_all.summary(run, request))))
    return outcome


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
    best = leaderboard.best(trials)
    winner = chosen.winner if chosen else None
    handed = winner.trial_id if winner else best.trial_id if best else None
    exported = handed is not None and _try(
        "The best trial could not be exported", lambda: passed_over.extend(_export(run, trials, outcome))
    )
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
    lines += passed_over + _what_is_left(run, outcome)
    if not options.quiet:
        lines += what_next(run, options, exported=bool(exported), reported=reported)
    print(printable("\n".join(lines)), file=output.results())
    if handed is None and outcome.reason != Reason.INTERRUPTED:
        print(f"Error: {printable(no_model(run, trials))}", file=output.errors())
    status = outcome.ended.exit_status or (0 if exported else 1)
    emit_done(run, outcome.reason, status, remaining=outcome.searched.remaining)
    return status


def _export(run: SearchRun, trials: Sequence[Record], outcome: SearchOutcome) -> list[str]:
    """Write best/; return a line for each trial that was passed over because its checkpoint is damaged."""
    from tune.selection.export import export_best

    chosen = outcome.chosen
    winner, finalists = (chosen.winner, chosen.finalists) if chosen else (None, ())
    handed, passed_over = export_best(run, trials, winner, finalists, calibrates=outcome.goes_on)
    return [*passed_over, f"best/ holds trial {handed}."] if passed_over else []


def emit_done(run: SearchRun, reason: Reason, status: int, *, remaining: int) -> None:
    """Report that the command ends, and what it leaves.

    Args:
        remaining: trials that were wanted and have not ended; MANY and the like where only the time bounds them.
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


def short_summary(run: SearchRun, trials: list[Record], exported: bool, reported: bool) -> list[str]:
    """The final result alone, for --quiet: the winner, and where its bundle and the report are."""
    from tune.runs import leaderboard
    from tune.selection import choice
    from tune.selection.record import read_choice

    chosen = read_choice(run.record())
    has_winner = chosen is not None and chosen.winner is not None
    lines = choice.summary(run)[:1] if has_winner else best_lines(leaderboard.best(trials))
    return lines + [f"Bundle: {run.best}"] * exported + [f"Report: {run.report}"] * reported


def best_lines(best: Record | None) -> list[str]:
    """The best trial by validation, as a line; where there is none, a line that says so."""
    if best is None or best.f1 is None:
        return ["No trial has finished an epoch, so there is no best one."]
    return [
        f"Best: trial {best.trial_id}, validation macro F1 {best.f1:.4f} at epoch {best.best_epoch} of {best.epochs}."
    ]


def no_model(run: SearchRun, trials: Sequence[Record]) -> str:
    """Say that no trial gave a model, and the commonest reason."""
    if not trials:
        return "No trial gave a model: none was begun."
    (state, message), n = Counter((trial.state, trial.message) for trial in trials).most_common(1)[0]
    example = next(trial.trial_id for trial in trials if (trial.state, trial.message) == (state, message))
    file = run.trial(example) / "error.txt"
    details = f" See {file}." if file.exists() else ""
    return (
        f"No trial gave a model. The commonest reason ({n:,} of {counted(len(trials), 'trial')}, for example trial "
        f"{example}): {state}{': ' if message else '.'}{message}{details}"
    )


def summary(run: SearchRun, trials: list[Record], outcome: Outcome, reported: bool) -> list[str]:
    """What the search found, in a few lines."""
    from tune.runs import leaderboard
    from tune.selection import choice
    from tune.selection.record import read_choice

    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none"
    best, preset = leaderboard.best(trials), leaderboard.preset(trials)
    without = "before any trial gave a model" if outcome.reason == Reason.INTERRUPTED else "without a model"
    ended = f"Search {outcome.reason}" if best else f"Search {outcome.reason} {without}"
    lines = [f"{ended}. Trials: {counts}.", f"Leaderboard: {run.leaderboard}"]
    lines += [f"Report: {run.report}"] * reported
    if best is None or best.f1 is None:
        return lines
    chosen = read_choice(run.record())
    lines += best_lines(best)
    lines += choice.summary(run)
    lines += gain_lines(best, preset, chosen)
    handed = next((trial for trial in trials if chosen and trial.trial_id == chosen.winner_id), best)
    if handed.overrides:
        choices = ", ".join(f"{key}={_short(value)}" for key, value in handed.overrides.items())
        lines += textwrap.wrap(
            f"Its choices: {choices}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
        )
    return lines


def what_next(run: SearchRun, options: SearchOptions, *, exported: bool, reported: bool) -> list[str]:
    """Commands to copy that look at what the search made, each under a line that says what it does."""
    steps = []
    if reported:
        browser = shlex.join(["python", "-m", "webbrowser", run.report.absolute().as_uri()])
        steps.append(("See the report in a browser:", browser))
        steps.append(
            ("See each trial, its curve and what mattered in Optuna's dashboard:", command("tune.dashboard", run.path))
        )
    if exported:
        steps.append(("Try the model on a page, with a camera:", command("maskcls.serve", "--bundle", run.best)))
        steps.append(("Predict photos:", predict_command(run.best)))
    if steps and options.data is None:
        copy = run.path / SPACE_COPY
        own = command("tune.search", "--space", copy if copy.exists() else options.space, "--data", "DIR")
        steps.append(("Search on your own faces, in the folder DIR (README says how it is laid out):", own))
    if steps and (activate := _activation()):
        steps.insert(0, ("Once in each shell, so that these commands are found:", activate))
    return [line for what, how in steps for line in (what, f"  {how}")]


def _activation() -> str:
    """The command that activates the environment in the current folder; "" if it is active, or another one runs."""
    here = Path(sys.prefix)
    if os.environ.get("VIRTUAL_ENV") or sys.prefix == sys.base_prefix or not here.is_relative_to(Path.cwd()):
        return ""
    return shlex.join(["source", str(here.relative_to(Path.cwd()) / "bin" / "activate")])


def gain_lines(best: Record, preset: Record | None, choice: ChoiceRecord | None) -> list[str]:
    """The gain over the preset, by repeats where there are any; none where the preset has no score."""
    if choice is not None and choice.preset is not None and choice.winner is not None:
        own = choice.preset
        if own.trial == choice.winner.trial:
            return ["The winner is the preset's own recipe."]
        if choice.gain is not None:
            return [f"Gain over the preset, {counted(choice.gain.n, 'repeat')}: {choice.gain_text}."]
    if preset is None or preset.f1 is None or best.f1 is None:
        return []
    if best.trial_id == preset.trial_id:
        return ["The best trial is the preset's own recipe."]
    # The best of many scores, less one that nobody selected.
    gain = f"{best.f1 - preset.f1:+.4f} by validation, so too high"
    return [f"Gain over the preset (trial {preset.trial_id}, {preset.f1:.4f}): {gain}."]


def _what_is_left(run: SearchRun, outcome: SearchOutcome) -> list[str]:
    lines, left, searched, chosen = [], [], outcome.searched, outcome.chosen
    if searched.reason == Reason.USED_UP:
        lines.append(
            f"Every recipe of the space was tried: {searched.remaining} trials fewer than were wanted. More with a "
            "wider --space."
        )
    elif searched.remaining > 0:
        left.append(
            f"{searched.remaining} trials are left to do ({searched.reason})"
            if searched.remaining < MANY // 2
            else "The time is up"
        )
    if chosen is not None and chosen.outcome.remaining and chosen.outcome.reason != Reason.FINISHED:
        left.append(
            f"{chosen.outcome.remaining} repeats of the finalists are left to do ({chosen.outcome.reason}), so the "
            "choice is not final"
        )
    if outcome.winner_is_unfinished:
        left.append("the winner was stopped early and is left to train to its end, so what best/ holds is not final")
    if chosen is not None and chosen.others.remaining and chosen.others.reason != Reason.FINISHED:
        others = counted(chosen.others.remaining, "fit")
        left.append(f"{others} beside the finalists' repeats are left to do ({chosen.others.reason})")
    if outcome.retrained is not None and outcome.retrained.remaining and outcome.retrained.reason != Reason.FINISHED:
        left.append(f"the fit on all people is left to do ({outcome.retrained.reason})")
    if left:
        lines.append(f"{'; '.join(left)}. To go on:\n  {run.resume_command}")
    return lines


def _try(what: str, do: Callable[[], object]) -> bool:
    try:
        do()
    except MaskclsError as error:
        print(printable(f"{what}: {error}"), file=output.errors())
        return False
    return True


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
