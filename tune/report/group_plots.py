"""The figures of how good a classifier is, and for whom: confusions, intervals by class and group, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from maskcls.reports.page import Html
from maskcls.reports.plots import ACCENT, BLUE, EDGE, INK, MEDIUM_IN, STYLE, hover, new_figure, to_svg
from maskcls.tasks import TASKS
from maskcls.text import counted
from tune.report.groups import Calibration, ClassScores, GroupScores
from tune.report.plots import SMALL_IN
from tune.statistics.people import FEW_PEOPLE

SERIES = ((BLUE, "o"), (ACCENT, "s"), (INK, "D"))
"""Colour and marker of each set of predictions; both differ, for readers who do not see the hues."""
CONFUSION_STYLE = {**STYLE, "axes.grid": False}
"""For `matplotlib.rc_context`, around `draw_confusion` and writing."""
_STRONGEST = 0.8
"""Opacity of a cell that holds all photos of its row."""


def confusion(counts: NDArray[np.int64], task: str, title: str) -> Html:
    """Return a confusion matrix for a page."""
    with mpl.rc_context(CONFUSION_STYLE):
        figure = draw_confusion(counts, task, title)
        right = int(np.trace(counts))
        return to_svg(figure, f"Confusion matrix, {title}: {right:,} of {counts.sum():,} photos on the diagonal")


def draw_confusion(counts: NDArray[np.int64], task: str, title: str) -> Figure:
    """True labels downwards, predicted ones across; a cell is as dark as its share of the photos of its row.

    Args:
        counts: (k, k) photos by true and predicted label of the task.
    """
    names = TASKS[task].label_names
    k = len(names)
    figure, (ax,) = new_figure(1, 1, 5.6 if k > 4 else 3.0, MEDIUM_IN if k > 4 else SMALL_IN)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)  # (k, k)
    for row, column in zip(*np.nonzero(counts), strict=True):
        _cell(ax, int(row), int(column), int(counts[row, column]), float(shares[row, column]), names)
    ax.set_xlim(-0.5, k - 0.5)
    ax.set_ylim(k - 0.5, -0.5)
    ax.set_yticks(range(k), [f"{at} {name}" if k > 4 else name for at, name in enumerate(names)])
    ax.set_xticks(range(k), [str(at) if k > 4 else name for at, name in enumerate(names)])
    ax.tick_params(length=0)
    for edge in range(1, k):
        heavy = k > 4 and edge % 6 == 0
        for line in (ax.axhline, ax.axvline):
            line(edge - 0.5, color=EDGE, lw=1.0 if heavy else 0.25, zorder=0.5)
    ax.set(xlabel="predicted", ylabel="true")
    ax.set_title(title, loc="left", fontsize=10)
    return figure


def _cell(ax: Axes, row: int, column: int, count: int, share: float, names: Sequence[str]) -> None:
    colour = BLUE if row == column else ACCENT
    patch = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=0.08 + (_STRONGEST - 0.08) * share, lw=0)
    hover(patch, [f"{names[row]}, predicted {names[column]}: {counted(count, 'photo')}, {share:.0%} of the row"])
    ax.add_patch(patch)
    size = 7 if len(names) > 4 else 10
    ax.text(column, row, f"{count:,}", ha="center", va="center", fontsize=size, zorder=3)


def class_intervals(scores: Mapping[str, ClassScores]) -> Html:
    """F1 of each class with its interval, one line per class and one marker per set of predictions."""
    names = next(iter(scores.values())).names
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 1.2 + 0.3 * len(names), MEDIUM_IN)
        ax = axes[0]
        for number, (title, found) in enumerate(scores.items()):
            for at, name in enumerate(names):
                people = int(found.people[at])
                score = tuple(float(each[at]) for each in (found.f1.value, found.f1.low, found.f1.high))
                text = f"{name}; {title}: F1 {score[0]:.3f}, {counted(people, 'person', 'people')}"
                _interval(ax, at + _shift(number, len(scores)), score, people, number, text)
        _labels(ax, [f"{at} {name}" for at, name in enumerate(names)])
        ax.set_xlim(-0.02, 1.02)
        ax.set(xlabel="F1 of the class, with its 95 % interval over people")
        _key(figure, list(scores))
        return to_svg(figure, "F1 of each class with its interval, as in the table below")


def group_intervals(scores: Mapping[str, Sequence[GroupScores]]) -> Html:
    """The share of wrong classes in each group, one line per group and one marker per set of predictions."""
    lines = list(dict.fromkeys((one.grouping, one.name) for found in scores.values() for one in found))
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 1.2 + 0.34 * len(lines), MEDIUM_IN)
        ax = axes[0]
        for number, (title, found) in enumerate(scores.items()):
            for one in found:
                at = lines.index((one.grouping, one.name))
                text = (
                    f"{one.grouping} {one.name}; {title}: {one.errors[0][0]:.1%} wrong, "
                    f"{counted(one.people, 'person', 'people')}"
                )
                _interval(ax, at + _shift(number, len(scores)), one.errors[0], one.people, number, text)
        _labels(ax, [f"{grouping}: {name}" for grouping, name in lines])
        for at in range(1, len(lines)):
            if lines[at][0] != lines[at - 1][0]:
                ax.axhline(at - 0.5, color=EDGE, lw=0.8)
        ax.set_xlim(left=0)
        ax.set(xlabel="share of the photos with a wrong class, with its 95 % interval over people")
        _key(figure, list(scores))
        return to_svg(figure, "Share of wrong classes in each group with its interval, as in the table below")


def _shift(number: int, n: int) -> float:
    """How far from the middle of its line a series is drawn."""
    return (number - (n - 1) / 2) * 0.3


def _interval(ax: Axes, at: float, score: Sequence[float], people: int, number: int, text: str) -> None:
    """A marker on its interval; a hollow marker alone where there are too few people for one."""
    value, low, high = score
    if np.isnan(value):
        return
    colour, marker = SERIES[number]
    few = people < FEW_PEOPLE
    if not few:
        ax.plot([low, high], [at, at], color=colour, lw=2, solid_capstyle="round", zorder=2)
        text += f", interval {low:.3f} to {high:.3f}"
    point = ax.scatter(
        [value], [at], s=34, marker=marker, facecolor="white" if few else colour, edgecolor=colour, lw=1.2, zorder=3
    )
    hover(point, [text + (", too few people for an interval" if few else "")])


def _labels(ax: Axes, names: Sequence[str]) -> None:
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)  # from top to bottom, as in the table below the figure
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _key(figure: mpl.figure.Figure, names: Sequence[str], *, hollow: bool = True) -> None:
    handles = [
        Line2D([], [], color=colour, marker=marker, lw=2, ms=6, label=name)
        for name, (colour, marker) in zip(names, SERIES, strict=False)
    ]
    if hollow:
        few = f"fewer than {FEW_PEOPLE} people"
        handles.append(Line2D([], [], color=INK, marker="o", mfc="white", lw=0, ms=6, label=few))
    figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)


def reliability(found: Calibration, title: str) -> Html:
    """How often the predicted class is right over how probable it was; on the dashed line both are equal."""
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.6, SMALL_IN)
        ax = axes[0]
        ax.plot([0, 1], [0, 1], color=EDGE, lw=1, ls="--", zorder=1)
        for at, x in enumerate(found.confidence):
            score = tuple(float(each[at]) for each in (found.right.value, found.right.low, found.right.high))
            few = found.people[at] < FEW_PEOPLE
            if not few:
                ax.plot([x, x], score[1:], color=BLUE, lw=2, solid_capstyle="round", zorder=2)
            point = ax.scatter(
                [x], [score[0]], s=34, facecolor="white" if few else BLUE, edgecolor=BLUE, zorder=3, clip_on=False
            )
            hover(
                point, [f"mean probability {x:.2f}: {score[0]:.1%} right of {counted(int(found.photos[at]), 'photo')}"]
            )
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability of the predicted class", ylabel="share that is right")
        ax.set_title(title, loc="left", fontsize=10)
        return to_svg(figure, f"Reliability diagram, {title}: expected calibration error {found.error[0]:.3f}")


def error_curves(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Html:
    """The share of wrong answers over the share of photos that are answered, a line per set of predictions.

    Args:
        curves: by set, the answered share (n,) and the share of wrong ones among these (n,).
    """
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 3.4, MEDIUM_IN)
        ax = axes[0]
        for (name, (answered, wrong)), (colour, marker) in zip(curves.items(), SERIES, strict=False):
            # Of the surest few photos the share is noise, and its line would end anywhere.
            shown = answered >= max(answered[-1] / 20, 20 / len(answered))
            ax.plot(answered[shown], wrong[shown], color=colour, lw=1.6, zorder=2)
            point = ax.scatter([answered[-1]], [wrong[-1]], s=34, color=colour, marker=marker, zorder=3, clip_on=False)
            hover(point, [f"{name}: {wrong[-1]:.1%} wrong where every photo is answered"])
        ax.set(xlabel="share of the photos that is answered, the surest first", ylabel="wrong among these")
        ax.set_xlim(0, 1)
        ax.set_ylim(bottom=0)
        _key(figure, list(curves), hollow=False)
        return to_svg(
            figure, "Share of wrong answers over the share of photos that are answered, as in the tables below"
        )
