"""Photos for tests of how alike photos are: a made-up portrait for each number, and copies of one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

Image = np.ndarray


def portrait(number: int, width: int = 96, height: int = 128) -> Image:
    """A bright oval before a blotchy background, (height, width, 3) uint8 RGB; every number another one."""
    rng = np.random.default_rng(number)
    blotches = cv2.resize(rng.integers(40, 216, (9, 7, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    centre = (width // 2 + int(rng.integers(-6, 7)), height // 2 + int(rng.integers(-8, 9)))
    cv2.ellipse(blotches, centre, (width // 4, height // 4), 0, 0, 360, rng.integers(120, 250, 3).tolist(), -1)
    return np.clip(blotches + rng.normal(0, 4, blotches.shape), 0, 255).astype(np.uint8)


def jpeg(rgb: Image, quality: int = 90) -> bytes:
    """A JPEG file's content."""
    return cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def copies(rgb: Image) -> dict[str, Image]:
    """What people and programs make of a photo that is still the same photo."""
    height, width = rgb.shape[:2]
    return {
        "recompressed": cv2.cvtColor(
            cv2.imdecode(np.frombuffer(jpeg(rgb, 40), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB
        ),
        "half as large": cv2.resize(rgb, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        "larger": cv2.resize(rgb, (width * 3 // 2, height * 3 // 2), interpolation=cv2.INTER_CUBIC),
        "brighter": cv2.convertScaleAbs(rgb, alpha=1.05, beta=15),
        "grey": cv2.cvtColor(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    }


def write_portraits(data: Path) -> list[Path]:
    """Put a portrait of its own into every photo file of a contest folder; returns the files, sorted."""
    files = sorted(file for file in (data / "train/images").rglob("*") if file.is_file())
    for number, file in enumerate(files):
        bgr = cv2.cvtColor(portrait(number), cv2.COLOR_RGB2BGR)
        file.write_bytes(cv2.imencode(file.suffix, bgr)[1].tobytes())
    return files
