"""Kind and size of a photo before anything is decoded, and what is refused for them."""

from __future__ import annotations

from typing import NamedTuple

from maskcls.data.decoding import jpeg, png
from maskcls.data.decoding.decode import MIN_EDGE_PX
from maskcls.data.decoding.kinds import HEAD_BYTES, JPEG, PNG, Size, header_size, kind_of
from maskcls.serving.web.limits import FORMATS, Limits
from maskcls.serving.web.refusal import Refused

MAX_JPEG_SCANS = 100
"""A progressive JPEG has about ten; each further one costs a pass over the whole photo."""
MAX_JPEG_MARKERS, MAX_PNG_CHUNKS = 1_000_000, 50_000
"""More are no photo, and walking over them takes seconds."""


class PhotoHeader(NamedTuple):
    """What a photo's file says before it is decoded."""

    kind: str
    """Of FORMATS."""
    size: Size | None
    """As it is stored, not turned; None if it isn't found."""
    is_whole: bool
    """Whether its end is there; of WebP this is found by decoding."""


def read_header(data: bytes) -> PhotoHeader | None:
    """Read a photo's kind by its content, and its size; None for what is none of FORMATS."""
    kind = kind_of(data[:HEAD_BYTES])
    if kind not in FORMATS:
        return None
    if kind == JPEG:
        of_jpeg = jpeg.layout(data)
        return PhotoHeader(kind, of_jpeg.size, of_jpeg.is_whole)
    if kind == PNG:
        of_png = png.layout(data)
        return PhotoHeader(kind, of_png.size, of_png.is_whole or bool(of_png.damage))
    return PhotoHeader(kind, header_size(data, kind), is_whole=True)


def is_costly(data: bytes) -> bool:
    """Whether a file has so many parts that to read it takes far longer than its size and its pixels suggest."""
    kind = kind_of(data[:HEAD_BYTES])
    if kind == JPEG:
        markers = data.count(b"\xff") - data.count(b"\xff\0")  # 0xFF 0 is a byte of a scan
        return markers > MAX_JPEG_MARKERS or data.count(b"\xff\xda") > MAX_JPEG_SCANS
    return kind == PNG and _has_many_chunks(data)


def _has_many_chunks(data: bytes) -> bool:
    place = len(png.START)
    for _ in range(MAX_PNG_CHUNKS):
        if place + 12 > len(data):
            return False
        place += 12 + int.from_bytes(data[place : place + 4], "big")  # length, name, content, checksum
    return True


def check_header(data: bytes, limits: Limits, photo: int) -> Size:
    """Return a photo's size. Raises Refused where it must not be decoded; `photo` is its place in the request."""
    if not data:
        raise Refused(422, "empty", "The photo is empty (0 bytes). Send it again.", photo)
    if is_costly(data):
        raise Refused(422, "too_complex", "The photo is stored in very many parts. Save it again as JPEG.", photo)
    header = read_header(data)
    if header is None:
        expected = ", ".join(FORMATS[:-1]) + f" or {FORMATS[-1]}"
        raise Refused(422, "not_a_photo", f"This is not a photo that can be read: {expected} expected.", photo)
    if header.size is not None:
        _check_size(header.size, limits, photo)
    if not header.is_whole:
        message = f"The photo is truncated: its end is missing after {len(data):,} bytes. Send it again."
        raise Refused(422, "truncated", message, photo)
    if header.size is None:
        raise Refused(422, "unreadable", "The photo is damaged: it does not say its size. Send it again.", photo)
    return header.size


def _check_size(size: Size, limits: Limits, photo: int) -> None:
    short, long = sorted(size)
    shown = f"{size.width:,} x {size.height:,} px"
    if short * long > limits.pixels:
        message = f"The photo has {shown}: at most {limits.megapixels:g} megapixels expected. Send a smaller one."
        raise Refused(422, "too_many_pixels", message, photo)
    if short < MIN_EDGE_PX:
        message = f"The photo has {shown}: at least {MIN_EDGE_PX} x {MIN_EDGE_PX} expected. Send a larger one."
        raise Refused(422, "too_small", message, photo)
    if long > limits.aspect * short:
        message = f"The photo has {shown}: at most {limits.aspect:g} times as long as wide expected. Cut it."
        raise Refused(422, "too_narrow", message, photo)
