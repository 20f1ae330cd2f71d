"""A photo's properties from one reading and one decoding: size, kind, brightness, content, hash, thumbnail."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import Image, decode_bytes
from maskcls.data.decoding.kinds import HEAD_BYTES, kind_of
from maskcls.data.near_duplicates import perceptual_hash
from maskcls.data.pool import over_photos, photo_bar
from maskcls.errors import DataError
from maskcls.files import unreadable

THUMBNAIL_PX = (120, 160)
"""Width and height of the box that a thumbnail fits in."""
THUMBNAIL_QUALITY = 82

OTHER = "another kind"


@dataclass(frozen=True, slots=True)
class Look:
    """One photo.

    Sizes are of the upright photo, after EXIF's orientation; `brightness` is the mean grey, 0 (black) to 255.
    """

    width_px: int
    height_px: int
    kind: str
    conversions: tuple[str, ...]
    brightness: float
    content: bytes
    """Digest of the file, 16 bytes."""
    hash: NDArray[np.uint64]
    thumbnail: bytes
    """A JPEG that fits in THUMBNAIL_PX."""


def look(file: str) -> Look:
    """Read and decode one photo. Raises DataError as `geometry.decode` does."""
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise DataError(unreadable(file, error)) from None
    decoded = decode_bytes(data, file)
    height, width = decoded.rgb.shape[:2]
    small = fitted(decoded.rgb)
    return Look(
        width,
        height,
        kind_of(data[:HEAD_BYTES], file) or OTHER,
        decoded.conversions,
        float(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).mean()),
        hashlib.blake2b(data, digest_size=16).digest(),
        perceptual_hash(decoded.rgb),
        encode_jpeg(small, THUMBNAIL_QUALITY),
    )


def look_at(files: Sequence[str], progress: bool = False) -> list[Look | DataError]:
    """Call `look` for every file, in threads; return the error for a photo that can't be decoded."""

    def one(file: str) -> Look | DataError:
        try:
            return look(file)
        except DataError as error:
            return error

    looks: list[Look | DataError] = []
    with photo_bar("Looking at photos", len(files), progress) as advance:
        for result in over_photos(one, files):
            looks.append(result)
            advance(1)
    return looks


def encode_jpeg(rgb: Image, quality: int) -> bytes:
    """Return a JPEG file of uint8 RGB (height, width, 3)."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(encoded)


def fitted(rgb: Image, box_px: tuple[int, int] = THUMBNAIL_PX) -> Image:
    """Shrink into a box of that width and height, proportions kept; a smaller photo is not changed."""
    height, width = rgb.shape[:2]
    scale = min(1.0, box_px[0] / width, box_px[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    while width % 2 == height % 2 == 0 and min(width // size[0], height // size[1]) >= 2:
        # Half by half first: the mean of four pixels takes a fifth of the time of one by other factors.
        width, height = width // 2, height // 2
        rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return rgb if scale == 1 else np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)
