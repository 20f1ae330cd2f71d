"""A photo of each kind that is converted or resized when read."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

KINDS = ("plain.jpg", "transparent.png", "grey.png", "turned.jpg", "deep.png", "large.jpg", "tiny.png")
EXIF_TURNED_RIGHT = 6


def _photo(width: int, height: int) -> np.ndarray:
    """A gradient with noise on it, BGR: every row, column and colour differs."""
    y, x = np.mgrid[:height, :width]
    smooth = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin((x + y) / 9)], axis=2)
    return np.clip(smooth + np.random.default_rng(width).normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)


def _write(file: Path, pixels: np.ndarray) -> None:
    file.write_bytes(cv2.imencode(file.suffix, pixels)[1].tobytes())


def _turn(file: Path) -> None:
    """Put an EXIF block into a JPEG that says: turn me."""
    directory = struct.pack("<HHHII", 1, 0x0112, 3, 1, EXIF_TURNED_RIGHT) + b"\0\0\0\0"
    block = b"Exif\0\0" + b"II*\0" + struct.pack("<I", 8) + directory
    jpeg = file.read_bytes()
    file.write_bytes(jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:])


@pytest.fixture(scope="session")
def photo_kinds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A file for each of KINDS, in that order."""
    folder = tmp_path_factory.mktemp("kinds")
    upright = _photo(96, 128)
    alpha = np.linspace(0, 255, 128, dtype=np.uint8)[:, None].repeat(96, axis=1)
    pixels = {
        "plain.jpg": upright,
        "transparent.png": np.dstack([upright, alpha]),
        "grey.png": upright[:, :, 0],
        "turned.jpg": upright,
        "deep.png": upright.astype(np.uint16) * 257,
        "large.jpg": _photo(900, 1200),
        "tiny.png": _photo(40, 30),
    }
    for name in KINDS:
        _write(folder / name, pixels[name])
    _turn(folder / "turned.jpg")
    return [folder / name for name in KINDS]
