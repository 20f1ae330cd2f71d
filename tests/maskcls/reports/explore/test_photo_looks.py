"""What one decoding of a photo tells."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls.errors import DataError
from maskcls.reports.explore.photo_looks import THUMBNAIL_PX, Look, look, look_at
from tests.maskcls.reports.explore.portraits import jpeg, portrait


def turned(content: bytes) -> bytes:
    """A JPEG with an EXIF block that says: turn me to the right."""
    block = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, 6) + bytes(4)
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


def test_size_kind_brightness_and_thumbnail(tmp_path: Path) -> None:
    file = tmp_path / "mask1.jpg"
    file.write_bytes(jpeg(np.full((512, 384, 3), 100, np.uint8)))
    seen = look(str(file))
    assert (seen.width_px, seen.height_px, seen.kind, seen.conversions) == (384, 512, "JPEG", ())
    assert seen.brightness == pytest.approx(100, abs=1)
    thumbnail = cv2.imdecode(np.frombuffer(seen.thumbnail, np.uint8), cv2.IMREAD_COLOR)
    assert thumbnail is not None
    assert thumbnail.shape == (*THUMBNAIL_PX[::-1], 3)


@pytest.mark.parametrize(
    ("ending", "kind"), [(".png", "PNG"), (".bmp", "BMP"), (".webp", "WebP"), (".tif", "TIFF"), (".jpeg", "JPEG")]
)
def test_the_kind_is_what_the_file_holds_whatever_its_name(tmp_path: Path, ending: str, kind: str) -> None:
    file = tmp_path / "mask1.jpg"
    file.write_bytes(cv2.imencode(ending, portrait(0))[1].tobytes())
    assert look(str(file)).kind == kind


def test_a_turned_photo_is_seen_upright(tmp_path: Path) -> None:
    upright, lying = tmp_path / "upright.jpg", tmp_path / "lying.jpg"
    upright.write_bytes(jpeg(portrait(0)))
    lying.write_bytes(turned(jpeg(np.rot90(portrait(0)).copy())))
    one, other = look(str(upright)), look(str(lying))
    assert (other.width_px, other.height_px) == (one.width_px, one.height_px) == (96, 128)
    assert other.conversions == ("EXIF-turned",)
    assert np.bitwise_count(one.hash ^ other.hash).sum() <= 4
    assert one.content != other.content


def test_a_photo_that_cannot_be_decoded_stops_nobody(tmp_path: Path) -> None:
    files = [tmp_path / f"mask{i}.jpg" for i in range(1, 6)]
    for number, file in enumerate(files[:3]):
        file.write_bytes(jpeg(portrait(number)))
    files[1].write_bytes(b"no photo")
    files[3].write_bytes(jpeg(portrait(3))[:-400])
    found = look_at([str(file) for file in files])
    assert [isinstance(each, Look) for each in found] == [True, False, True, False, False]
    for number, message in (
        (1, "is not an image that can be decoded"),
        (3, "is truncated"),
        (4, "cannot be read: No such file"),
    ):
        assert isinstance(found[number], DataError)
        assert f"mask{number + 1}.jpg {message}" in str(found[number])
