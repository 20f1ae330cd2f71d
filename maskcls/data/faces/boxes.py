"""Boxes around faces, and which of several is the face of a portrait. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class Box(NamedTuple):
    """A square in a photo, px."""

    left: float
    top: float
    edge: float


class Faces(NamedTuple):
    """What a detector finds in a photo."""

    portrait: Box | None
    """The face that the photo is cut to."""
    number: int
    """How many faces there are anywhere in the photo."""


def faces_among(boxes: Sequence[Box], rgb: Image, middle: float) -> Faces:
    """Return the largest box whose centre is in the middle of the photo, and how many faces the boxes are.

    Of equally large ones the topmost, then the leftmost counts: the choice does not depend on the order in which they
    are found.

    Args:
        middle: share of the photo's width and height about its centre.
    """
    height, width = rgb.shape[:2]
    central = [box for box in boxes if _in_the_middle(box, height, width, middle)]
    portrait = min(central, key=lambda box: (-box.edge, box.top, box.left), default=None)
    return Faces(portrait, _count(boxes))


def _count(boxes: Sequence[Box]) -> int:
    """Count the faces among boxes.

    A box whose edge is below half of the largest one's is a bystander or a mistake; of boxes that overlap so far that
    one holds the other's centre, the larger counts.
    """
    faces: list[Box] = []
    for box in sorted(boxes, key=lambda box: -box.edge):
        if not faces or (box.edge >= faces[0].edge / 2 and not any(_holds_centre(face, box) for face in faces)):
            faces.append(box)
    return len(faces)


def _in_the_middle(face: Box, height: int, width: int, middle: float) -> bool:
    middle_x, middle_y = face.left + face.edge / 2, face.top + face.edge / 2
    return abs(middle_x - width / 2) <= middle / 2 * width and abs(middle_y - height / 2) <= middle / 2 * height


def _holds_centre(outer: Box, inner: Box) -> bool:
    x, y = inner.left + inner.edge / 2, inner.top + inner.edge / 2
    return outer.left <= x <= outer.left + outer.edge and outer.top <= y <= outer.top + outer.edge
