"""The figures of a search's page, each an <svg> element within the page itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from maskcls.reports.page import Html
from maskcls.reports.plots import (
    ACCENT,
    BLACK,
    BLUE,
    GREY,
    INK,
    RED,
    STYLE,
    VIOLET,
    YELLOW,
    hover,
    legend,
    new_figure,
    to_svg,
)
from maskcls.text import counted
from tune.runs import leaderboard
from tune.runs.holdout_record import HoldoutScore
from tune.runs.study import PRESET, Record
from tune.selection.record import ChoiceRecord, FinalistScores
from tune.states import TrialState

if TYPE_CHECKING:
    from tune.report.parameters import Importance

NOTHING = "–"
"""Stands for a value that is an empty text."""
SMALL_IN = 4.2
"""Width of a figure of which several stand side by side."""
MOST_DRAWN = 300
"""More trials are not drawn one by one: the page would become too large to send."""
# The colours differ in lightness as well, for readers who do not see the hues.
STATE_COLOURS = {
    TrialState.COMPLETE: BLUE,
    TrialState.STOPPED_EARLY: GREY,
    TrialState.UNFINISHED: YELLOW,
    TrialState.DIVERGED: RED,
    TrialState.OUT_OF_MEMORY: VIOLET,
    TrialState.FAILED: BLACK,
}


def drawn_trials(trials: Sequence[Record]) -> tuple[Sequence[Record], str]:
    """Those trials that figures show one by one, and a sentence on it where these are not all.

    Of many trials: the best ones, as many of the others at even distances in the ranking, and the preset's.
    """
    scored = [trial for trial in leaderboard.ranked(trials) if trial.f1 is not None]
    if len(scored) <= MOST_DRAWN:
        return trials, ""
    half = MOST_DRAWN // 2
    others = scored[half :: math.ceil((len(scored) - half) / half)]
    kept = {trial.trial_id for trial in (*scored[:half], *others)}
    drawn = [trial for trial in trials if trial.trial_id in kept or trial.origin == PRESET]
    return drawn, (
        f"Shown are {len(drawn):,} of {len(scored):,} trials: the {half:,} best, and as many of the others at even "
        "distances in the ranking."
    )


def progress(trials: Sequence[Record]) -> Html:
    """Each trial's best F1 over its number, coloured by state; the best so far and the preset's recipe as lines."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.4)
        ax = axes[0]
        scored = [trial for trial in trials if trial.f1 is not None]
        _by_state(ax, scored, [_number(trial) for trial in scored])
        best, so_far = 0.0, []
        for trial in scored:
            best = max(best, trial.f1 or 0.0)
            so_far.append(best)
        ax.step(
            [_number(trial) for trial in scored],
            so_far,
            where="post",
            color=ACCENT,
            lw=1.8,
            label="best so far",
            zorder=1,
        )
        _preset_line(ax, scored)
        ax.set(xlabel="trial", ylabel="validation macro F1")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax)
        return to_svg(figure, f"Validation macro F1 of {counted(len(scored), 'trial')}; the best so far is {best:.3f}")


def learning_curves(
    trials: Sequence[Record], curves: Mapping[str, Sequence[Mapping[str, Any]]], best: str, title: str = "best trial"
) -> Html:
    """Validation F1 of every trial over its epochs; the best trial (`title` in the legend) and the preset stand out."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.4)
        ax = axes[0]
        for trial in trials:
            rows = curves.get(trial.trial_id, ())
            epochs, values = [row["epoch"] for row in rows], [row["validation_f1"] for row in rows]
            if not rows:
                continue
            (line,) = ax.plot(epochs, values, **_curve_style(trial, best, title))
            hover(line, [f"{_trial_text(trial)}, epoch {at}: {f1:.4f}" for at, f1 in zip(epochs, values, strict=True)])
        for state in dict.fromkeys(trial.state for trial in trials if curves.get(trial.trial_id)):
            ax.plot([], [], color=STATE_COLOURS.get(state, INK), lw=1.5, label=state)
        ax.set(xlabel="epoch", ylabel="validation macro F1")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax)
        return to_svg(figure, f"Validation macro F1 of each trial over its epochs; the {title} is trial {best}")


def _curve_style(trial: Record, best: str, title: str) -> dict[str, Any]:
    """How the curve of a trial is drawn: the best one and the preset's stand out."""
    if trial.trial_id == best:
        return {"color": ACCENT, "lw": 2.4, "marker": "o", "ms": 4, "zorder": 4, "label": f"{title}, {trial.trial_id}"}
    if trial.origin == PRESET:
        dashed = {"color": INK, "lw": 1.6, "ls": "--", "marker": "o", "ms": 3, "zorder": 3}
        return {**dashed, "label": f"preset, {trial.trial_id}"}
    colour = STATE_COLOURS.get(trial.state, INK)
    return {"color": colour, "lw": 1.0, "marker": "o", "ms": 2.5, "alpha": 0.75, "zorder": 2}


def slice_of(trials: Sequence[Record], name: str, distribution: BaseDistribution) -> Html:
    """F1 over the values of one parameter, points coloured by the trial's state; one scale for all parameters."""
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure, axes = new_figure(1, 1, 2.5, SMALL_IN)
        ax = axes[0]
        drawn = [trial for trial in trials if trial.f1 is not None and name in trial.params]
        _by_state(ax, drawn, along(ax, "x", distribution, [trial.params[name] for trial in drawn]))
        ax.set_ylim(*_scale_of(trials))
        ax.set_title(name, fontsize=10, loc="left")
        ax.set_ylabel("validation macro F1")
        return to_svg(figure, f"Validation macro F1 over {name}: {counted(len(drawn), 'trial')}")


def _scale_of(trials: Sequence[Record]) -> tuple[float, float]:
    """The ends of an axis of scores that all trials fit on, so that figures side by side compare."""
    scores = [trial.f1 for trial in trials if trial.f1 is not None] or [0.0, 1.0]
    margin = 0.05 * (max(scores) - min(scores)) or 0.05
    return min(scores) - margin, max(scores) + margin


def importances(found: Sequence[Importance]) -> Html:
    """One bar per parameter with its interval, the most important one on top; pale: no more than chance gives."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 0.8 + 0.36 * len(found))
        ax = axes[0]
        for at, one in enumerate(found):
            (bar,) = ax.barh([at], [one.share], color=BLUE if one.is_clear else GREY, height=0.6)
            said = "" if one.is_clear else ", no more than chance gives"
            hover(bar, [f"{one.name}: {one.share:.2f} [{one.low:.2f}, {one.high:.2f}]{said}"])
            ax.plot([one.low, one.high], [at, at], color=INK, lw=1.6, solid_capstyle="round", zorder=3)
        ax.set_yticks(range(len(found)), [one.name for one in found])
        ax.set_ylim(len(found) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        ax.set(xlabel="share of the importance, with its 95 % interval")
        ax.grid(axis="y", visible=False)
        best = found[0]
        return to_svg(figure, f"Importance of {counted(len(found), 'parameter')}; {best.name} has {best.share:.0%}")


def interaction(trials: Sequence[Record], pair: Mapping[str, BaseDistribution]) -> Html:
    """The values of two parameters in each trial; the better its F1 among these trials, the darker and larger."""
    (across, of_x), (up, of_y) = pair.items()
    drawn = [trial for trial in trials if trial.f1 is not None and across in trial.params and up in trial.params]
    drawn.sort(key=lambda trial: trial.f1 or 0.0)
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.6)
        ax = axes[0]
        xs = along(ax, "x", of_x, [trial.params[across] for trial in drawn])
        ys = along(ax, "y", of_y, [trial.params[up] for trial in drawn])
        for rank, (trial, x, y) in enumerate(zip(drawn, xs, ys, strict=True), start=1):
            share = rank / len(drawn)
            point = ax.scatter([x], [y], s=20 + 90 * share, color=BLUE, alpha=0.15 + 0.75 * share, lw=0, zorder=3)
            hover(
                point,
                [f"{_trial_text(trial)}: {trial.f1:.4f}; {across} {trial.params[across]}, {up} {trial.params[up]}"],
            )
        ax.set(xlabel=across, ylabel=up)
        return to_svg(figure, f"{up} over {across} in {counted(len(drawn), 'trial')}, the better the darker")


def along(ax: Axes, side: Literal["x", "y"], distribution: BaseDistribution, values: Sequence[Any]) -> list[float]:
    """Where values of a parameter stand on an axis, whose ticks and scale are set for the parameter's domain."""
    axis, scale, limit = (
        (ax.xaxis, ax.set_xscale, ax.set_xlim) if side == "x" else (ax.yaxis, ax.set_yscale, ax.set_ylim)
    )
    if isinstance(distribution, CategoricalDistribution):
        choices = [str(choice) for choice in distribution.choices]
        axis.set_ticks(range(len(choices)), [_short(choice) for choice in choices])
        if side == "x" and sum(map(len, choices)) > 24:
            axis.set_tick_params(rotation=60, labelsize=7)
        limit(-0.5, len(choices) - 0.5)
        return [choices.index(str(value)) for value in values]
    if isinstance(distribution, FloatDistribution) and distribution.log:
        scale("log")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_minor_formatter(NullFormatter())
    return [float(value) for value in values]


def finalists(choice: ChoiceRecord) -> Html:
    """One line per finalist: repeats, mean and the search's own score; below the winner its holdout score."""
    rows = choice.finalists
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 1.3 + 0.42 * len(rows))
        ax = axes[0]
        for at, one in enumerate(rows):
            wins = one.trial == choice.winner_id
            _finalist(ax, at, one, ACCENT if wins else BLUE)
            if wins and choice.holdout:
                _holdout(ax, at + 0.36, choice.holdout)
        ax.set_yticks(range(len(rows)), [f"trial {one.trial}" for one in rows])
        for label, one in zip(ax.get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if one.trial == choice.winner_id else "normal")
        ax.set_ylim(len(rows) - 0.3, -0.5)  # from top to bottom, as in the table below the figure
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
        ax.set(xlabel="macro F1")
        figure.legend(handles=_finalist_keys(bool(choice.holdout)), loc="outside upper left", ncols=5, fontsize=9)
        return to_svg(figure, f"Scores of {counted(len(rows), 'finalist')}, as in the table below")


def _finalist(ax: Axes, at: int, one: FinalistScores, colour: str) -> None:
    """The repeats as dots on a line, their mean as a bar, the search's own score as a diamond."""
    f1s = [repeat.f1 for repeat in one.repeats]
    if f1s:
        ax.plot([min(f1s), max(f1s)], [at, at], color=GREY, lw=1.2, zorder=1)
        ax.plot([one.mean] * 2, [at - 0.2, at + 0.2], color=colour, lw=3.2, zorder=3)
    points = ax.scatter(f1s, [at] * len(f1s), s=34, color=BLUE, edgecolor="white", linewidth=0.6, zorder=4)
    hover(points, [f"trial {one.trial}, repeat {repeat.repeat + 1}: {repeat.f1:.4f}" for repeat in one.repeats])
    diamond: dict[str, Any] = {"s": 44, "marker": "D", "facecolor": "white", "edgecolor": INK, "linewidth": 1.3}
    ax.scatter([one.validation_f1], [at], **diamond, zorder=4)


def _holdout(ax: Axes, at: float, found: HoldoutScore) -> None:
    ax.plot([found.low, found.high], [at] * 2, color=ACCENT, lw=2, solid_capstyle="round", zorder=2)
    point = ax.scatter([found.f1], [at], s=46, marker="s", color=ACCENT, edgecolor="white", linewidth=0.7, zorder=4)
    hover(point, [f"holdout, {found.people_text}: {found.f1:.4f} {found.interval}"])


def _finalist_keys(confirmed: bool) -> list[Line2D]:
    keys = [
        Line2D([], [], color=INK, marker="D", mfc="white", mew=1.3, ms=6, lw=0, label="validation"),
        Line2D([], [], color=BLUE, marker="o", mec="white", ms=6.5, lw=0, label="one repeat"),
        Line2D([], [], color=BLUE, marker="|", mew=3.2, ms=12, lw=0, label="mean"),
        Line2D([], [], color=ACCENT, marker="|", mew=3.2, ms=12, lw=0, label="the winner's mean"),
    ]
    if confirmed:
        keys.append(
            Line2D([], [], color=ACCENT, marker="s", mec="white", ms=7, lw=2, label="the winner on the holdout, 95 %")
        )
    return keys


def _by_state(ax: Axes, trials: Sequence[Record], across: Sequence[float]) -> None:
    for state, colour in STATE_COLOURS.items():
        chosen = [(x, trial) for x, trial in zip(across, trials, strict=True) if trial.state == state]
        if chosen:
            x, y = [x for x, _ in chosen], [trial.f1 or 0.0 for _, trial in chosen]
            points = ax.scatter(x, y, s=30, color=colour, edgecolor="white", linewidth=0.6, label=state, zorder=3)
            hover(points, [f"{_trial_text(trial)}: {trial.f1:.4f}" for _, trial in chosen])


def _trial_text(trial: Record) -> str:
    return f"trial {trial.trial_id}, {trial.state}"


def _preset_line(ax: Axes, trials: Sequence[Record]) -> None:
    for trial in trials:
        if trial.origin == PRESET and trial.f1 is not None:
            ax.axhline(trial.f1, color=INK, lw=1, ls="--", zorder=1, label="preset's recipe")


def _number(trial: Record) -> int:
    return int(trial.trial_id)


def _short(choice: str) -> str:
    return (choice if len(choice) <= 22 else f"{choice[:21]}…") or NOTHING
