"""The figures of a search's page, each an <svg> element within the page itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from maskcls.reports.page import Html
from maskcls.reports.plots import ACCENT, BLUE, GREY, INK, STYLE, legend, new_figure, to_svg
from tune.runs.holdout_record import HoldoutScore
from tune.runs.study import PRESET, Record
from tune.selection.record import ChoiceRecord, FinalistScores
from tune.states import TrialState

# The colours differ in lightness as well, for readers who do not see the hues.
STATE_COLOURS = {
    TrialState.COMPLETE: "#1f6f8b",
    TrialState.STOPPED_EARLY: "#a9b4be",
    TrialState.UNFINISHED: "#e3a72f",
    TrialState.DIVERGED: "#c4472f",
    TrialState.OUT_OF_MEMORY: "#7b3f98",
    TrialState.FAILED: "#222222",
}


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
        return to_svg(figure)


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
            if trial.trial_id == best:
                ax.plot(
                    epochs, values, color=ACCENT, lw=2.4, marker="o", ms=4, zorder=4, label=f"{title}, {trial.trial_id}"
                )
            elif trial.origin == PRESET:
                ax.plot(
                    epochs,
                    values,
                    color=INK,
                    lw=1.6,
                    ls="--",
                    marker="o",
                    ms=3,
                    zorder=3,
                    label=f"preset, {trial.trial_id}",
                )
            else:
                colour = STATE_COLOURS.get(trial.state, INK)
                ax.plot(epochs, values, color=colour, lw=1.0, marker="o", ms=2.5, alpha=0.75, zorder=2)
        for state in dict.fromkeys(trial.state for trial in trials if curves.get(trial.trial_id)):
            ax.plot([], [], color=STATE_COLOURS.get(state, INK), lw=1.5, label=state)
        ax.set(xlabel="epoch", ylabel="validation macro F1")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        legend(figure, ax)
        return to_svg(figure)


def importances(shares: Mapping[str, float]) -> Html:
    """One bar per parameter, the most important one on top."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 0.7 + 0.32 * len(shares))
        ax = axes[0]
        names = list(shares)[::-1]
        ax.barh(names, [shares[name] for name in names], color=STATE_COLOURS[TrialState.COMPLETE], height=0.62)
        ax.set(xlabel="share of the importance")
        ax.grid(axis="y", visible=False)
        return to_svg(figure)


def slices(trials: Sequence[Record], distributions: Mapping[str, BaseDistribution]) -> Html:
    """F1 over the values of each parameter: one panel per parameter, points coloured by the trial's state."""
    columns = 3
    n_rows = -(-len(distributions) // columns)
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure, axes = new_figure(n_rows, columns, 2.5 * n_rows)
        for ax, (name, distribution) in zip(axes, distributions.items(), strict=False):
            drawn = [trial for trial in trials if trial.f1 is not None and name in trial.params]
            values = [trial.params[name] for trial in drawn]
            if isinstance(distribution, CategoricalDistribution):
                choices = [str(choice) for choice in distribution.choices]
                _by_state(ax, drawn, [choices.index(str(value)) for value in values])
                ax.set_xticks(range(len(choices)), [_short(choice) for choice in choices])
                if sum(map(len, choices)) > 24:
                    ax.tick_params(axis="x", rotation=60, labelsize=7)
                ax.set_xlim(-0.5, len(choices) - 0.5)
            else:
                _by_state(ax, drawn, values)
                if isinstance(distribution, FloatDistribution) and distribution.log:
                    ax.set_xscale("log")
                    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                    ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_title(name, fontsize=10, loc="left")
        for ax in axes[len(distributions) :]:
            ax.set_axis_off()
        return to_svg(figure)


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
        return to_svg(figure)


def _finalist(ax: Axes, at: int, one: FinalistScores, colour: str) -> None:
    """The repeats as dots on a line, their mean as a bar, the search's own score as a diamond."""
    f1s = [repeat.f1 for repeat in one.repeats]
    if f1s:
        ax.plot([min(f1s), max(f1s)], [at, at], color=GREY, lw=1.2, zorder=1)
        ax.plot([one.mean] * 2, [at - 0.2, at + 0.2], color=colour, lw=3.2, zorder=3)
    ax.scatter(f1s, [at] * len(f1s), s=34, color=BLUE, edgecolor="white", linewidth=0.6, zorder=4)
    diamond: dict[str, Any] = {"s": 44, "marker": "D", "facecolor": "white", "edgecolor": INK, "linewidth": 1.3}
    ax.scatter([one.validation_f1], [at], **diamond, zorder=4)


def _holdout(ax: Axes, at: float, found: HoldoutScore) -> None:
    ax.plot([found.low, found.high], [at] * 2, color=ACCENT, lw=2, solid_capstyle="round", zorder=2)
    ax.scatter([found.f1], [at], s=46, marker="s", color=ACCENT, edgecolor="white", linewidth=0.7, zorder=4)


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
        points = [(x, trial.f1) for x, trial in zip(across, trials, strict=True) if trial.state == state]
        if points:
            x, y = zip(*points, strict=True)
            ax.scatter(x, y, s=30, color=colour, edgecolor="white", linewidth=0.6, label=state, zorder=3)


def _preset_line(ax: Axes, trials: Sequence[Record]) -> None:
    for trial in trials:
        if trial.origin == PRESET and trial.f1 is not None:
            ax.axhline(trial.f1, color=INK, lw=1, ls="--", zorder=1, label="preset's recipe")


def _number(trial: Record) -> int:
    return int(trial.trial_id)


def _short(choice: str) -> str:
    return choice if len(choice) <= 22 else f"{choice[:21]}…"
