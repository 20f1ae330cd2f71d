"""Detection of the face in a portrait by OpenCV's own Haar cascades, which need no download. cv2 and numpy alone.

Source: Viola and Jones, Rapid Object Detection using a Boosted Cascade of Simple Features, CVPR 2001.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from cv2.data import haarcascades
from numpy.typing import NDArray

from maskcls.errors import RunError

Image = NDArray[np.uint8]

CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt.xml")
"""Tried in this order, until one finds a face.

The second finds a third of what the first misses, nearly all of it masks worn well. The profile cascade adds nothing
to them, and the eye cascade takes brows, hair and whole faces for eyes.
"""
WORK_EDGE_PX = 192
"""Photos are resized to this longer edge first, which bounds the time for large ones.

At 256 a few more of a thousand faces are found, but three times as many boxes are wrong, and it takes a third longer.
"""
SCALE_STEP = 1.05
"""The factor between two sizes of the search.

At 1.1 it takes half the time, and misses four more of a hundred masked faces.
"""
NEIGHBOURS = 3
"""Overlapping hits that make a face: OpenCV's default, and masks leave few of them."""
MIN_EDGE = 0.25
"""Share of the photo's shorter edge: anything smaller is an eye or a bystander, not the face of a portrait."""
MIDDLE = 0.6
"""The centre of a portrait's face is within this share of width and height; what lies farther out is background."""
MARGIN = 0.2
"""Added to the found box on every side, as a share of its edge.

The box ends at the brow and the chin: without a margin masks are cut, with 0.1 they touch the edge, with 0.2 hair,
ears and chin are in, which show gender and age.
"""

DETECTOR: dict[str, Any] = {
    "cascades": list(CASCADES),
    "work_edge_px": WORK_EDGE_PX,
    "scale_step": SCALE_STEP,
    "neighbours": NEIGHBOURS,
    "min_edge": MIN_EDGE,
    "middle": MIDDLE,
    "margin": MARGIN,
}
"""Everything that decides where a photo is cut, ready for JSON."""

_of_this_thread = threading.local()


class Box(NamedTuple):
    """A square in a photo, px."""

    left: float
    top: float
    edge: float


def face_square(rgb: Image) -> Image | None:
    """Return the square around the face, with MARGIN, or None if no face is found.

    uint8 (height, width, 3) -> a view (n, n, 3). The square is moved where it would leave the photo, and no larger
    than the photo's shorter edge. Nothing is resized.
    """
    face = find_face(rgb)
    if face is None:
        return None
    height, width = rgb.shape[:2]
    edge = min(round(face.edge * (1 + 2 * MARGIN)), height, width)
    left = min(max(round(face.left + (face.edge - edge) / 2), 0), width - edge)
    top = min(max(round(face.top + (face.edge - edge) / 2), 0), height - edge)
    return rgb[top : top + edge, left : left + edge]


def count_faces(rgb: Image) -> int:
    """Return how many faces are found anywhere in the photo. Masks hide faces, so 0 does not prove that there is none.

    A box whose edge is below half of the largest one's is a bystander or a mistake; of boxes that overlap so far that
    one holds the other's centre, the larger counts.
    """
    gray, _ = _reduced(rgb)
    for cascade in _cascades():
        boxes = sorted(_detected(cascade, gray), key=lambda box: -box.edge)
        faces: list[Box] = []
        for box in boxes:
            if box.edge >= boxes[0].edge / 2 and not any(_holds_centre(face, box) for face in faces):
                faces.append(box)
        if faces:
            return len(faces)
    return 0


def find_face(rgb: Image) -> Box | None:
    """Return the largest face whose centre is in the photo's MIDDLE; None if there is none.

    Of equally large ones the topmost, then the leftmost counts: the choice does not depend on the order in which they
    are found. Raises RunError where this OpenCV has no cascades.
    """
    gray, scale = _reduced(rgb)
    height, width = gray.shape
    for cascade in _cascades():
        faces = [face for face in _detected(cascade, gray) if _in_the_middle(face, height, width)]
        if faces:
            best = min(faces, key=lambda face: (-face.edge, face.top, face.left))
            return Box(best.left / scale, best.top / scale, best.edge / scale)  # px of the photo itself
    return None


def _reduced(rgb: Image) -> tuple[Image, float]:
    """Return the photo in gray, (h, w), and the factor by which it was resized.

    Its longer edge is WORK_EDGE_PX, and its histogram is equalised.
    """
    height, width = rgb.shape[:2]
    scale = WORK_EDGE_PX / max(height, width)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    if scale != 1:
        wanted = (max(1, round(width * scale)), max(1, round(height * scale)))  # width first, as cv2 wants it
        gray = cv2.resize(gray, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.equalizeHist(gray), scale


def _detected(cascade: cv2.CascadeClassifier, gray: Image) -> list[Box]:
    """Return the boxes that a cascade finds in a gray photo (h, w), px of that."""
    min_edge = round(MIN_EDGE * min(gray.shape))
    found = cascade.detectMultiScale(gray, SCALE_STEP, NEIGHBOURS, minSize=(min_edge, min_edge))
    # (found, 4) left, top, width, height in px; () if there are none. The cascades' windows are square.
    return [Box(left, top, edge) for left, top, edge, _ in np.asarray(found).reshape(-1, 4).tolist()]


def _holds_centre(outer: Box, inner: Box) -> bool:
    x, y = inner.left + inner.edge / 2, inner.top + inner.edge / 2
    return outer.left <= x <= outer.left + outer.edge and outer.top <= y <= outer.top + outer.edge


def _in_the_middle(face: Box, height: int, width: int) -> bool:
    middle_x, middle_y = face.left + face.edge / 2, face.top + face.edge / 2
    return abs(middle_x - width / 2) <= MIDDLE / 2 * width and abs(middle_y - height / 2) <= MIDDLE / 2 * height


def _cascades() -> list[cv2.CascadeClassifier]:
    """Return this thread's classifiers: a classifier keeps its working memory in itself."""
    if not hasattr(_of_this_thread, "cascades"):
        _of_this_thread.cascades = [_load(name) for name in CASCADES]
    loaded: list[cv2.CascadeClassifier] = _of_this_thread.cascades
    return loaded


def _load(name: str) -> cv2.CascadeClassifier:
    file = Path(haarcascades) / name
    if not file.is_file():  # OpenCV 5 keeps the folder and leaves it empty
        raise RunError(
            f"OpenCV {cv2.__version__} comes without {name}, which finds the faces. "
            "Install what maskcls asks for (opencv-python-headless>=4.13,<5), or take face_crop=none."
        )
    return cv2.CascadeClassifier(str(file))
