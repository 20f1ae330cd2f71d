"""Score a backbone before it is trained: what its features say of people who were left out.

One pass over a sample of the training photos gives features of the frozen backbone. Of these:

- a linear probe, the score that ranks: logistic regressions of mask, gender and age group, fitted on all folds of the
  people but one, and joined to the 18 classes of the people in that one; their macro F1 (Kornblith et al., Do Better
  ImageNet Models Transfer Better?, CVPR 2019: linear probes rank backbones much as fine-tuning does);
- LogME (`logme`), which leaves nobody out.

And three batches are trained by the recipe as it is, to know how long a photo of a fit takes.

Shapes: m photos of the sample, d features, k labels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from maskcls import seeds
from maskcls.data.splits import folds
from maskcls.errors import is_out_of_memory
from maskcls.labels import UNKNOWN
from maskcls.models.model import Model
from maskcls.models.prefix import Prefix
from maskcls.recipe import N_STAGES, Recipe
from maskcls.task_split import task_split
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.frozen import FrozenStages
from maskcls.training.metrics import scores
from maskcls.training.ranking.logme import logme

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FOLDS = 3
_TASKS = "three"
"""The task split of the probe: three small regressions need fewer photos of a rare class than one of 18 classes."""
_COMPONENTS = 128
"""Principal components of the features that the regressions see."""
_C = 0.01
"""Inverse strength of the regressions' penalty: strong, because a rare label has few photos."""
_FLOOR = 1e-9
"""The probability of a label that no photo of a fold's other people has."""


@dataclass(frozen=True)
class ProbeScore:
    """What the features of one backbone are worth."""

    f1: float
    """Macro F1 of the linear probe on people whom it left out."""
    logme: float
    photos: int
    """In the sample."""
    people: int
    photo_ms: float
    """How long one photo took to go through the backbone, on this machine, in milliseconds."""
    training_ms: float | None
    """How long one took in training, its augmentation included; None where the memory was too short for it."""

    def to_dict(self) -> dict[str, Any]:
        """The numbers, ready for JSON."""
        return asdict(self)


def probe(faces: FaceDataset, recipe: Recipe, device: str, *, photos: int, seed: int = 0) -> ProbeScore:
    """Score the recipe's backbone, as its weights are, on a sample of the training photos.

    Args:
        recipe: its backbone, weights, image size and face crop are used; all of it where batches are trained.
        device: cpu or cuda.
        photos: in the sample, at most.
        seed: of the sample and of the folds.

    Raises CallError where there are fewer people than folds.
    """
    frozen = recipe.model_copy(update={"frozen_stages": N_STAGES, "members": {}, "task_split": "single"})
    data = FitData.of(faces, frozen)
    rows = sample(data, faces.photos["person"].to_numpy(object), photos, seed)
    features, seconds = _features(frozen, data, rows, device)
    labels, table = data.labels[rows], faces.photos.iloc[rows].reset_index(drop=True)
    sides = [np.isin(table["person"], fold.validation) for fold in folds(table, FOLDS, seed)]
    left_out = [(np.flatnonzero(~side), np.flatnonzero(side)) for side in sides]
    return ProbeScore(
        f1=probe_f1(features, labels, left_out),
        logme=float(np.mean([logme(features, task.of(labels)) for task in task_split(_TASKS).tasks])),
        photos=len(rows),
        people=int(table["person"].nunique()),
        photo_ms=1e3 * seconds / len(rows),
        training_ms=training_ms(recipe, FitData.of(faces, recipe), device),
    )


def training_ms(recipe: Recipe, data: FitData, device: str) -> float | None:
    """The milliseconds of a photo in training, by the faster of two batches; the first of all is not timed.

    None where the memory is too short for a batch, of which fits use a part then.
    """
    seconds = []
    try:
        (fit,) = Fit(recipe.override({"epochs": 3, "epoch_photos": recipe.batch_size}), data, device).model_fits
        for epoch in range(3):
            began = perf_counter()
            _, photos = fit.train_epoch(epoch)
            seconds.append(perf_counter() - began)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise
    return 1e3 * min(seconds[1:]) / photos


def sample(data: FitData, people: NDArray[np.object_], photos: int, seed: int) -> Integers:
    """Draw at most so many training photos with all labels, in rising order.

    The first photo of each person comes before the second of anybody, so that few photos are of many people.
    """
    known = data.train[data.labels[data.train] != UNKNOWN]
    drawn = seeds.generator(seed, len(known)).permutation(known)
    _, person = np.unique(people[drawn].astype(str), return_inverse=True)
    order = np.argsort(person, kind="stable")  # by person, in the drawn order
    first = np.flatnonzero(np.r_[True, np.diff(person[order]) != 0])  # where each person's photos begin
    rank = np.empty(len(drawn), np.int64)
    rank[order] = np.arange(len(drawn)) - np.repeat(first, np.diff(np.r_[first, len(drawn)]))
    return np.sort(drawn[np.argsort(rank, kind="stable")[:photos]])


def _features(recipe: Recipe, data: FitData, rows: Integers, device: str) -> tuple[Floats, float]:
    """Features (m, d) of the photos as they are, and the seconds that they took."""
    model = Model(recipe, recipe.split.models[0], pretrained=True).to(device).eval()
    prefix = Prefix.of(model.backbone, recipe.image_size)
    assert prefix is not None  # the whole backbone is frozen
    frozen = FrozenStages(model, prefix, data)
    frozen.compute(rows[:1], torch.float32)  # the first pass takes longer
    began = perf_counter()
    found = frozen.compute(rows, torch.float32).double().cpu().numpy()
    return found, perf_counter() - began


def probe_f1(features: Floats, labels: Integers, left_out: list[tuple[Integers, Integers]]) -> float:
    """Macro F1 of linear probes of features (m, d) for classes (m,) 0..17.

    Args:
        left_out: of each fold the positions to fit on, and those to predict.
    """
    split = task_split(_TASKS)
    truth, predicted = [], []
    for fitted, tested in left_out:
        # Regressions on a thousand features take minutes, and on the components nearly all of what varies is left.
        components = make_pipeline(StandardScaler(), PCA(min(_COMPONENTS, len(fitted), features.shape[1])))
        known, asked = components.fit_transform(features[fitted]), components.transform(features[tested])
        members = [_log_probs(known, task.of(labels[fitted]), asked, task.n_labels) for task in split.tasks]
        truth.append(labels[tested])
        predicted.append(split.join(members).argmax(axis=1))
    return float(scores(np.concatenate(truth), np.concatenate(predicted)).f1)


def _log_probs(known: Floats, labels: Integers, asked: Floats, n_labels: int) -> Floats:
    """Log probabilities (n, k) of k labels for features `asked` (n, c), by a regression on `known` (m, c)."""
    found = np.full((len(asked), n_labels), _FLOOR)
    present = np.unique(labels)
    if len(present) == 1:
        found[:, present] = 1.0
    else:
        # Balanced, because macro F1 counts a rare class as much as a common one.
        regression = LogisticRegression(C=_C, class_weight="balanced", max_iter=500, tol=1e-3).fit(known, labels)
        found[:, present] = np.maximum(regression.predict_proba(asked), _FLOOR)
    return np.asarray(np.log(found), np.float64)
