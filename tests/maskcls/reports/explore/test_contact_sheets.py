"""Which photos stand on a class's sheet, and that the sheet shows them."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from maskcls.reports.explore.contact_sheets import CAPTION_PX, COLUMNS, GAP_PX, HEADER_PX, PHOTOS, chosen, sheet
from maskcls.reports.explore.photo_looks import THUMBNAIL_PX
from tests.maskcls.reports.explore.portraits import jpeg


def table(n_people: int, each: int) -> pd.DataFrame:
    persons = [f"{person:03d}_male_x_{20 + person % 9}" for person in range(n_people) for _ in range(each)]
    return pd.DataFrame(
        {
            "person": persons,
            "key": [f"{person}/mask{i % each + 1}.jpg" for i, person in enumerate(persons)],
            "age": [int(person[-2:]) for person in persons],
            "label": 0,
        }
    )


def test_everybody_comes_once_before_anybody_comes_twice() -> None:
    photos = table(30, 5)
    rows = chosen(photos, 0)
    assert len(rows) == len(set(rows)) == PHOTOS
    counts = photos["person"].iloc[rows].value_counts()
    assert len(counts) == 30
    assert counts.value_counts().to_dict() == {1: 20, 2: 10}
    assert photos["age"].iloc[rows].is_monotonic_increasing
    more = table(100, 5)
    assert more["person"].iloc[chosen(more, 0)].nunique() == PHOTOS


def test_few_photos_are_all_there_and_none_is_no_error() -> None:
    assert sorted(chosen(table(2, 3), 0)) == list(range(6))
    assert chosen(table(2, 3), 5) == []


def test_a_seed_is_a_choice_in_every_process() -> None:
    photos = table(100, 5)
    assert chosen(photos, 0, seed=1) == chosen(photos, 0, seed=1) != chosen(photos, 0, seed=2)
    call = "from tests.maskcls.reports.explore.test_contact_sheets import *; print(chosen(table(100, 5), 0, seed=1))"
    said = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(chosen(photos, 0, seed=1))


@pytest.mark.parametrize("n", [1, 8, 9])
def test_a_sheet_shows_the_photos_in_their_places(n: int) -> None:
    width, height = THUMBNAIL_PX
    photos = table(n, 1)
    colours = [(20 * i + 40, 200 - 20 * i, 90) for i in range(n)]
    thumbnails = [jpeg(np.full((height, width, 3), colour, np.uint8), 95) for colour in colours]
    content = sheet(photos, thumbnails, 0, list(range(n)))
    rgb = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    lines = -(-n // COLUMNS)
    assert rgb.shape == (HEADER_PX + lines * (height + CAPTION_PX + GAP_PX), GAP_PX + COLUMNS * (width + GAP_PX), 3)
    for i, colour in enumerate(colours):
        left, top = GAP_PX + i % COLUMNS * (width + GAP_PX), HEADER_PX + i // COLUMNS * (height + CAPTION_PX + GAP_PX)
        part = rgb[top + 2 : top + height - 2, left + 2 : left + width - 2]
        assert np.abs(part.astype(int) - colour).max() <= 4
        caption = rgb[top + height : top + height + CAPTION_PX, left : left + width]
        assert (caption.min(axis=2) < 128).sum() > 20  # something is written there
    assert (rgb[:HEADER_PX].min(axis=2) < 128).sum() > 100
