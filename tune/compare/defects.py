"""The contest project's defects, reproduced so that a study can measure the cost of each.

No option of this package makes it do any of these. Sources: the contest project's code and its list of defects; mean
and std are those of the contest's baseline code, fitted to the contest's photos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.data.contest_folder import TABLE
from maskcls.errors import DataError
from maskcls.labels import UNKNOWN
from tune.compare.treatments import Treatment

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.models.model import MemberLogProbs, Model
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData
    from maskcls.training.result import EpochResult

Integers = NDArray[np.int64]

BASELINE_MEAN, BASELINE_STD = (0.548, 0.504, 0.479), (0.237, 0.247, 0.246)
EPOCHS_MEANT, EPOCHS_RUN = 50, 12
"""The contest project annealed over 50 epochs and ran 10 to 16."""


class SqueezedPhotos(Treatment):
    """Prediction squeezes whole photos into the square; training and validation crop their middle."""

    def predict(self, models: Sequence[Model], fit: Fit, faces: FaceDataset, rows: Integers) -> Integers:
        import cv2

        from maskcls.data.decoding.decode import decode

        size = (fit.recipe.image_size, fit.recipe.image_size)
        files = faces.photos["file"].to_numpy(object)[rows]
        squeezed = np.stack([cv2.resize(decode(file).rgb, size, interpolation=cv2.INTER_AREA) for file in files])
        return _classes(fit, _log_probs(models, squeezed))


class ForeignNormalisation(Treatment):
    """Prediction normalises with another mean and std than training."""

    def predict(self, models: Sequence[Model], fit: Fit, faces: FaceDataset, rows: Integers) -> Integers:
        import torch

        own = [(model.mean.clone(), model.std.clone()) for model in models]
        for model in models:
            model.mean.copy_(255 * torch.tensor(BASELINE_MEAN).view(1, 3, 1, 1))
            model.std.copy_(255 * torch.tensor(BASELINE_STD).view(1, 3, 1, 1))
        try:
            return _classes(fit, _log_probs(models, fit.data.pixels, rows))
        finally:
            for model, (mean, std) in zip(models, own, strict=True):
                model.mean.copy_(mean)
                model.std.copy_(std)


class InvertedNumbering(Treatment):
    """Prediction reads the joint task of gender and under 30 in another numbering than training: ages are inverted."""

    MEMBER = "gender_under_30"

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        members = recipe.split.members
        return "" if self.MEMBER in members else f"task split {recipe.task_split} has no member {self.MEMBER}"

    def predict(self, models: Sequence[Model], fit: Fit, faces: FaceDataset, rows: Integers) -> Integers:
        log_probs = _log_probs(models, fit.data.pixels, rows)
        at = fit.recipe.split.members.index(self.MEMBER)
        # (n, 4) gender x under 30: within each gender, "30 or older" and "under 30" change places.
        log_probs[at] = log_probs[at][:, [1, 0, 3, 2]]
        return _classes(fit, log_probs)


class BestByAccuracy(Treatment):
    """The best epoch is chosen by accuracy over the photos, not by macro F1 over the classes."""

    def better(self, new: EpochResult, best: EpochResult) -> bool:
        return new.scores.accuracy > best.scores.accuracy


class UnfinishedCosine(Treatment):
    """The cosine spans about four times the epochs that run, so that the learning rate never comes down."""

    def prepared(self, fit: Fit) -> None:
        for model_fit in fit.model_fits:
            meant = round(model_fit.recipe.epochs * EPOCHS_MEANT / EPOCHS_RUN)
            model_fit.recipe = model_fit.recipe.override({"epochs": meant, "schedule": "cosine"})


class MovingBatchNorm(Treatment):
    """A frozen backbone in train(): no gradients, but BatchNorm's statistics move, and dropout and drop-path are on."""

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        return "" if recipe.frozen_stages else "no stage is frozen"

    def prepared(self, fit: Fit) -> None:
        for model_fit in fit.model_fits:
            model_fit.frozen = None  # no stage gives constant features, so none can be computed once and cached
        for model in (*fit.models, *fit.eval_models):
            model.backbone.frozen_modules = []
            model.backbone.frozen_stages = 0  # so checkpoints hold the moving statistics; gradients stay off


class SplitByPhoto(Treatment):
    """Photos, not people, are split: the photos that choose the epoch show people who are trained on."""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        labelled, others = (  # a photo without all labels cannot help to choose the epoch, so it stays where it is
            [rows[(data.labels[rows] != UNKNOWN) == whole] for rows in (data.train, data.validation)]
            for whole in (True, False)
        )
        order = generator.permutation(np.concatenate(labelled))
        n = len(labelled[0])
        train, validation = np.concatenate([order[:n], others[0]]), np.concatenate([order[n:], others[1]])
        return replace(data, train=np.sort(train), validation=np.sort(validation), digest=f"{data.digest}-by-photo")


class UncorrectedLabels(Treatment):
    """Training has the labels as the folder gives them; validation and test keep the corrected ones."""

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        if not (_contest_folder(faces) / TABLE).is_file():
            return f"the labels do not come from {TABLE}, so it is not known what corrections changed"
        raw = self._raw(faces)
        same = (raw["label"].to_numpy() == faces.photos["label"].to_numpy()).all()
        return "no correction changes a label of these photos" if same else ""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        raw = self._raw(faces)
        return replace(data.relabelled(raw, data.train), digest=f"{data.digest}-uncorrected")

    @staticmethod
    def _raw(faces: FaceDataset):  # type: ignore[no-untyped-def]  # a pandas table like faces.photos
        from maskcls.data.extra import with_extra_rows
        from maskcls.data.photos import read_photos

        folder, keys = _contest_folder(faces), faces.photos["key"].tolist()
        raw = with_extra_rows(read_photos(folder, skip_bad=True), faces.photos).set_index("key")
        if not raw.index.isin(keys).sum() == len(keys):
            raise DataError(f"{folder} no longer holds all photos of the run. Put them back, or start a new run.")
        return raw.loc[keys]


def _contest_folder(faces: FaceDataset) -> Path:
    """The folder in the contest's layout, if the photos lie in one: <folder>/train/images/<person>/<photo>."""
    parents = Path(faces.photos["file"].iloc[0]).parents
    return parents[min(3, len(parents) - 1)]


def _log_probs(models: Sequence[Model], pixels: NDArray[np.uint8], rows: Integers | None = None) -> MemberLogProbs:
    from maskcls.models.model import member_log_probs

    return member_log_probs(models, pixels, rows)


def _classes(fit: Fit, log_probs: MemberLogProbs) -> Integers:
    """The classes, (n,), that the members' predictions join to under the recipe's own rule."""
    classes: Integers = fit.recipe.split.join(log_probs, fit.recipe.join).argmax(1)
    return classes
