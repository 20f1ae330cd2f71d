"""Smooth, anti-aliased shapes for the drawn faces, with cv2. Coordinates are canvas px, colours RGB 0..255."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Colour = tuple[float, float, float]
Point = tuple[float, float]  # x, y

SUBPIXEL_BITS = 4


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return `one` with a share (0..1) of `other`."""
    return (
        one[0] + share * (other[0] - one[0]),
        one[1] + share * (other[1] - one[1]),
        one[2] + share * (other[2] - one[2]),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour darkened by a factor (0..1)."""
    return mix((0, 0, 0), colour, factor)


def _fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Convert to OpenCV's fixed-point coordinates."""
    fixed: NDArray[np.int32] = np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)
    return fixed


def blob(canvas: Image, points: Sequence[Point], colour: Colour) -> None:
    """Draw a filled shape, smooth through the points."""
    cv2.fillPoly(canvas, [_path(tuple(points), closed=True)], colour, cv2.LINE_AA, SUBPIXEL_BITS)


def curve(canvas: Image, points: Sequence[Point], colour: Colour, thick: float) -> None:
    """Draw an open line, smooth through the points."""
    path = _path(tuple(points), closed=False)
    cv2.polylines(canvas, [path], False, colour, max(1, round(thick)), cv2.LINE_AA, SUBPIXEL_BITS)


def oval(canvas: Image, centre: Point, radii: Point, colour: Colour) -> None:
    """Draw a filled ellipse."""
    ring(canvas, centre, radii, colour, -1)


def ring(canvas: Image, centre: Point, radii: Point, colour: Colour, thick: float) -> None:
    """Draw an ellipse's outline; filled where `thick` is negative."""
    middle, axes = _fixed(np.asarray(centre)).tolist(), _fixed(np.asarray(radii)).tolist()
    cv2.ellipse(canvas, middle, axes, 0, 0, 360, colour, round(thick), cv2.LINE_AA, SUBPIXEL_BITS)


@functools.lru_cache(maxsize=512)  # most shapes of a face are the same in all its photos
def _path(points: tuple[Point, ...], closed: bool) -> NDArray[np.int32]:
    """Return the smooth curve through the points in OpenCV's coordinates, (m, 2); not to be changed."""
    return _fixed(_smooth(points, closed))


def _smooth(points: Sequence[Point], closed: bool, steps: int = 6) -> NDArray[np.float64]:
    """Return a Catmull-Rom curve through the points: (n, 2) -> (m, 2)."""
    p = np.asarray(points, dtype=np.float64)
    padded = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    before, start, end, after = (padded[i : len(padded) - 3 + i, None] for i in range(4))  # (segments, 1, 2)
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])
