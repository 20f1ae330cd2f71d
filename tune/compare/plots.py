"""The figure of a comparison run: every difference to its base, with its interval."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maskcls.reports.page import Html
from maskcls.reports.plots import ACCENT, BLUE, EDGE, INK, STYLE, VIOLET, new_figure, quiet_about_glyphs, to_png, to_svg
from tune.compare.results import Results, Row
from tune.states import TrialState
from tune.statistics.paired import Verdict

# The markers differ as well, for readers who do not see the hues.
COLOURS: dict[str, str] = {
    Verdict.BETTER: BLUE,
    Verdict.WORSE: ACCENT,
    Verdict.CANT_TELL: EDGE,
    TrialState.DIVERGED: VIOLET,
}
_MARKERS: dict[str, str] = {Verdict.BETTER: "o", Verdict.WORSE: "s", Verdict.CANT_TELL: "D", TrialState.DIVERGED: "X"}
_LONGEST = 52
"""Characters of a name beside the axis."""


def differences_svg(results: Results) -> Html:
    """The figure for a page; "" where there is no difference yet."""
    with mpl.rc_context(STYLE), quiet_about_glyphs():
        figure = _figure(results)
        return (
            Html() if figure is None else to_svg(figure, "Differences of macro F1 to the base, as in the tables below")
        )


def differences_png(results: Results) -> bytes:
    """The figure for a document; empty where there is no difference yet."""
    with mpl.rc_context(STYLE), quiet_about_glyphs():
        figure = _figure(results)
        return b"" if figure is None else to_png(figure)


def colour_key(row: Row) -> str:
    """The key of COLOURS for a row that has a difference: diverged where any fit did, else the verdict."""
    return TrialState.DIVERGED if row.states.get(TrialState.DIVERGED) else row.verdict


def _figure(results: Results) -> Figure | None:
    """Dots and whiskers in the order of the table; several comparisons are headed by their names."""
    names = list(dict.fromkeys(row.comparison for row in results.rows))
    lines: list[str | Row] = []
    for name in names:
        rows = [row for row in results.rows_of(name) if row.difference is not None]
        if len(names) > 1 and rows:
            lines.append(name)
        lines += rows
    if not lines:
        return None
    figure, axes = new_figure(1, 1, 1.2 + 0.29 * len(lines))
    ax = axes[0]
    bases = {row.comparison: row.f1 for row in results.rows if row.is_base}
    for at, line in enumerate(lines):
        if isinstance(line, Row):
            _whisker(ax, at, line, bases[line.comparison])
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(lines)), [_shortened(line.variant if isinstance(line, Row) else line) for line in lines])
    for label, line in zip(ax.get_yticklabels(), lines, strict=True):
        label.set_fontweight("normal" if isinstance(line, Row) else "bold")
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="difference of macro F1 to the base")
    words = [
        word
        for word in COLOURS
        if word != TrialState.DIVERGED
        or any(colour_key(row) == TrialState.DIVERGED for row in results.rows if row.difference)
    ]
    handles = [Line2D([], [], color=COLOURS[word], marker=_MARKERS[word], lw=2, label=word) for word in words]
    handles.append(Line2D([], [], color=INK, marker=".", ms=4, lw=0, label="one repeat"))
    figure.legend(
        handles=handles,
        title="mean and 95 % interval",
        loc="outside upper left",
        ncols=len(handles),
        fontsize=9,
        title_fontsize=9,
    )
    return figure


def _whisker(ax: Axes, at: int, row: Row, base: Mapping[int, float]) -> None:
    """One row of the figure: interval and mean, and below them the single repeats as small dots."""
    found = row.difference
    if found is None:
        return
    colour = COLOURS[colour_key(row)]
    if found.n > 1:
        ax.plot([found.low, found.high], [at, at], color=colour, lw=2.2, solid_capstyle="round", zorder=2)
    repeats = [f1 - base[number] for number, f1 in row.f1.items()]
    ax.scatter(repeats, [at + 0.22] * len(repeats), s=7, color=colour, alpha=0.55, lw=0, zorder=2)
    ax.scatter(
        [found.mean],
        [at],
        s=42,
        color=colour,
        marker=_MARKERS[colour_key(row)],
        edgecolor="white",
        linewidth=0.7,
        zorder=3,
    )


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
