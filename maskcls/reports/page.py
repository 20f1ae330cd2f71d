"""The markup of the reports: one page with its style inside. Text is escaped unless it is marked as markup."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

Html = Markup
"""Markup that may stand in a page as it is; a plain string in its place is text, and is escaped."""

COLOURS = {
    # name: on light, on dark
    "ink": ("#2b3640", "#e3e8ec"),
    "faint": ("#5d6a75", "#a3b1bc"),
    "line": ("#e3e7ea", "#333d46"),
    "edge": ("#8a96a0", "#75838f"),
    "grid": ("#edf0f2", "#2a333b"),
    "paper": ("#ffffff", "#1c2329"),
    "ground": ("#f5f6f7", "#12171b"),
    "shadow": ("#c9cfd5", "#05080a"),
    "marked": ("#fdf3f4", "#38262c"),
    "accent": ("#d1495b", "#f2808c"),
    "blue": ("#1f6f8b", "#5cb6d6"),
    "grey": ("#a9b4be", "#6d7a86"),
    "yellow": ("#e3a72f", "#e9b44c"),
    "red": ("#c4472f", "#f0846e"),
    "violet": ("#7b3f98", "#c08fd8"),
    "black": ("#222222", "#f5f5f5"),
}
"""Every colour of pages and plots: readers who have chosen a dark screen get the second one."""
_NAMES = {light: name for name, (light, _) in COLOURS.items()}


def css_colour(colour: str) -> str:
    """Return a light colour of COLOURS as a CSS value that follows the reader's screen; others as they are."""
    name = _NAMES.get(colour)
    return colour if name is None else f"var(--{name})"


_VARIABLES = tuple("; ".join(f"--{name}: {values[dark]}" for name, values in COLOURS.items()) for dark in (0, 1))
_STYLE = (
    f":root {{ color-scheme: light dark; {_VARIABLES[0]} }}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_VARIABLES[1]} }} }}\n"
    """
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 1040px; margin: 0 auto; padding: 36px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 26px; font-weight: 650; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 4px; font-size: 17px; font-weight: 650; }
h3 { margin: 16px 0 2px; font-size: 14.5px; font-weight: 650; }
p { margin: 0 0 12px; color: var(--faint); }
a { color: var(--blue); }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 2px; border-radius: 3px; }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 4px 0 18px; padding: 0; list-style: none; }
section {
  margin: 0 0 18px; padding: 20px 24px; background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  scroll-margin-top: 12px;
}
/* A shadow at an edge behind which there is more: the covers scroll with the content, the shadows stay. */
.scroll {
  overflow-x: auto; background-repeat: no-repeat; background-size: 32px 100%, 32px 100%, 12px 100%, 12px 100%;
  background-position: left, right, left, right; background-attachment: local, local, scroll, scroll;
  background-image:
    linear-gradient(to right, var(--paper) 40%, transparent), linear-gradient(to left, var(--paper) 40%, transparent),
    linear-gradient(to right, var(--shadow), transparent), linear-gradient(to left, var(--shadow), transparent);
}
svg { display: block; width: 100%; height: auto; }
svg text { font-family: inherit !important; }
svg.medium { min-width: 440px; max-width: 780px; margin: 0 auto; }
svg.wide { min-width: 560px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); gap: 14px; margin: 0 0 12px; }
.tiles.wide { grid-template-columns: repeat(auto-fit, minmax(min(290px, 100%), 1fr)); }
.tile { padding: 16px 18px; background: var(--paper); border: 1px solid var(--line); border-radius: 10px; }
.tile:first-child { border-top: 3px solid var(--accent); padding-top: 14px; }
.tile b { display: block; font-size: 27px; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--faint); font-size: 13px; overflow-wrap: anywhere; }
table {
  width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; margin: 8px 0 14px;
}
th { text-align: left; font-weight: 600; color: var(--faint); border-bottom: 1px solid var(--edge); }
td { border-bottom: 1px solid var(--line); vertical-align: top; }
th, td { padding: 5px 10px 5px 0; white-space: nowrap; }
td:last-child { white-space: normal; overflow-wrap: anywhere; }
tr.best td { background: var(--marked); font-weight: 600; }
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
.plots.small { grid-template-columns: repeat(auto-fill, minmax(min(290px, 100%), 1fr)); }
.plots > div { min-width: 0; overflow-x: auto; }
.plots table { font-size: 12.5px; margin: 0; }
.plots th, .plots td { padding: 4px 8px 4px 0; }
.photos { display: flex; flex-wrap: wrap; gap: 12px 10px; margin: 10px 0 16px; }
figure { width: 80px; margin: 0; }
figure img { display: block; width: 80px; height: 107px; object-fit: contain; background: var(--ground); }
figcaption { font-size: 10px; line-height: 1.3; color: var(--faint); overflow-wrap: anywhere; }
.pair {
  display: flex; flex-wrap: wrap; gap: 2px 4px; width: 178px; padding: 6px; border: 1px solid var(--line);
  border-radius: 8px;
}
.strip { width: auto; gap: 6px 10px; }
.strip figure, .strip img { width: 76px; } .strip img { height: 76px; }
.pair p { flex-basis: 100%; margin: 0; font-size: 12px; }
@media (max-width: 600px) {
  main { padding: 20px 10px 40px; } section { padding: 14px 12px; }
  .tiles, .tiles.wide { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 10px 12px; }
  .tile b { font-size: 21px; } td:last-child { min-width: 22em; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: 5px; }
}
@media print { body { background: #fff; } section { break-inside: avoid; } }
"""
)


class Section(Markup):
    """A titled part of a page, to which its list of contents leads."""

    heading: str
    anchor: str


def page(title: str, text: str, sections: Sequence[Html], *, style: str = "", script: str = "") -> Html:
    """Return a whole document, with a line of text and the list of its sections under its title.

    Its policy forbids every request, whatever a value contains. Pictures may stand in it as data: addresses.

    Args:
        style: more CSS, after that of all pages.
        script: JavaScript at the page's end; the policy allows this one alone. Without it the page has none.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    if script:
        policy += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    head = Markup(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}{style}</style>\n"
    )
    top = Markup("<title>{}</title>\n</head>\n<body><main>\n<h1>{}</h1>\n<p>{}</p>\n").format(title, title, text)
    end = Markup(f"\n</main>{f'<script>{script}</script>' if script else ''}</body>\n</html>\n")
    return head + top + _contents(sections) + Markup("\n").join(sections) + end


def section(title: str, text: str, content: Html) -> Section:
    """Return a titled part of the page with a line of text. Titles differ within a page."""
    anchor = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    made = Section(
        Markup('<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>{2}{3}</section>').format(
            anchor, title, _line(text), content
        )
    )
    made.heading, made.anchor = title, anchor
    return made


def _contents(sections: Sequence[Html]) -> Html:
    """Return links to the titled sections; nothing for a short page."""
    titled = [each for each in sections if isinstance(each, Section)]
    if len(titled) < 4:
        return Markup()
    links = (Markup('<li><a href="#{}">{}</a></li>').format(each.anchor, each.heading) for each in titled)
    return Markup('<nav aria-label="Contents"><ul>{}</ul></nav>\n').format(Markup("").join(links))


def part(title: str, text: str, content: Html) -> Html:
    """Return a part of a section, under a title of its own."""
    return Markup("<h3>{}</h3>{}{}").format(title, _line(text), content)


def scrolling(content: Html, label: str) -> Html:
    """Return content that scrolls sideways where the screen is narrow, with the keyboard as well."""
    return Markup('<div class="scroll" role="group" tabindex="0" aria-label="{}">{}</div>').format(label, content)


def tiles(shown: Sequence[tuple[str, str, str]], text: str) -> Html:
    """Return large figures, each (name, figure, remark), and a line of text under them."""
    tile = Markup('<div class="tile"><span>{}</span><b>{}</b><span>{}</span></div>')
    each = Markup("").join(tile.format(*values) for values in shown)
    width = " wide" if len(shown) % 3 == 0 else ""  # three per line, not four
    return Markup('<div class="tiles{}">{}</div>{}').format(width, each, _line(text))


def table(headers: Sequence[str], rows: Sequence[Sequence[str | Html]], marked: int | None = None) -> Html:
    """Return a table; row `marked` stands out."""
    head = Markup("").join(Markup('<th scope="col">{}</th>').format(header) for header in headers)
    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(
            " class=best" if number == marked else "",
            Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row),
        )
        for number, row in enumerate(rows)
    )
    whole = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, body)
    return scrolling(whole, f"table: {', '.join(filter(None, headers))}")


def pairs(values: Mapping[str, Any], title: str, *, unfolded: bool = True) -> Html:
    """Return names and values under a title that folds them; nothing if there is no value."""
    each = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(name, str(value)) for name, value in values.items())
    return folded(title, Markup("<dl>{}</dl>").format(each), unfolded) if values else Markup()


def grid(plots: Sequence[Html], *, small: bool = False) -> Html:
    """Return plots, or what stands beside them, two per line if there is room; three of `small` ones."""
    each = Markup("").join(Markup("<div>{}</div>").format(plot) for plot in plots)
    return Markup('<div class="plots{}">{}</div>').format(" small" * small, each)


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


def strip(pictures: Sequence[Html], text: str) -> Html:
    """Return pictures side by side that belong together, under a line of text."""
    return Markup('<div class="pair strip"><p>{}</p>{}</div>').format(text, Markup("").join(pictures))


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
    return Markup('<span class="dot" style="background:{}"></span>').format(css_colour(colour))


def breaking(text: str) -> Html:
    """Return text of a table's cell that may break, where the other cells must not."""
    return Markup('<span style="white-space: normal">{}</span>').format(text)


def _line(text: str) -> Html:
    return paragraph(text) if text else Markup()
