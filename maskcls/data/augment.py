"""The contest project's augmentations, each with a strength. No other module imports albumentations.

A view is a pure function of (photo, view, strengths, seed): worker, thread and order do not matter.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskcls import seeds
from maskcls.errors import CallError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = (
    "1"  # else its import asks a package index for a newer version, 2 s, in every worker
)
import albumentations

Image = NDArray[np.uint8]

STRENGTHS = (
    "flip",
    "probability",
    "shift",
    "scale",
    "rotate_degrees",
    "hue_degrees",
    "saturation",
    "value",
    "brightness",
    "contrast",
    "noise",
)
"""`flip` and `probability` are probabilities, `..._degrees` degrees, the others shares of the edge or full range."""

HUE_UNITS_PER_DEGREE = 0.5  # OpenCV's hue goes from 0 to 180
FULL_RANGE = 255  # of saturation and value in 8 bits


class Augmenter:
    """The maker of photos' views. Picklable; not for several threads at a time: each worker has its own."""

    def __init__(self, strengths: Mapping[str, float], seed: int) -> None:
        """Strengths as `Recipe.augmentation` has them, keyed by STRENGTHS; 0, or a missing one, switches its part off.

        Raises CallError for an unknown strength, or one that albumentations does not take.
        """
        unknown = sorted(set(strengths) - set(STRENGTHS))
        if unknown:
            raise CallError(f"There is no augmentation {', '.join(unknown)}. Augmentations: {', '.join(STRENGTHS)}.")
        self.strengths = {name: float(strengths.get(name, 0)) for name in STRENGTHS}
        self.seed = seed
        self.transforms = _transforms(self.strengths)

    def view(self, rgb: Image, key: str, view: int) -> Image:
        """Return view `view` (0, 1, …) of the photo named `key`: uint8 (s, s, 3) -> uint8 (s, s, 3).

        `rgb` is not changed.
        """
        if not self.transforms:
            return rgb
        photo = int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little")  # hash() differs between processes
        generators = seeds.spawned(len(self.transforms), self.seed, photo, view)  # one pair per transform
        for transform, (numpy_generator, python_generator) in zip(self.transforms, generators, strict=True):
            # Not Compose.set_random_seed: with one seed for all, the transforms would all be applied, or none of them.
            transform.set_random_state(numpy_generator, python_generator)
            rgb = transform(image=rgb)["image"]
        return rgb


def _transforms(strengths: Mapping[str, float]) -> list[Any]:
    """Return a transform for each part whose strength is not 0, in the contest project's order."""
    s, p = strengths, strengths["probability"]
    parts: list[tuple[bool, Any, dict[str, Any]]] = [
        (s["flip"] > 0, albumentations.HorizontalFlip, {"p": s["flip"]}),
        (
            max(s["shift"], s["scale"], s["rotate_degrees"]) > 0,
            albumentations.Affine,
            {
                "translate_percent": {"x": _both_ways(s["shift"]), "y": _both_ways(s["shift"])},
                "scale": (1 - s["scale"], 1 + s["scale"]),
                "keep_ratio": True,  # one factor for width and height, so that faces are not squeezed
                "rotate": _both_ways(s["rotate_degrees"]),
                "border_mode": cv2.BORDER_REFLECT_101,  # corners are filled with the photo, not with black
                "p": p,
            },
        ),
        (
            max(s["hue_degrees"], s["saturation"], s["value"]) > 0,
            albumentations.HueSaturationValue,
            {
                "hue_shift_limit": _both_ways(s["hue_degrees"] * HUE_UNITS_PER_DEGREE),
                "sat_shift_limit": _both_ways(s["saturation"] * FULL_RANGE),
                "val_shift_limit": _both_ways(s["value"] * FULL_RANGE),
                "p": p,
            },
        ),
        (
            max(s["brightness"], s["contrast"]) > 0,
            albumentations.RandomBrightnessContrast,
            {"brightness_limit": _both_ways(s["brightness"]), "contrast_limit": _both_ways(s["contrast"]), "p": p},
        ),
        (s["noise"] > 0, albumentations.GaussNoise, {"std_range": (0.0, s["noise"]), "p": p}),
    ]
    return [_made(transform, arguments) for wanted, transform, arguments in parts if wanted and arguments["p"] > 0]


def _both_ways(limit: float) -> tuple[float, float]:
    return (-limit, limit)


def _made(transform: Any, arguments: Mapping[str, Any]) -> Any:
    """Build a transform. albumentations only warns of an unknown argument and ignores it; here that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return transform(**arguments)
        except (Warning, ValueError) as error:
            raise CallError(f"albumentations.{transform.__name__} does not take {dict(arguments)}: {error}") from None
