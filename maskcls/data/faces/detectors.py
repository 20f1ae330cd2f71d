"""The face detectors by name: where a photo is cut to its face, and how many faces it shows. cv2 and numpy alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from maskcls.data.faces import haar, yunet
from maskcls.data.faces.boxes import Faces, Image
from maskcls.errors import RunError


@dataclass(frozen=True)
class Detector:
    """A way of finding faces.

    Args:
        find: uint8 RGB (height, width, 3) -> the faces in it. Raises RunError where it can't be used here.
        margin: added to the found box on every side before a photo is cut, as a share of its edge.
        facts: everything that decides where a photo is cut, ready for JSON.
        why_not: why it can't be used here, in a sentence that says what to do; "" if it can.
    """

    find: Callable[[Image], Faces]
    margin: float
    facts: dict[str, Any]
    why_not: Callable[[], str]


DETECTORS = {
    "yunet": Detector(yunet.find, yunet.MARGIN, yunet.FACTS, yunet.why_not),
    "haar": Detector(haar.find, haar.MARGIN, haar.FACTS, haar.why_not),
}
"""The best one first. Haar's is that of bundles and runs of earlier versions."""


def usable_detector() -> Detector | None:
    """Return the best detector that can be used here; None if there is none."""
    return next((detector for detector in DETECTORS.values() if not detector.why_not()), None)


def check_usable() -> Detector:
    """Return the best detector that can be used here. Raises RunError that says what to install where there is none."""
    detector = usable_detector()
    if detector is None:
        raise RunError(DETECTORS["yunet"].why_not())
    return detector


def face_square(rgb: Image, detector: Detector) -> tuple[Image | None, int]:
    """Return the square around the face, with the detector's margin, and how many faces there are.

    uint8 (height, width, 3) -> a view (n, n, 3), or None if no face is found in the photo's middle. The square is moved
    where it would leave the photo, and no larger than the photo's shorter edge. Nothing is resized.
    """
    face, number = detector.find(rgb)
    if face is None:
        return None, number
    height, width = rgb.shape[:2]
    edge = min(round(face.edge * (1 + 2 * detector.margin)), height, width)
    left = min(max(round(face.left + (face.edge - edge) / 2), 0), width - edge)
    top = min(max(round(face.top + (face.edge - edge) / 2), 0), height - edge)
    return rgb[top : top + edge, left : left + edge], number
