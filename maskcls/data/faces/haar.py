"""Faces by OpenCV's Haar cascades, as bundles and runs of earlier versions find them. cv2 and numpy alone.

OpenCV 5 comes without them. Source: Viola and Jones, Rapid Object Detection using a Boosted Cascade of Simple Features,
CVPR 2001.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from cv2.data import haarcascades

from maskcls.data.faces.boxes import Box, Faces, Image, faces_among
from maskcls.errors import RunError

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

FACTS: dict[str, Any] = {
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


def find(rgb: Image) -> Faces:
    """Find the faces in a photo, uint8 (height, width, 3). Masks hide faces, so none does not prove that there is none.

    Raises RunError where this OpenCV has no cascades.
    """
    gray, scale = _reduced(rgb)
    portrait, number = None, 0
    for cascade in _cascades():
        faces = faces_among(_detected(cascade, gray), gray, MIDDLE)
        portrait, number = portrait or faces.portrait, number or faces.number
        if portrait is not None:
            break
    if portrait is not None:
        portrait = Box(*(value / scale for value in portrait))  # px of the photo itself
    return Faces(portrait, number)


def why_not() -> str:
    """Return why there are no cascades, and what to do; "" if there are."""
    missing = [name for name in CASCADES if not (Path(haarcascades) / name).is_file()]
    if missing or not hasattr(cv2, "CascadeClassifier"):
        return (
            f"OpenCV {cv2.__version__} comes without the Haar cascades that find the faces of face_crop=haar. "
            "Install an older one: pip install 'opencv-python-headless<5'"
        )
    return ""


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


def _cascades() -> list[cv2.CascadeClassifier]:
    """Return this thread's classifiers: a classifier keeps its working memory in itself."""
    if not hasattr(_of_this_thread, "cascades"):
        missing = why_not()
        if missing:
            raise RunError(missing)
        _of_this_thread.cascades = [cv2.CascadeClassifier(str(Path(haarcascades) / name)) for name in CASCADES]
    loaded: list[cv2.CascadeClassifier] = _of_this_thread.cascades
    return loaded
