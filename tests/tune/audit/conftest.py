"""Predictions of a classifier that knows the truth, for photos of drawn people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from maskcls.data.photos import read_photos
from tests.conftest import DemoFaces
from tune.audit.predictions import OutOfFold

Knowing = Callable[[pd.DataFrame, pd.DataFrame], OutOfFold]


@pytest.fixture(scope="session")
def photos(demo_faces: DemoFaces) -> pd.DataFrame:
    """168 photos of 24 drawn people. Copy it to change it."""
    return read_photos(demo_faces(24, 4))


@pytest.fixture(scope="session")
def knowing() -> Knowing:
    """knowing(labelled, true) -> predictions of the true labels for the photos with the given ones."""

    def made(labelled: pd.DataFrame, true: pd.DataFrame) -> OutOfFold:
        sure = np.random.default_rng(0).uniform(0.8, 0.95, len(true))
        sure = np.where(labelled["label"].to_numpy() == true["label"].to_numpy(), sure, 0.97)[:, None]
        rest = np.full((len(true), 18), 1 / 18)
        probabilities = sure * np.eye(18)[true["label"].to_numpy()] + (1 - sure) * rest
        return OutOfFold(labelled.reset_index(drop=True), probabilities, "A classifier that knows.")

    return made
