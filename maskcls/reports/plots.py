"""What the reports' figures share: their style, and how they are made and written."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.etree import ElementTree

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskcls.reports.page import COLOURS, Html, css_colour, scrolling

INK, ACCENT, BLUE, GREY, EDGE = (COLOURS[name][0] for name in ("ink", "accent", "blue", "grey", "edge"))
YELLOW, RED, VIOLET, BLACK = (COLOURS[name][0] for name in ("yellow", "red", "violet", "black"))
WIDTH_IN = 9.0
MEDIUM_IN, NARROW_IN = 7.0, 5.0
"""A figure wider than NARROW_IN scrolls sideways on a phone, where its letters would become too small; one that is not
wider than MEDIUM_IN does not grow over the whole width of a desk's screen."""
SVG = "http://www.w3.org/2000/svg"
_HOVER = "hover:"
PNG_DPI = 130
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "svg.hashsalt": "report",  # equal reports give equal pages
    "text.parse_math": False,  # a value that holds $ is no formula
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": COLOURS["grid"][0],
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


def hover(artist: Artist, texts: Sequence[str]) -> None:
    """Let an artist's marks, in their order, show these texts under the mouse, in the SVG that `to_svg` makes.

    Args:
        artist: points, a line with markers, or what is one shape.
    """
    artist.set_gid(f"{_HOVER}{json.dumps(list(texts))}")


def to_svg(figure: Figure, label: str) -> Html:
    """Return the figure as an <svg> element, which may stand in a page. Equal figures give equal text.

    Args:
        label: what it shows, for readers who hear the page.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    for prefix, address in ("", SVG), ("xlink", "http://www.w3.org/1999/xlink"):
        ElementTree.register_namespace(prefix, address)
    root = ElementTree.fromstring(text.getvalue()[text.getvalue().index("<svg") :])
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for group in list(root.iter(f"{{{SVG}}}g")):
        name = group.attrib.pop("id", "")  # else several figures of a page would have the same ids
        if name.startswith(_HOVER):
            _add_titles(group, json.loads(name.removeprefix(_HOVER)))
    root.attrib |= {"role": "img", "aria-label": label, "class": _size(figure)}
    svg = ElementTree.tostring(root, encoding="unicode")
    svg = re.sub(r"#[0-9a-f]{6}\b", lambda found: css_colour(found[0]), svg)
    drawn = Html(_with_own_ids(svg))
    return drawn if _size(figure) == "narrow" else scrolling(drawn, label)


def _size(figure: Figure) -> str:
    """Return the class of page.py's style that a figure of this width has."""
    width = figure.get_figwidth()
    return "wide" if width > MEDIUM_IN else "medium" if width > NARROW_IN else "narrow"


def _add_titles(group: ElementTree.Element, texts: Sequence[str]) -> None:
    """Put each text into the mark that it belongs to, as SVG's <title>; nothing where marks were not drawn."""
    parents = {child: parent for parent in group.iter() for child in parent}
    inside_defs = {child for defs in group.iter(f"{{{SVG}}}defs") for child in defs.iter()}
    for tag in ("use", "path"):
        marks = [mark for mark in group.iter(f"{{{SVG}}}{tag}") if mark not in inside_defs]
        if len(marks) == len(texts):
            break
    else:
        return
    for mark, text in zip(marks, texts, strict=True):
        parent = parents[mark]
        place = list(parent).index(mark)
        around = ElementTree.Element(f"{{{SVG}}}g")
        ElementTree.SubElement(around, f"{{{SVG}}}title").text = text
        parent.remove(mark)
        around.append(mark)
        parent.insert(place, around)


def _with_own_ids(svg: str) -> str:
    """Return the text with ids that no other figure of a page has."""
    own = hashlib.sha256(svg.encode()).hexdigest()[:8]
    for name in sorted(set(re.findall(r'\bid="([^"]+)"', svg))):
        svg = re.sub(rf'(id="|href="#|url\(#){re.escape(name)}(?=["\)])', rf"\g<1>{name}-{own}", svg)
    return svg


def to_png(figure: Figure, dpi: int = PNG_DPI) -> bytes:
    """Return the figure as a PNG file's content, on white."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return stream.getvalue()
