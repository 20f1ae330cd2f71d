"""Figures in pages: values under the pointer, colours that follow the reader's screen, and text that can be read."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from maskcls.reports.page import COLOURS, page, section
from maskcls.reports.plots import BLUE, STYLE, SVG, hover, new_figure, to_svg


def drawn(values: list[float], label: str = "three points") -> str:
    with mpl.rc_context(STYLE):
        figure, axes = new_figure(1, 1, 2.0, 3.0)
        hover(axes[0].scatter(range(len(values)), values, color=BLUE), [f"value {value} & more" for value in values])
        (line,) = axes[0].plot(values, marker="o")
        hover(line, [f"epoch {at}" for at in range(len(values))])
        (bar,) = axes[0].bar([0], [1])
        hover(bar, ["a bar"])
        return str(to_svg(figure, label))


@pytest.mark.parametrize("n", [1, 2, 30])
def test_every_mark_has_its_text(n: int) -> None:
    root = ElementTree.fromstring(drawn([float(value) for value in range(n)]))
    titles = [title.text for title in root.iter(f"{{{SVG}}}title")]
    points = [f"value {value}.0 & more" for value in range(n)]
    assert titles == [*points, "a bar", *(f"epoch {at}" for at in range(n))]


def test_it_is_named_and_its_colours_follow_the_screen() -> None:
    svg = drawn([1.0, 2.0])
    assert 'role="img" aria-label="three points"' in svg
    assert "fill: var(--blue)" in svg
    assert not {light for light, _ in COLOURS.values()} & set(re.findall(r"#[0-9a-f]{6}\b", svg))


def test_two_figures_share_no_id_and_equal_figures_are_equal() -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (drawn([1.0]), drawn([1.0, 3.0]))]
    assert all(ids)
    assert not ids[0] & ids[1]
    assert drawn([1.0]) == drawn([1.0])
    svg = drawn([1.0, 3.0])
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg)) <= ids[1], "every reference is to an id of its own"


@pytest.mark.parametrize(("text", "ground"), list(itertools.product(("ink", "faint", "blue"), ("paper", "ground"))))
@pytest.mark.parametrize("is_dark", [0, 1])
def test_text_has_the_contrast_that_wcag_asks_for(text: str, ground: str, is_dark: int) -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
        return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(luminance(COLOURS[name][is_dark]) for name in (text, ground))
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_long_page_lists_its_sections() -> None:
    sections = [section(f"Part {at} & more", "", page("", "", [])) for at in range(4)]
    text = page("title", "", sections)
    links = re.findall(r'<li><a href="#(.*?)">(.*?)</a></li>', text)
    assert links == [(f"part-{at}-more", f"Part {at} &amp; more") for at in range(4)]
    assert all(f'<section id="{anchor}"' in text for anchor, _ in links)
    assert "<nav" not in page("title", "", sections[:3])
