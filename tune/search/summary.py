"""What a search prints when it has ended: what it found, what is left to do, and commands that look at it."""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.text import command, counted, predict_command
from tune.runs.folder import SearchRun
from tune.runs.record import MANY
from tune.runs.stopping import Outcome, Reason
from tune.search.options import SPACE_COPY, SearchOptions

if TYPE_CHECKING:
    from tune.runs.study import Record
    from tune.search.ending import SearchOutcome
    from tune.selection.record import ChoiceRecord

WIDTH = 80
"""Columns of a narrow terminal."""


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
    """The command that activates the environment that runs; "" where its commands are found already, or it has none."""
    activate, cwd = Path(sys.prefix) / "bin" / "activate", Path.cwd()
    is_found = Path(shutil.which("python") or "").parent == activate.parent
    if is_found or not activate.exists():
        return ""
    return shlex.join(["source", str(activate.relative_to(cwd) if activate.is_relative_to(cwd) else activate)])


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


def what_is_left(run: SearchRun, outcome: SearchOutcome) -> list[str]:
    """What the command leaves for a resume, and how to go on; nothing where all is done."""
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
            else f"The search ended before its time was up ({searched.reason})"
            if searched.reason == Reason.INTERRUPTED
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
    if not left and outcome.reason == Reason.INTERRUPTED:
        left.append("What follows is left to do (interrupted)")
    if left:
        lines.append(f"{'; '.join(left)}. To go on:\n  {run.resume_command}")
    return lines


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
