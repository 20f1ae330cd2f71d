"""The second step of the preprocessing: RGB, as `decoding` gives it -> a square of one size, of the face if asked.

Training, validation, prediction and the web page all use it, so the same photo gives the same pixels in each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np

from maskcls.data.decoding.decode import Image, decode
from maskcls.data.faces.detectors import DETECTORS, face_square
from maskcls.errors import CallError, DataError

FACE_CROPS = ("none", *DETECTORS)
"""What comes before the centre square: nothing, or a cut to the face that a detector finds."""

_THIN = 4
"""A photo whose edges have a larger ratio is cut before it is enlarged."""

FORMAT = {"version": 2, "resize": "smallest edge", "crop": "center", "shrink": "area", "enlarge": "cubic"}


class Cropped(NamedTuple):
    """A square, uint8 (image_size, image_size, 3), contiguous.

    `face_missed`: a face was looked for and not found, so this is the plain crop.
    `faces`: how many faces were found; None where nobody looked.
    """

    pixels: Image
    face_missed: bool
    faces: int | None = None


@dataclass(frozen=True)
class Geometry:
    """The square around the face, if asked and found; then SmallestMaxSize and CenterCrop to `image_size` px."""

    image_size: int
    face_crop: str = "none"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise CallError(f"`image_size >= 1` must hold, but got {self.image_size}.")
        if self.face_crop not in FACE_CROPS:
            raise CallError(f"face_crop is one of {', '.join(FACE_CROPS)}, but got {self.face_crop!r}.")

    def apply(self, rgb: Image) -> Image:
        """Crop a photo: uint8 (height, width, 3) -> uint8 (image_size, image_size, 3), contiguous."""
        return self.crop(rgb).pixels

    def crop(self, rgb: Image) -> Cropped:
        """Crop a photo like `apply`, and say whether its face was missed."""
        if self.face_crop == "none":
            return Cropped(self._middle_square(rgb), face_missed=False)
        face, count = face_square(rgb, DETECTORS[self.face_crop])
        return Cropped(self._middle_square(rgb if face is None else face), face is None, count)

    def _middle_square(self, rgb: Image) -> Image:
        size = self.image_size
        height, width = rgb.shape[:2]
        scale = size / min(height, width)
        if scale > 1 and max(height, width) > _THIN * min(height, width):
            # Enlarged as a whole, it would take its length times its width. Others stay as earlier versions had them.
            rgb = _middle_part(rgb)
            height, width = rgb.shape[:2]
        if scale != 1:
            # Never below `size`, whatever the rounding, so that the crop fits.
            wanted = (max(size, round(width * scale)), max(size, round(height * scale)))
            rgb = cv2.resize(rgb, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
            height, width = rgb.shape[:2]
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(rgb[top : top + size, left : left + size])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a bundle; `from_dict` gives an equal geometry.

        With a face crop they include everything that decides where it cuts.
        """
        detector = {} if self.face_crop == "none" else {"face_detector": DETECTORS[self.face_crop].facts}
        return {**FORMAT, "image_size": self.image_size, "face_crop": self.face_crop, **detector}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises DataError where the values describe another way of cropping than this version's.
        """
        size, face_crop = values.get("image_size"), values.get("face_crop")
        if isinstance(size, int) and isinstance(face_crop, str) and face_crop in FACE_CROPS:
            geometry = cls(size, face_crop)
            # Everything has to agree: a crop by other rules gives other pixels than those that were trained on.
            if values == geometry.to_dict():
                return geometry
        raise DataError(
            f"This version's geometry is {json.dumps(FORMAT)}, an image_size and a face_crop "
            f"({', '.join(FACE_CROPS)}) with its face_detector "
            f"({json.dumps({name: one.facts for name, one in DETECTORS.items()})}), but got {json.dumps(values)}."
        )

    @property
    def digest(self) -> str:
        """12 hex digits, the same in every process, for equal geometries."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def _middle_part(rgb: Image) -> Image:
    """Cut a thin photo (h, w, 3) in its length to twice its width or one pixel more, around the same middle."""
    height, width = rgb.shape[:2]
    short = min(height, width)
    excess = (max(height, width) - 2 * short) // 2  # on either side
    return rgb[excess : height - excess] if height > width else rgb[:, excess : width - excess]


def missed_faces_note(missed: int, total: int) -> str:
    """Return a line for the log on photos whose face was not found."""
    return f"No face was found in {missed:,} of {total:,} photos; they keep the plain crop."


def load(file: str | Path, geometry: Geometry) -> Image:
    """Decode and crop a photo: uint8 (image_size, image_size, 3). Raises DataError as `decode` does."""
    return geometry.apply(decode(file).rgb)
