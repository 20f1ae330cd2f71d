"""The plots of a folder of photos, each on its own axes, for the page, for a PNG file and for the overview."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from maskcls.data.decoding.decode import Image
from maskcls.data.near_duplicates import NEVER
from maskcls.labels import AGES, CLASS_NAMES, GENDERS, MASKS
from maskcls.reports.explore.facts import Facts
from maskcls.reports.page import Html
from maskcls.reports.plots import ACCENT, BLUE, GREY, INK, STYLE, YELLOW, new_figure, quiet_about_glyphs, to_png, to_svg

WIDTH_IN = 4.8  # narrow enough that its letters can be read on a phone
GENDER_COLOURS = (BLUE, ACCENT)
MASK_COLOURS = (BLUE, YELLOW, GREY)
MAX_BARS = 14
"""Bars of a plot; rarer values are counted together in the last one."""
MAX_LETTERS = 32
WHOLE = StrMethodFormatter("{x:,.0f}")

Draw = Callable[[Axes, Facts], None]


@dataclass(frozen=True)
class Plot:
    """What one plot is called, and how it is drawn; `height_in` depends on how many bars there are."""

    name: str
    draw: Draw
    height_in: Callable[[Facts], float]


def drawn(plot: Plot, facts: Facts) -> tuple[Html, bytes]:
    """Return the plot as an <svg> element and as a PNG file."""
    with mpl.rc_context(STYLE), quiet_about_glyphs():
        figure, axes = new_figure(1, 1, plot.height_in(facts), WIDTH_IN)
        plot.draw(axes[0], facts)
        return to_svg(figure, axes[0].get_title(loc="left") or plot.name), to_png(figure)


def overview(pngs: Sequence[bytes]) -> bytes:
    """Join PNG files of one width, in reading order, to one PNG file in two columns."""
    columns: tuple[list[Image], list[Image]] = ([], [])
    for content in pngs:
        lower = min(columns, key=lambda column: sum(len(part) for part in column))
        lower.append(np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), np.uint8))
    height = max(sum(len(part) for part in column) for column in columns)
    width = columns[0][0].shape[1]
    canvas = np.full((height, len(columns) * width, 3), 255, np.uint8)
    for number, column in enumerate(filter(None, columns)):
        stacked = np.concatenate(column)
        canvas[: len(stacked), number * width : (number + 1) * width] = stacked
    _, encoded = cv2.imencode(".png", canvas, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return bytes(encoded)


def _titled(ax: Axes, title: str, n: int, unit: str) -> None:
    ax.set_title(f"{title} (n = {n:,} {unit})", loc="left", fontsize=10.5, fontweight="bold")


def _count(axis: Axis, most: int = 6) -> None:
    """Put ticks at whole numbers, at most `most` + 1 of them."""
    axis.set_major_locator(MaxNLocator(integer=True, nbins=most))
    axis.set_major_formatter(WHOLE)


def _bars(ax: Axes, counts: Mapping[str, int], unit: str, colours: Sequence[str] | str = BLUE) -> None:
    """Draw a horizontal bar for each name, the first on top, with its count."""
    names = list(counts)
    y = np.arange(len(names))[::-1]
    ax.barh(y, list(counts.values()), color=colours, height=0.66)
    ax.set_yticks(y, [name if len(name) <= MAX_LETTERS else f"{name[: MAX_LETTERS - 1]}…" for name in names])
    for place, count in zip(y, counts.values(), strict=True):
        ax.annotate(f"{count:,}", (count, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    ax.set(xlabel=unit, xlim=(0, 1.17 * max(*counts.values(), 1)), ylim=(-0.6, len(names) - 0.4))
    _count(ax.xaxis, 5)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)


def _most_common(values: Sequence[str] | pd.Series[str]) -> dict[str, int]:
    """Return counts, the most frequent first; from MAX_BARS on as one."""
    counts = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    if len(counts) <= MAX_BARS:
        return dict(counts)
    rest = counts[MAX_BARS - 1 :]
    return {**dict(counts[: MAX_BARS - 1]), f"{len(rest):,} others": sum(count for _, count in rest)}


def _gender(ax: Axes, facts: Facts) -> None:
    counts = facts.people["gender"].value_counts()
    _bars(ax, {name: int(counts.get(i, 0)) for i, name in enumerate(GENDERS)}, "people", GENDER_COLOURS)
    _titled(ax, "Gender", len(facts.people), "people")
    ax.set_ylabel("gender")


def _race(ax: Axes, facts: Facts) -> None:
    _bars(ax, _most_common(facts.people["race"].replace("", "(none given)")), "people", INK)
    _titled(ax, f"Race, as {facts.source} has it", len(facts.people), "people")
    ax.set_ylabel("race")


def _age_groups(ax: Axes, facts: Facts) -> None:
    """Draw bars side by side: one per gender for each age group."""
    people = facts.people
    counts = people.groupby(["age_group", "gender"]).size()
    for gender, (name, colour) in enumerate(zip(GENDERS, GENDER_COLOURS, strict=True)):
        x = np.arange(len(AGES)) + (gender - 0.5) * 0.4
        bars = ax.bar(
            x, [int(counts.get((age, gender), 0)) for age in range(len(AGES))], 0.36, color=colour, label=name
        )
        ax.bar_label(bars, fmt="{:,.0f}", fontsize=9, padding=1)
    ax.set_xticks(
        range(len(AGES)), [f"{name}: {int((people['age_group'] == i).sum()):,}" for i, name in enumerate(AGES)]
    )
    ax.set(xlabel="age group, years", ylabel="people")
    ax.margins(y=0.14)
    _count(ax.yaxis)
    ax.grid(axis="x", visible=False)
    ax.legend(fontsize=9)
    _titled(ax, "Age group by gender", len(people), "people")


def _ages(ax: Axes, facts: Facts) -> None:
    people = facts.people[facts.people["age"].notna()]
    if people.empty:
        ax.text(0.5, 0.5, "nobody's age in years is known", ha="center", va="center", transform=ax.transAxes)
        _titled(ax, "Age", 0, "people")
        return
    ages = [people.loc[people["gender"] == gender, "age"].to_numpy() for gender in range(len(GENDERS))]
    youngest, oldest = int(people["age"].min()), int(people["age"].max())
    width = max(1, -(-(oldest + 1 - youngest) // 60))
    bins = np.arange(youngest, oldest + 1 + width, width) - 0.5
    ax.hist(ages, bins=bins.tolist(), stacked=True, color=GENDER_COLOURS, label=GENDERS, rwidth=0.9)
    ax.set(xlabel="age, years", ylabel="people" if width == 1 else f"people a {width} years")
    _count(ax.yaxis)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize=9, title="stacked", title_fontsize=9)
    _titled(ax, "Age", len(people), "people")


def _classes(ax: Axes, facts: Facts) -> None:
    counts = facts.photos["label"].value_counts()
    shown = {f"{i}: {name}": int(counts.get(i, 0)) for i, name in enumerate(CLASS_NAMES)}
    _bars(ax, shown, "photos", [MASK_COLOURS[i // (len(CLASS_NAMES) // len(MASKS))] for i in range(len(CLASS_NAMES))])
    ax.set_ylabel("class: mask, gender, age")
    _titled(ax, "Classes", len(facts.photos), "photos")


def _photos_per_person(ax: Axes, facts: Facts) -> None:
    counts = Counter(facts.people["n_photos"].tolist())
    _bars(ax, {str(n): counts[n] for n in sorted(counts)}, "people", INK)
    ax.set_ylabel("photos")
    _titled(ax, "Photos a person", len(facts.people), "people")


def _sizes(ax: Axes, facts: Facts) -> None:
    _bars(ax, _most_common(_size_names(facts)), "photos", INK)
    ax.set_ylabel("size, px")
    _titled(ax, "Width x height", len(facts.photos), "photos")


def _size_names(facts: Facts) -> list[str]:
    sizes = zip(facts.photos["width_px"].tolist(), facts.photos["height_px"].tolist(), strict=True)
    return [f"{width}x{height}" for width, height in sizes]


def _types(ax: Axes, facts: Facts) -> None:
    _bars(ax, _most_common(facts.photos["type"]), "photos", INK)
    ax.set_ylabel("type")
    _titled(ax, "File type", len(facts.photos), "photos")


def _brightness(ax: Axes, facts: Facts) -> None:
    photos = facts.photos
    values = [photos.loc[photos["mask"] == mask, "brightness"].to_numpy() for mask in range(len(MASKS))]
    ax.hist(values, bins=np.linspace(0, 256, 33).tolist(), stacked=True, color=MASK_COLOURS, label=MASKS, rwidth=0.9)
    ax.set(xlabel="mean grey of a photo, 0 black to 255 white", ylabel="photos", xlim=(0, 256))
    ax.set_xticks(range(0, 257, 64), ["0", "64", "128", "192", "255"])
    ax.legend(fontsize=9, title="mask, stacked", title_fontsize=9)
    _titled(ax, "Brightness", len(photos), "photos")


def _nearest(ax: Axes, facts: Facts) -> None:
    bits = facts.near.nearest_bits[facts.near.nearest_bits < NEVER]
    top = int(bits.max(initial=facts.near.max_bits)) + 8
    ax.hist(bits, bins=np.arange(-1, top, 4).tolist(), color=INK, rwidth=0.9)
    ax.axvline(facts.near.max_bits + 1, color=ACCENT, lw=1.5, ls="--")
    ax.annotate(
        f"near-\nduplicates:\nup to {facts.near.max_bits} bits",
        (facts.near.max_bits, 0.95),
        xycoords=ax.get_xaxis_transform(),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=ACCENT,
    )
    ax.set(xlabel="bits to the nearest photo of another person", ylabel="photos", xlim=(-2, top))
    _count(ax.yaxis)
    _titled(ax, "Distance between people", len(bits), "photos")


def _bar_height(count: Callable[[Facts], int]) -> Callable[[Facts], float]:
    return lambda facts: 0.85 + 0.24 * min(count(facts), MAX_BARS)


PLOTS = (
    Plot("gender", _gender, _bar_height(lambda facts: len(GENDERS))),
    Plot("age-groups", _age_groups, lambda facts: 2.7),
    Plot("ages", _ages, lambda facts: 2.7),
    Plot("race", _race, _bar_height(lambda facts: facts.people["race"].nunique())),
    Plot("classes", _classes, lambda facts: 5.0),
    Plot("photos-per-person", _photos_per_person, _bar_height(lambda facts: facts.people["n_photos"].nunique())),
    Plot("sizes", _sizes, _bar_height(lambda facts: len(set(_size_names(facts))))),
    Plot("file-types", _types, _bar_height(lambda facts: facts.photos["type"].nunique())),
    Plot("brightness", _brightness, lambda facts: 2.7),
    Plot("nearest", _nearest, lambda facts: 2.7),
)
