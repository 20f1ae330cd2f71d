"""PNG files: their chunks, walked from the start, each with a checksum. Source: PNG, third edition, 5."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from maskcls.data.decoding.kinds import Size

START = b"\x89PNG\r\n\x1a\n"
_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""The others hold no pixels; about some of them libpng complains, on stderr and without the file's name."""


@dataclass
class Layout:
    """What the chunks of a PNG say."""

    size: Size | None = None
    exif: bytes = b""
    is_whole: bool = False
    damage: str = ""
    """What is wrong within; empty if nothing is."""
    content: bytes = b""
    """The file, of the chunks that a decoder needs alone."""


def layout(data: bytes) -> Layout:
    """Walk the chunks of a PNG from its start to its end, up to the first one that is damaged."""
    found = Layout()
    kept: list[bytes] = [START]
    view = memoryview(data)
    place = len(START)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        name = data[place + 4 : place + 8]
        end = place + 12 + length
        if end > len(data):
            break
        is_right = crc32(view[place + 4 : end - 4]) == struct.unpack_from(">I", data, end - 4)[0]
        if name in _NEEDED:
            if not is_right:
                found.damage = f"the checksum of its part {name.decode()} at byte {place:,} is wrong"
                return found
            kept.append(data[place:end])
            if name == b"IHDR" and length == 13 and found.size is None:
                found.size = Size(*struct.unpack_from(">II", data, place + 8))
            if name == b"IEND":
                found.is_whole = True
                break
        elif name == b"eXIf" and is_right:
            found.exif = data[place + 8 : end - 4]
        place = end
    if found.is_whole and (found.size is None or not any(part[4:8] == b"IDAT" for part in kept)):
        found.damage = "it has no pixels"
    found.content = data if sum(map(len, kept)) == len(data) else b"".join(kept)
    return found
