"""What the reports' figures share: their style, and how they are made and written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskcls.reports.page import Html

INK, ACCENT, BLUE, GREY = "#2b3640", "#d1495b", "#1f6f8b", "#a9b4be"
WIDTH_IN = 9.0
PNG_DPI = 130
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "report",  # equal reports give equal pages
    "text.parse_math": False,  # a value that holds $ is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": "#8a96a0",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#edf0f2",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
"""For `matplotlib.rc_context`, around drawing and writing."""


def new_figure(n_rows: int, n_columns: int, height_in: float, width_in: float = WIDTH_IN) -> tuple[Figure, list[Axes]]:
    """Return a figure and its axes, row by row, without pyplot's windows and global state."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False).flat)


@contextmanager
def quiet_about_glyphs() -> Iterator[None]:
    """Suppress a warning for each letter that matplotlib's font lacks.

    Such letters become boxes in a PNG; an SVG keeps them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def legend(figure: Figure, ax: Axes) -> None:
    """Put the legend of `ax` above the plot."""
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left", ncols=6, fontsize=9)


def to_svg(figure: Figure) -> Html:
    """Return the figure as an <svg> element, which may stand in a page. Equal figures give equal text."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return Html(svg[svg.index("<svg") :])


def to_png(figure: Figure, dpi: int = PNG_DPI) -> bytes:
    """Return the figure as a PNG file's content, on white."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
