"""The reports' markup: one page with its style inside. Text that comes from outside is escaped here, or by whoever passes `Html`."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Html = str
"""Text that may stand in a page as it is."""

_STYLE = """
:root { color-scheme: light; --ink: #2b3640; --faint: #6b7883; --line: #e3e7ea; --accent: #d1495b; --blue: #1f6f8b; }
* { box-sizing: border-box; }
body { margin: 0; background: #f5f6f7; color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 26px; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 17px; font-weight: 650; }
p { margin: 0 0 12px; color: var(--faint); }
section { margin: 0 0 18px; padding: 20px 24px; background: #fff; border: 1px solid var(--line); border-radius: 10px; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 0 0 12px; }
.tiles.wide { grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
.tile { padding: 16px 18px; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile:first-child { border-top: 3px solid var(--accent); padding-top: 14px; }
.tile b { display: block; font-size: 27px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 8px 0 14px; }
th { text-align: left; font-weight: 600; color: var(--faint); border-bottom: 1px solid #c9d0d6; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: 5px 10px 5px 0; white-space: nowrap; }
td:last-child { white-space: normal; overflow-wrap: anywhere; }
tr.best td { background: #fdf3f4; font-weight: 600; }
.bar { display: inline-block; width: 260px; height: 10px; margin-top: 5px; border-radius: 5px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--blue); }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
ul { margin: 6px 0 14px; padding-left: 20px; font-size: 13.5px; overflow-wrap: anywhere; }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 8px 0; font-size: 13.5px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 14px 26px; margin: 10px 0 0; }
.plots > div { min-width: 0; overflow-x: auto; }
.plots table { font-size: 12.5px; margin: 0; }
.plots th, .plots td { padding: 4px 8px 4px 0; }
.photos { display: flex; flex-wrap: wrap; gap: 12px 10px; margin: 10px 0 16px; }
figure { width: 80px; margin: 0; }
figure img { display: block; width: 80px; height: 107px; object-fit: contain; background: #f5f6f7; }
figcaption { font-size: 10px; line-height: 1.3; color: var(--faint); overflow-wrap: anywhere; }
.pair { display: flex; flex-wrap: wrap; gap: 2px 4px; width: 178px; padding: 6px; border: 1px solid var(--line); border-radius: 8px; }
.pair p { flex-basis: 100%; margin: 0; font-size: 12px; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def page(title: str, told: str, sections: Sequence[Html]) -> Html:
    """A whole document, with a line of plain text under its title. Its policy forbids every request, whatever a value smuggles in.

    Pictures may stand in it as data: addresses.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body><main>\n<h1>{escape(title)}</h1>\n<p>{escape(told)}</p>\n"
        + "\n".join(sections)
        + "\n</main></body>\n</html>\n"
    )


def section(title: str, told: str, content: Html) -> Html:
    """A titled part of the page with a line of plain text."""
    paragraph = f"<p>{escape(told)}</p>" if told else ""
    return f"<section><h2>{escape(title)}</h2>{paragraph}{content}</section>"


def tiles(shown: Sequence[tuple[str, str, str]], told: str) -> Html:
    """Large figures, each (name, figure, remark), and a line of plain text under them."""
    each = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(figure)}</b><span>{escape(remark)}</span></div>'
        for name, figure, remark in shown
    )
    width = " wide" if len(shown) % 3 == 0 else ""  # three a line, not four
    return f'<div class="tiles{width}">{each}</div>' + (f"<p>{escape(told)}</p>" if told else "")


def table(headers: Sequence[str], rows: Sequence[Sequence[Html]], marked: int | None = None) -> Html:
    """A table of cells that are markup already; row `marked` stands out."""
    head = "".join(f"<th>{escape(header)}</th>" for header in headers)
    body = "".join(
        f"<tr{' class=best' if number == marked else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def pairs(values: Mapping[str, Any], title: str) -> Html:
    """Names and values, folded under a title."""
    each = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in values.items())
    return f"<details open><summary>{escape(title)}</summary><dl>{each}</dl></details>" if values else ""


def grid(plots: Sequence[Html]) -> Html:
    """Plots, or what stands beside them, two a line where there is room."""
    return f'<div class="plots">{"".join(f"<div>{plot}</div>" for plot in plots)}</div>'


def picture(jpeg: bytes, lines: Sequence[str]) -> Html:
    """A small photo from a JPEG file's content, over lines of plain text, the first of which stands for it where it can't be seen."""
    data = base64.b64encode(jpeg).decode()
    caption = "<br>".join(escape(line).replace("_", "_<wbr>").replace("/", "/<wbr>") for line in lines)
    return f'<figure><img alt="{escape(lines[0])}" src="data:image/jpeg;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def photos(pictures: Sequence[Html]) -> Html:
    """Pictures or pairs, as many side by side as there is room for."""
    return f'<div class="photos">{"".join(pictures)}</div>'


def pair(pictures: Sequence[Html], told: str) -> Html:
    """Pictures that belong together, under a line of plain text."""
    return f'<div class="pair"><p>{escape(told)}</p>{"".join(pictures)}</div>'


def folded(title: str, content: Html, unfolded: bool = False) -> Html:
    """Content under a title that folds and unfolds it."""
    return f"<details{' open' * unfolded}><summary>{escape(title)}</summary>{content}</details>"


def paragraph(told: str) -> Html:
    """Plain text."""
    return f"<p>{escape(told)}</p>"


def listed(lines: Sequence[str]) -> Html:
    """Lines of plain text, as a list."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def bar(share: float) -> Html:
    """A horizontal bar of 0..1."""
    return f'<span class="bar"><i style="width:{100 * min(max(share, 0.0), 1.0):.1f}%"></i></span>'
