"""Kinds of image files: by the suffix of a name, by the first bytes of a file, and the size that its header gives.

Sources: the formats' own specifications; RFC 9649 (WebP), ISO/IEC 14496-12 (boxes of AVIF and HEIC), TIFF 6.0.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

READ_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2"),
        *(".ppm", ".pgm", ".pnm"),
    )
)
"""Of photos that OpenCV or Pillow reads."""
RAW_SUFFIXES = frozenset((".dng", ".nef", ".cr2", ".cr3", ".arw", ".orf", ".rw2", ".raf"))
OTHER_SUFFIXES = frozenset((".heic", ".heif", ".hif", ".jxl", ".psd", *RAW_SUFFIXES))
"""Of photos that are named instead of being passed over, for they cannot be read (unless what they hold is another)."""

JPEG, PNG, TIFF, HEIC, RAW = "JPEG", "PNG", "TIFF", "HEIC", "camera raw"
UNREAD = {
    HEIC: "is a HEIC photo, as phones write them",
    "JPEG XL": "is a JPEG XL photo",
    "Photoshop": "is a file of Photoshop",
    RAW: "is a camera's raw photo",
}
"""Kinds that are not read, in words that follow the file's name."""

_STARTS = (
    (b"\xff\xd8\xff", JPEG),
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", TIFF),
    (b"MM\0*", TIFF),
    (b"II+\0", TIFF),
    (b"MM\0+", TIFF),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"8BPS", "Photoshop"),
)
_BRANDS = (
    ((b"avif", b"avis"), "AVIF"),
    ((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), HEIC),
    ((b"crx ",), RAW),
)
HEAD_BYTES = 64
"""How many of a file's first bytes `kind_of` looks at."""


class Size(NamedTuple):
    """Of an image, px."""

    width: int
    height: int


def is_photo(file: Path) -> bool:
    """Whether a file is a photo, or is called one: by its suffix, or else by its first bytes."""
    if file.suffix.lower() in READ_SUFFIXES or file.suffix.lower() in OTHER_SUFFIXES:
        return True
    try:
        with file.open("rb") as stream:
            return bool(kind_of(stream.read(HEAD_BYTES)))
    except OSError:
        return False  # and if it is a photo, nothing says so


def kind_of(head: bytes, name: str = "") -> str:
    """Return which kind of image begins with these bytes; empty for what is none.

    Args:
        name: of the file; raw photos are TIFF files of which only a small preview could be read.
    """
    kind = next((kind for start, kind in _STARTS if head.startswith(start)), "")
    if kind == TIFF and Path(name).suffix.lower() in RAW_SUFFIXES:
        return RAW
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":  # two letters alone begin many a text
        return "BMP"
    if head[4:8] == b"ftyp":
        length = min(int.from_bytes(head[:4], "big"), HEAD_BYTES)
        brands = {head[8:12], *(head[i : i + 4] for i in range(16, length - 3, 4))}
        return next((kind for names, kind in _BRANDS if brands & set(names)), "")
    return kind


def header_size(data: bytes, kind: str) -> Size | None:
    """Return the size that a header gives, before anything is decoded; None where it isn't found.

    JPEG and PNG have modules of their own.
    """
    try:
        if kind == "GIF":
            return Size(*struct.unpack_from("<HH", data, 6))
        if kind == "BMP":
            width, height = struct.unpack_from("<ii", data, 18)
            return Size(abs(width), abs(height))  # negative: rows from the top
        if kind == "WebP":
            return _webp_size(data)
        if kind == "AVIF":
            return _avif_size(data)
        if kind == TIFF:
            return _tiff_size(data)
        if kind == "JPEG 2000":
            return _jpeg2000_size(data)
    except struct.error:
        pass
    return None


def _webp_size(data: bytes) -> Size | None:
    if data[12:16] == b"VP8X":  # 24 bits each, less one
        return Size(1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little"))
    if data[12:16] == b"VP8L":  # 14 bits each, less one
        (bits,) = struct.unpack_from("<I", data, 21)
        return Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if data[12:16] == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Size(width & 0x3FFF, height & 0x3FFF)
    return None


def _avif_size(data: bytes) -> Size | None:
    """The largest of the image's own size and those of its tiles and thumbnails."""
    sizes = []
    place = data.find(b"ispe", 0, 1 << 16)
    while place >= 0:
        sizes.append(Size(*struct.unpack_from(">II", data, place + 8)))  # behind the version and flags
        place = data.find(b"ispe", place + 4, 1 << 16)
    return max(sizes, key=lambda size: size.width * size.height, default=None)


def _tiff_size(data: bytes) -> Size | None:
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] not in (b"*\0", b"\0*"):
        return None  # of more than 4 GB
    (directory,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, directory)
    found = {}
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):  # width and height, in 16 or 32 bits
            (found[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    return Size(found[256], found[257]) if len(found) == 2 else None


def _jpeg2000_size(data: bytes) -> Size | None:
    place = data.find(b"ihdr", 0, 1 << 12)
    if place < 0:
        return None
    height, width = struct.unpack_from(">II", data, place + 4)
    return Size(width, height)
