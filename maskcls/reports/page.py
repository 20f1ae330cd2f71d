"""The markup of the reports: one page with its style inside. Text is escaped unless it is marked as markup."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Html = Markup
"""Markup that may stand in a page as it is; a plain string in its place is text, and is escaped."""

_STYLE = """
:root { color-scheme: light; --ink: #2b3640; --faint: #6b7883; --line: #e3e7ea; --accent: #d1495b; --blue: #1f6f8b; }
* { box-sizing: border-box; }
body {
  margin: 0; background: #f5f6f7; color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 26px; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 17px; font-weight: 650; }
p { margin: 0 0 12px; color: var(--faint); }
section {
  margin: 0 0 18px; padding: 20px 24px; background: #fff; border: 1px solid var(--line); border-radius: 10px;
  overflow-x: auto;
}
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 0 0 12px; }
.tiles.wide { grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
.tile { padding: 16px 18px; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.tile:first-child { border-top: 3px solid var(--accent); padding-top: 14px; }
.tile b { display: block; font-size: 27px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
table {
  width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 8px 0 14px;
}
th { text-align: left; font-weight: 600; color: var(--faint); border-bottom: 1px solid #c9d0d6; }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: 5px 10px 5px 0; white-space: nowrap; }
td:last-child { white-space: normal; overflow-wrap: anywhere; }
tr.best td { background: #fdf3f4; font-weight: 600; }
.bar {
  display: inline-block; width: 260px; height: 10px; margin-top: 5px; border-radius: 5px; background: var(--line);
  overflow: hidden;
}
.bar i { display: block; height: 100%; background: var(--blue); }
.dot { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 7px; }
ul { margin: 6px 0 14px; padding-left: 20px; font-size: 13.5px; overflow-wrap: anywhere; }
details { margin: 6px 0; } summary { cursor: pointer; color: var(--faint); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 8px 0; font-size: 13.5px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.plots {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(420px, 100%), 1fr)); gap: 14px 26px;
  margin: 10px 0 0;
}
.plots > div { min-width: 0; overflow-x: auto; }
.plots table { font-size: 12.5px; margin: 0; }
.plots th, .plots td { padding: 4px 8px 4px 0; }
.photos { display: flex; flex-wrap: wrap; gap: 12px 10px; margin: 10px 0 16px; }
figure { width: 80px; margin: 0; }
figure img { display: block; width: 80px; height: 107px; object-fit: contain; background: #f5f6f7; }
figcaption { font-size: 10px; line-height: 1.3; color: var(--faint); overflow-wrap: anywhere; }
.pair {
  display: flex; flex-wrap: wrap; gap: 2px 4px; width: 178px; padding: 6px; border: 1px solid var(--line);
  border-radius: 8px;
}
.pair p { flex-basis: 100%; margin: 0; font-size: 12px; }
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""


def page(title: str, text: str, sections: Sequence[Html]) -> Html:
    """Return a whole document, with a line of text under its title.

    Its policy forbids every request, whatever a value contains. Pictures may stand in it as data: addresses.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style>\n"
    )
    top = Markup("<title>{}</title>\n</head>\n<body><main>\n<h1>{}</h1>\n<p>{}</p>\n").format(title, title, text)
    return head + top + Markup("\n").join(sections) + Markup("\n</main></body>\n</html>\n")


def section(title: str, text: str, content: Html) -> Html:
    """Return a titled part of the page with a line of text."""
    return Markup("<section><h2>{}</h2>{}{}</section>").format(title, _line(text), content)


def tiles(shown: Sequence[tuple[str, str, str]], text: str) -> Html:
    """Return large figures, each (name, figure, remark), and a line of text under them."""
    tile = Markup('<div class="tile"><span>{}</span><b>{}</b><span>{}</span></div>')
    each = Markup("").join(tile.format(*values) for values in shown)
    width = " wide" if len(shown) % 3 == 0 else ""  # three per line, not four
    return Markup('<div class="tiles{}">{}</div>{}').format(width, each, _line(text))


def table(headers: Sequence[str], rows: Sequence[Sequence[str | Html]], marked: int | None = None) -> Html:
    """Return a table; row `marked` stands out."""
    head = Markup("").join(Markup("<th>{}</th>").format(header) for header in headers)
    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(
            " class=best" if number == marked else "",
            Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row),
        )
        for number, row in enumerate(rows)
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)


def pairs(values: Mapping[str, Any], title: str) -> Html:
    """Return names and values, folded under a title; nothing if there is no value."""
    each = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, str(value)) for name, value in values.items())
    return folded(title, Markup("<dl>{}</dl>").format(each), unfolded=True) if values else Markup()


def grid(plots: Sequence[Html]) -> Html:
    """Return plots, or what stands beside them, two per line if there is room."""
    each = Markup("").join(Markup("<div>{}</div>").format(plot) for plot in plots)
    return Markup('<div class="plots">{}</div>').format(each)


def picture(jpeg: bytes, lines: Sequence[str]) -> Html:
    """Return a small photo from the content of a JPEG file, over lines of text; the first is its alternative text."""
    data = base64.b64encode(jpeg).decode()
    breakable = (
        escape(line).replace("_", Markup("_<wbr>")).replace("/", Markup("/<wbr>")) for line in lines
    )  # folders' names have no blanks where a line could break
    return Markup('<figure><img alt="{}" src="data:image/jpeg;base64,{}"><figcaption>{}</figcaption></figure>').format(
        lines[0], data, Markup("<br>").join(breakable)
    )


def photos(pictures: Sequence[Html]) -> Html:
    """Return pictures or pairs, as many side by side as there is room for."""
    return Markup('<div class="photos">{}</div>').format(Markup("").join(pictures))


def pair(pictures: Sequence[Html], text: str) -> Html:
    """Return pictures that belong together, under a line of text."""
    return Markup('<div class="pair"><p>{}</p>{}</div>').format(text, Markup("").join(pictures))


def folded(title: str, content: Html, unfolded: bool = False) -> Html:
    """Return content under a title that folds and unfolds it."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(" open" * unfolded, title, content)


def paragraph(text: str) -> Html:
    """Return a paragraph of text."""
    return Markup("<p>{}</p>").format(text)


def listed(lines: Sequence[str]) -> Html:
    """Return lines of text as a list; nothing if there is no line."""
    each = Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)
    return Markup("<ul>{}</ul>").format(each) if lines else Markup()


def bar(share: float) -> Html:
    """Return a horizontal bar of 0..1."""
    return Markup('<span class="bar"><i style="width:{}%"></i></span>').format(f"{100 * min(max(share, 0.0), 1.0):.1f}")


def dot(colour: str) -> Html:
    """Return a coloured dot, which stands before the word that it marks."""
    return Markup('<span class="dot" style="background:{}"></span>').format(colour)


def breaking(text: str) -> Html:
    """Return text of a table's cell that may break, where the other cells must not."""
    return Markup('<span style="white-space: normal">{}</span>').format(text)


def _line(text: str) -> Html:
    return paragraph(text) if text else Markup()
