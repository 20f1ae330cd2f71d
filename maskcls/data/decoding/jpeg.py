"""JPEG files: their segments, walked from the start, and decoding that reports damage instead of painting it grey.

OpenCV's decoder writes what it finds wrong to stderr, without the file's name, and returns a picture; simplejpeg, the
same libjpeg-turbo, raises it. Both give the same pixels. Source of the segments: ITU T.81, Annex B.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from maskcls.data.decoding.kinds import Size

START, EXIF = b"\xff\xd8\xff", b"Exif\0\0"
_END, _SCAN, _APP1 = 0xD9, 0xDA, 0xE1
_ALONE = {0x01, *range(0xD0, 0xD8)}
"""Markers without a length: one for arithmetic coding, and restarts."""
_MARKER = re.compile(rb"\xff[^\x00\xff]")
"""Several 0xFF may stand before a marker, to fill; 0x00 makes it a byte of a scan."""
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Starts of a frame, which give the size."""
_PROGRESSIVE = {0xC2, 0xCA}
_ALL_BITS = 16
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""What ends a scan: a marker, and neither a stuffed byte nor a restart."""

_DAMAGE = re.compile("premature|bad Huffman|bad arithmetic|instead of RST", re.IGNORECASE)
"""What libjpeg says where a part of the picture is lost. Its other warnings leave every pixel as it should be."""
_SURPLUS = re.compile(r"(\d+) extraneous bytes")
_SURPLUS_BYTES, _SURPLUS_SHARE = 64, 0.01
"""Some cameras leave a few bytes between the last row and the end; many are rows that were not understood."""
_STDERR, _ONE_LISTENS = 2, threading.Lock()
_DECODERS_LINES = (b"Corrupt JPEG data", b"Premature end", b"Warning", b"Unsupported", b"Invalid", b"Inconsistent")
"""How libjpeg's lines begin."""


class Damaged(Exception):  # noqa: N818 - a state of the file, from which `decode` makes the message
    """A part of the picture is lost; the text says what the decoder found."""


@dataclass
class Layout:
    """What the segments of a JPEG say."""

    size: Size | None = None
    components: int = 3
    """Grey, three colours, or the four of print."""
    exif: bytes = b""
    bits_left: dict[int, list[int]] = field(default_factory=dict)
    """Of a progressive JPEG: for each component (by its number) how many bits its 64 coefficients still lack."""
    is_whole: bool = False
    """Whether the end of the picture is there; what follows it (the film of a motion photo) is not looked at."""


def layout(data: bytes) -> Layout:
    """Walk the segments of a JPEG from its start to its end. Thumbnails stand inside segments, and are stepped over."""
    found = Layout()
    place = 2
    # What stands before a marker, and is none, the decoder steps over, too.
    while match := _MARKER.search(data, place):
        place = match.start()
        marker = data[place + 1]
        if marker == _END:
            found.is_whole = True
            break
        if marker in _ALONE:
            place += 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        content = place + 4
        if marker in _FRAMES and found.size is None and content + 6 <= len(data):
            height, width = struct.unpack_from(">HH", data, content + 1)  # behind the bits per sample
            found.size, found.components = Size(width, height), data[content + 5]
            if marker in _PROGRESSIVE:
                parts = data[content + 6 : place + 2 + length : 3]  # of each component its number, and two bytes more
                found.bits_left = {number: [_ALL_BITS] * 64 for number in parts}
        elif marker == _APP1 and not found.exif and data.startswith(EXIF, content):
            found.exif = data[content : place + 2 + length]
        place += 2 + length
        if marker == _SCAN:
            _note_scan(data[content:place], found)
            after = _AFTER_SCAN.search(data, place)
            place = after.start() if after else len(data)
    return found


def _note_scan(header: bytes, found: Layout) -> None:
    """Note which coefficients a scan of a progressive JPEG refines, from its header (T.81, B.2.3)."""
    if not header or len(header) < 4 + 2 * header[0]:
        return
    *_, first, last, bits = header[: 4 + 2 * header[0]]
    for number in header[1 : 1 + 2 * header[0] : 2]:
        if number in found.bits_left:
            found.bits_left[number][first : last + 1] = [bits & 15] * len(found.bits_left[number][first : last + 1])


def decode(data: bytes, components: int) -> NDArray[Any]:
    """Return RGB (h, w, 3) or grey (h, w) uint8, not turned by EXIF.

    Args:
        components: of its `Layout`.

    Raises Damaged where a part of the picture is lost, ValueError where nothing can be decoded.
    """
    if components == 1:
        return np.asarray(_strictly(data, "GRAY")[:, :, 0])
    try:
        if components == 3:
            return _strictly(data, "RGB")
        _strictly(data, "CMYK")
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
    # Colours of print, and colours that are sampled in an unusual way: simplejpeg does not take both to RGB.
    return _by_opencv(data)


def is_sound(data: bytes) -> bool:
    """Whether a JPEG in colour decodes without a warning; if not, `decode` says whether it is damaged.

    Every scan is read to its end, but only the brightness is computed, at an eighth of the size.
    """
    try:
        simplejpeg.decode_jpeg(data, "GRAY", strict=True, min_height=1, min_width=1, min_factor=8)
    except ValueError:
        return False
    return True


def _by_opencv(data: bytes) -> NDArray[Any]:
    """Decode as OpenCV does, and read what its decoder writes to stderr."""
    try:
        with _what_is_said() as said:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ValueError(str(error.err)) from None
    for line in said:
        _refuse_damage(line, len(data))
    if pixels is None:
        raise ValueError("its colours cannot be read")
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


@contextmanager
def _what_is_said() -> Iterator[list[str]]:
    """Yield a list that has the decoder's lines after the block. Other lines of the process go on to stderr."""
    said: list[str] = []
    with _ONE_LISTENS, tempfile.TemporaryFile() as kept:
        try:
            stderr = os.dup(_STDERR)
        except OSError:  # it is closed, and nothing reaches a terminal
            yield said
            return
        try:
            os.dup2(kept.fileno(), _STDERR)
            try:
                yield said
            finally:
                os.dup2(stderr, _STDERR)
            kept.seek(0)
            for line in kept.read().splitlines(keepends=True):
                if line.startswith(_DECODERS_LINES):
                    said.append(line.decode(errors="replace").strip())
                else:
                    os.write(stderr, line)
        finally:
            os.close(stderr)


def _strictly(data: bytes, colours: str) -> NDArray[Any]:
    try:
        pixels: NDArray[Any] = simplejpeg.decode_jpeg(data, colours, strict=True)
    except ValueError as error:
        _refuse_damage(str(error), len(data))
        pixels = simplejpeg.decode_jpeg(data, colours, strict=False)  # again ValueError, if it was no warning
    return pixels


def _refuse_damage(said: str, n_bytes: int) -> None:
    """Raise Damaged if what libjpeg says of a file of that size means that a part of the picture is lost."""
    surplus = _SURPLUS.search(said)
    if _DAMAGE.search(said) or (surplus and int(surplus[1]) > _SURPLUS_BYTES + _SURPLUS_SHARE * n_bytes):
        raise Damaged(said.removeprefix("Corrupt JPEG data: ")) from None
