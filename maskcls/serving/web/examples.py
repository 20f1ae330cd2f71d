"""Faces that visitors of the page may try, drawn at the start: no photo of a real person comes with the package."""

from __future__ import annotations

import cv2

from maskcls import seeds
from maskcls.data.demo import face as demo_face
from maskcls.data.demo.face import NONE, NOSE_OUT, WORN

EXAMPLES = ((False, 0, WORN), (True, 1, NOSE_OUT), (False, 2, NONE), (True, 2, WORN))
"""Of each example: female, age group (0..2), mask."""


def draw_examples() -> list[bytes]:
    """Draw EXAMPLES as JPEG files."""
    drawn = []
    for number, (female, age_group, mask) in enumerate(EXAMPLES):
        rng = seeds.generator(number)
        face = demo_face.random_face(rng, female, age_group)
        rgb = demo_face.draw(face, demo_face.random_shot(rng, mask), rng)
        drawn.append(cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
    return drawn
