"""Treatments: what a variant does that no recipe can express, such as a defect that is reproduced to measure its cost.

A treatment either trains differently (`retrains`), and has fits of its own, or it evaluates an untreated fit
differently: then that fit is trained once, and predicts the tested photos once for each treatment that evaluates it.
Each step of a fit that a treatment may change is a method of Treatment, which itself changes nothing.

A treatment is named in TREATMENTS or, in a user's study, as `module:Class`; workers import it by that name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.errors import CallError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maskcls.data.dataset import FaceDataset
    from maskcls.models.model import Model
    from maskcls.recipe import Recipe
    from maskcls.training.fit import Fit
    from maskcls.training.fit_data import FitData
    from maskcls.training.result import EpochResult

TREATMENTS: dict[str, str] = {
    "": f"{__name__}:Treatment",
    "squeezed photos": "tune.compare.defects:SqueezedPhotos",
    "foreign mean and std": "tune.compare.defects:ForeignNormalisation",
    "inverted numbering": "tune.compare.defects:InvertedNumbering",
    "best epoch by accuracy": "tune.compare.defects:BestByAccuracy",
    "unfinished cosine": "tune.compare.defects:UnfinishedCosine",
    "moving BatchNorm": "tune.compare.defects:MovingBatchNorm",
    "split by photo": "tune.compare.defects:SplitByPhoto",
    "uncorrected labels": "tune.compare.defects:UncorrectedLabels",
    "unknown ages": "tune.compare.gaps:UnknownAges",
    "unknown ages left out": "tune.compare.gaps:WithoutUnknownAges",
    "all ages": f"{__name__}:Treatment",
    "hard join": "tune.compare.evaluations:HardJoin",
    "test-time flip": "tune.compare.evaluations:Flipped",
    "decision rule": "tune.compare.evaluations:DecisionRule",
    "last epoch": "tune.compare.evaluations:LastEpoch",
}
"""Name -> `module:Class`."""
CORRECTIONS = "corrections"
WITH_VALUE: dict[str, str] = {CORRECTIONS: "tune.compare.corrected:LabelsOf"}
"""Kind -> `module:Class`, for names such as `corrections=accepted.csv`; the class is given what follows the `=`."""


def corrections_name(value: str) -> str:
    """The name of corrections in tables and treatments: `none`, `published`, or the file's name without its folder."""
    return Path(value).name


class Treatment:
    """The untreated fit. Subclasses override the steps that they change; each fit has a new object, made without
    arguments.

    A method may depend on nothing but its arguments: a fit that was killed goes through the same steps again.
    """

    join = ""
    """The rule that joins the members' predictions; "" is the recipe's own."""
    flip = False
    """Whether predictions are the mean over a photo and its mirror image."""

    retrains = False
    """Whether training changes: `data` or `prepared` is overridden."""
    keeps_features = False
    """Whether the fit sees the same photos in the same views, so that it may use cached features of frozen stages."""
    picks = False
    """Whether the choice of the epoch changes: `better` is overridden."""

    def __init_subclass__(cls) -> None:
        if "answers" in vars(cls):  # the former name of `predict`, in files of users and in runs
            cls.predict = vars(cls)["answers"]  # type: ignore[method-assign]
        cls.retrains = cls.data is not Treatment.data or cls.prepared is not Treatment.prepared
        cls.picks = cls.better is not Treatment.better

    def applies(self, faces: FaceDataset, recipe: Recipe) -> str:
        """Why the treatment cannot be done or would change nothing; "" where it applies.

        Reports name what is left out.
        """
        return ""

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        """The data of the fit, before the fit is made.

        Args:
            faces: the dataset; `faces.split.holdout` are the tested people.
            data: of the untreated fit.
            generator: depends on the split alone.
        """
        return data

    def prepared(self, fit: Fit) -> None:
        """Change the fit after it is made, before it loads a checkpoint and before its first epoch."""

    def better(self, new: EpochResult, best: EpochResult) -> bool:
        """Whether the epoch just done is to be tested rather than the best one so far."""
        return new.validation_f1 > best.validation_f1

    def predict(
        self, models: Sequence[Model], fit: Fit, faces: FaceDataset, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The predicted classes, (n,) of 0..17, of these rows, (n,), of `faces.photos`.

        Args:
            models: with the weights of the epoch that is tested.
            fit: the fit of these models.
            faces: the dataset.
            rows: of the photos to predict.
        """
        from maskcls.models.model import log_probabilities

        join = self.join or fit.recipe.join
        classes: NDArray[np.int64] = log_probabilities(
            models, fit.recipe.split, fit.data.pixels, rows, join=join, flip=self.flip
        ).argmax(1)
        return classes


def find(name: str) -> Treatment:
    """A new treatment of that name. Raises CallError where there is none."""
    kind, _, value = name.partition("=")
    place = WITH_VALUE.get(kind) or TREATMENTS.get(name, name)
    module, colon, attribute = place.partition(":")
    if not colon:
        listed = ", ".join(known for known in TREATMENTS if known) or "none is named yet"
        raise CallError(f"There is no treatment {name!r}. Treatments: {listed}; or module:Class.")
    sys.modules.setdefault(
        "tune.treatments", sys.modules[__name__]
    )  # imported by files written before the module moved
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CallError(
            f"Treatment {name!r} cannot be loaded: {error}. Expected module:Class, importable on every machine."
        ) from None
    if not (isinstance(found, type) and issubclass(found, Treatment)):
        raise CallError(
            f"Treatment {name!r} must be a subclass of tune.compare.treatments.Treatment, but {place} is {found!r}."
        )
    make: Callable[..., Treatment] = found
    return make(value) if kind in WITH_VALUE else make()
