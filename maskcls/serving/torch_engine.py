"""A bundle's models on a device, by torch: pixels -> probabilities."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from maskcls.data.geometry import Geometry
from maskcls.machine import resolve_device
from maskcls.models.model import BLOCK, log_probabilities
from maskcls.models.saliency import Saliency, grad_cam
from maskcls.serving.bundle import Bundle, Classifier
from maskcls.serving.calibration import calibrated

_ONE_FORWARD = threading.Lock()
"""Models run one call at a time in a process: each call uses all cores, or the GPU, and sets how products are rounded,
which is a setting of the process."""


class TorchEngine:
    """The engine in which the models were trained.

    Args:
        bundle: with its models.
        device: `auto`, or torch's name.
        flip: predict the mean of a photo's and its mirror image's probabilities.

    Raises CallError where torch cannot use the device.
    """

    name = "torch"
    block = BLOCK

    def __init__(self, bundle: Bundle, device: str, *, flip: bool = False) -> None:
        self.device = resolve_device(device)
        self._bundle = bundle
        self._flip = flip
        for classifier in bundle.classifiers:
            for model in classifier.models:
                model.to(self.device)

    def probabilities(
        self, pixels: Mapping[Geometry, NDArray[np.uint8]], block_photos: int = BLOCK
    ) -> NDArray[np.float64]:
        """Predict (n, 18), calibrated by the bundle's temperature, for n photos.

        Args:
            pixels: for each of the bundle's geometries (n, s, s, 3).
            block_photos: photos of a pass; the last pass is filled up.
        """
        return calibrated(self.uncalibrated(pixels, None, block_photos), self._bundle.temperature)

    def uncalibrated(
        self,
        pixels: Mapping[Geometry, NDArray[np.uint8]],
        rows: NDArray[np.int64] | None = None,
        block_photos: int = BLOCK,
    ) -> NDArray[np.float64]:
        """Predict (n, 18) as the models have it, for rows (n,) of the pixels, by default all."""
        with _ONE_FORWARD:
            weighted = [  # classifiers x (n, 18)
                each.weight * self._of(each, pixels[each.geometry], rows, block_photos)
                for each in self._bundle.classifiers
            ]
        return np.sum(weighted, axis=0)  # type: ignore[no-any-return]  # (n, 18), the mean: weights sum to one

    def evidence(self, pixels: Mapping[Geometry, NDArray[np.uint8]], classes: NDArray[np.int64]) -> Saliency | None:
        """Compute where in n photos the evidence for their classes (n,) lies, for the heaviest classifier.

        None where no stage of its backbone gives a map.

        Args:
            pixels: for each of the bundle's geometries (n, s, s, 3).
        """
        heaviest = self._bundle.heaviest
        with _ONE_FORWARD:  # a model's hooks must not meet another call
            return grad_cam(heaviest.models, pixels[heaviest.geometry], classes)

    def _of(
        self, classifier: Classifier, pixels: NDArray[np.uint8], rows: NDArray[np.int64] | None, block_photos: int
    ) -> NDArray[np.float64]:
        models, split, join = classifier.models, classifier.task_split, classifier.recipe.join
        return np.exp(
            log_probabilities(models, split, pixels, rows, join=join, flip=self._flip, block_photos=block_photos)
        )
