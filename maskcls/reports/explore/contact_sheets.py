"""Contact sheets: some photos of one class side by side, to find wrong labels, crops and orientations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import cv2
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from maskcls import seeds
from maskcls.data.decoding.decode import Image
from maskcls.labels import CLASS_NAMES
from maskcls.reports.explore.photo_looks import THUMBNAIL_PX
from maskcls.reports.plots import INK, STYLE, quiet_about_glyphs

PHOTOS = 40
COLUMNS = 8
SEED = 0
GAP_PX, HEADER_PX, CAPTION_PX = 8, 44, 26
CAPTION_LENGTH = 22
"""How many letters of a caption fit under a thumbnail."""
_DPI = 100


def chosen(photos: pd.DataFrame, class_: int, seed: int = SEED, limit: int = PHOTOS) -> list[int]:
    """Draw up to `limit` rows of a class with the seed, and return them sorted by age.

    Everybody's first photo comes before anybody's second.
    """
    rng = seeds.generator(seed, class_)
    rows = np.flatnonzero(photos["label"] == class_)
    persons = photos["person"].tolist()
    by_person: dict[str, list[int]] = {}
    for row in rng.permutation(rows).tolist():
        by_person.setdefault(persons[row], []).append(row)
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_person.values()))
    drawn = list(itertools.islice((row for row in rounds if row is not None), limit))
    ages = photos["age"].fillna(0)  # those whose age is not known come first
    return sorted(drawn, key=lambda row: (int(ages.iloc[row]), str(photos["key"].iloc[row])))


def captions(photos: pd.DataFrame, row: int) -> tuple[str, str]:
    """Return whose photo it is, and what its file is called."""
    return str(photos["person"].iloc[row]), str(photos["key"].iloc[row]).rpartition("/")[2]


def sheet(photos: pd.DataFrame, thumbnails: Sequence[bytes], class_: int, rows: Sequence[int]) -> bytes:
    """Return a PNG file of the rows' photos, each with its person, and the class as title.

    Args:
        photos: the table, of which `rows` are the ones to show, PHOTOS at most.
        thumbnails: a JPEG file for each row of the table, THUMBNAIL_PX at most.
    """
    width, height = THUMBNAIL_PX
    across, down = width + GAP_PX, height + CAPTION_PX + GAP_PX
    n_lines = max(1, -(-len(rows) // COLUMNS))
    canvas = np.full((HEADER_PX + n_lines * down, GAP_PX + COLUMNS * across, 3), 255, np.uint8)
    places = [(GAP_PX + i % COLUMNS * across, HEADER_PX + i // COLUMNS * down) for i in range(len(rows))]
    for row, (left, top) in zip(rows, places, strict=True):
        rgb = cv2.cvtColor(cv2.imdecode(np.frombuffer(thumbnails[row], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        top, left = top + (height - rgb.shape[0]) // 2, left + (width - rgb.shape[1]) // 2
        canvas[top : top + rgb.shape[0], left : left + rgb.shape[1]] = rgb
    of_class = photos[photos["label"] == class_]
    title = f"{class_}: {CLASS_NAMES[class_]}"
    shown = f"{len(rows):,} of {len(of_class):,} photos of {of_class['person'].nunique():,} people, the youngest first"
    texts = [(left, top + height, captions(photos, row)) for row, (left, top) in zip(rows, places, strict=True)]
    return _png(_written(canvas, title, shown, texts))


def _written(canvas: Image, title: str, remark: str, texts: Sequence[tuple[int, int, tuple[str, str]]]) -> Image:
    """Return the canvas with its texts: the title, and two lines from each (left, top) on, in px."""
    height, width = canvas.shape[:2]
    with mpl.rc_context(STYLE), quiet_about_glyphs():
        figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor="white")

        def write(left: float, top: float, text: str, size: float, **how: Any) -> None:
            figure.text(left / width, 1 - top / height, text, fontsize=size, va="top", **how)

        write(GAP_PX, 10, title, 14, weight="bold")
        write(width - GAP_PX, 15, remark, 9, ha="right")
        for left, top, (person, name) in texts:
            write(left, top + 2, _shortened(person), 6.2, color=INK)
            write(left, top + 13, _shortened(name), 6.2, color="#6b7883")
        drawn = FigureCanvasAgg(figure)
        drawn.draw()
        written: Image = np.asarray(drawn.buffer_rgba())[:, :, :3]
    return np.minimum(canvas, written)  # dark letters on white; no photo is under a text


def _shortened(text: str) -> str:
    return text if len(text) <= CAPTION_LENGTH else f"{text[: CAPTION_LENGTH - 1]}…"


def _png(rgb: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    return bytes(encoded)
