"""Out-of-fold predictions in seconds: linear models on histograms of gradients and coarse colours, joined by task."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maskcls.data import splits
from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.stores.cache_options import CacheOptions
from maskcls.tasks import task
from tune.audit.predictions import OutOfFold, averaged

EDGE_PX, FOLDS = 64, 3


def features(photos: pd.DataFrame, cache: Path) -> NDArray[np.float32]:
    """What the linear models see of each photo, (n, 2196)."""
    pixels = FaceDataset(photos, Split((), ()), CacheOptions(cache)).pixels(EDGE_PX)
    gradients = cv2.HOGDescriptor((EDGE_PX, EDGE_PX), (16, 16), (8, 8), (8, 8), 9)
    shapes = np.stack([np.ravel(gradients.compute(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY))) for photo in pixels])
    colours = np.stack([cv2.resize(photo, (12, 12), interpolation=cv2.INTER_AREA).ravel() / 255 for photo in pixels])
    return np.concatenate([shapes, 2 * (colours - colours.mean(1, keepdims=True))], axis=1).astype(np.float32)


def predicted(photos: pd.DataFrame, seen: NDArray[np.float32], seed: int, components: int = 60) -> OutOfFold:
    """Predictions (n, 18) of models that learnt from the labels of other people, as the table has them."""
    log_probs = np.zeros((len(photos), 18))
    for split in splits.folds(photos, FOLDS, seed):
        train, tested = (splits.rows(photos, side) for side in (split.train, split.validation))
        reduced = make_pipeline(PCA(components, random_state=0), StandardScaler()).fit(seen[train])
        for name in ("mask3", "gender2", "age3"):
            labels = task(name).of(photos["label"].to_numpy(np.int64))
            model = LogisticRegression(C=0.1, max_iter=200).fit(reduced.transform(seen[train]), labels[train])
            of_labels = model.predict_log_proba(reduced.transform(seen[tested]))  # (m, k)
            log_probs[tested] += of_labels[:, task(name).of(np.arange(18))]
    faces = FaceDataset(photos, Split((), ()), CacheOptions())
    return averaged(faces, [(tuple(photos["key"]), log_probs)], "Linear models.")
