"""Photo file -> upright uint8 RGB, for everything that reads a photo. cv2, simplejpeg, numpy and Pillow.

What OpenCV or Pillow reads is read; a file that is cut, damaged, too large or of another kind is refused by its name.
The same file gives the same pixels in training, in prediction and on the web page.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from maskcls.data.decoding import jpeg, png
from maskcls.data.decoding.kinds import HEAD_BYTES, UNREAD, Size, header_size, kind_of
from maskcls.errors import DataError
from maskcls.files import unreadable
from maskcls.stores.photo_limits import MAX_ASPECT, MAX_MEGAPIXELS, limits
from maskcls.text import shown

# Photos are decoded in parallel, one per thread or process: OpenCV's own threads would only compete for the cores.
cv2.setNumThreads(0)
# Its decoders' lines do not say of which file they speak; `decode` does.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

Image = NDArray[np.uint8]
Photo = str | Path | bytes | Image | PIL.Image.Image
"""A file, or a file's content, or an upright uint8 RGB array (height, width, 3) of any size, or an image of Pillow."""

MIN_EDGE_PX = 8
"""A photo with a shorter edge shows nothing to recognise; most often it is 1x1, a placeholder."""

STRIP_PX = 1_000_000
"""Pixels that are converted at a time, where they need a wider type in between."""

EXIF_ORIENTATION = 0x0112

_ONE_WITH_PILLOW = threading.Lock()


class Decoded(NamedTuple):
    """A photo as uint8 RGB (height, width, 3), and the conversions that it needed, of CONVERSIONS."""

    rgb: Image
    conversions: tuple[str, ...]


CONVERSIONS = ("EXIF-turned", "16-bit", "grayscale", "transparent")


def decode(file: str | Path) -> Decoded:
    """Read a photo of any format that OpenCV or Pillow knows.

    Raises DataError, naming the file, where it is missing, unreadable, empty, truncated, damaged, not an image, too
    small, or beyond the `limits`.
    """
    return decode_bytes(_content(file), str(file))


def check(file: str | Path) -> tuple[str, ...]:
    """Refuse what `decode` refuses, with its DataError, and return the conversions that it would do.

    Of a JPEG in colour every bit is decoded, but not every pixel computed, which takes half of the time.
    """
    return check_bytes(_content(file), str(file))


def check_bytes(data: bytes, name: str) -> tuple[str, ...]:
    """Check the content of a file like `check`; `name` stands for the file in messages."""
    if kind_of(data[:HEAD_BYTES], name) == "JPEG":
        found = _sound_layout(data, shown(name))
        is_plain = found.components == 3 and found.size is not None and min(found.size) >= MIN_EDGE_PX
        if is_plain and jpeg.is_sound(data):
            return ("EXIF-turned",) if exif_orientation(found.exif) != 1 else ()
    return decode_bytes(data, name).conversions


def _content(file: str | Path) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise DataError(unreadable(file, error)) from None


def decode_bytes(data: bytes, name: str) -> Decoded:
    """Decode the content of a file like `decode`; `name` stands for the file in messages."""
    shown_name = shown(name)
    if not data:
        raise DataError(f"{shown_name} is empty (0 bytes). Copy the photo again, or leave it out.")
    kind = kind_of(data[:HEAD_BYTES], name)
    if kind == "JPEG":
        decoded = _decode_jpeg(data, shown_name)
    elif kind == "PNG":
        decoded = _decode_png(data, shown_name)
    else:
        decoded = _decode_other(data, kind, shown_name)
    _refuse_tiny(decoded.rgb, shown_name)
    return decoded


def _sound_layout(data: bytes, name: str) -> jpeg.Layout:
    """Return a JPEG's layout. Raises DataError where its size or its segments are not as they should be."""
    found = jpeg.layout(data)
    _refuse_size(found.size, name)
    if not found.is_whole:
        raise _truncated(data, name)
    if any(map(any, found.bits_left.values())):
        raise _damaged(name, "a part of its scans is missing")
    return found


def _decode_jpeg(data: bytes, name: str) -> Decoded:
    found = _sound_layout(data, name)
    try:
        pixels = jpeg.decode(data, found.components)
    except jpeg.Damaged as error:
        raise _damaged(name, str(error)) from None
    except ValueError as error:
        raise DataError(
            f"{name} is not an image that can be decoded (JPEG: {error}). Replace it, or leave it out."
        ) from None
    if pixels.ndim == 2:
        return _upright(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), ["grayscale"], exif_orientation(found.exif))
    return _upright(pixels, [], exif_orientation(found.exif))


def _decode_png(data: bytes, name: str) -> Decoded:
    found = png.layout(data)
    _refuse_size(found.size, name)
    if found.damage:
        raise _damaged(name, found.damage)
    if not found.is_whole:
        raise _truncated(data, name)
    try:
        pixels = cv2.imdecode(np.frombuffer(found.content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {error.err}.") from None
    if pixels is None:
        raise _damaged(name, "its pixels do not unpack")
    return _to_rgb(pixels, exif_orientation(found.exif), name)


def _decode_other(data: bytes, kind: str, name: str) -> Decoded:
    _refuse_size(header_size(data, kind), name)
    try:
        # Unchanged: 16 bits and transparency stay for `_to_rgb`, and a photo is not turned by its EXIF data yet.
        pixels, kinds, metadata = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {error.err}.") from None
    if pixels is None:
        return _decode_with_pillow(data, kind, name)
    _refuse_size(Size(pixels.shape[1], pixels.shape[0]), name)
    exif = next(
        (bytes(part) for part_kind, part in zip(kinds, metadata, strict=True) if part_kind == cv2.IMAGE_METADATA_EXIF),
        b"",
    )
    return _to_rgb(pixels, exif_orientation(exif), name)


def _decode_with_pillow(data: bytes, kind: str, name: str) -> Decoded:
    """Decode what OpenCV does not know: formats that its build lacks, or an animation that breaks off later."""
    try:
        # Pillow speaks of files through Python's warnings, which belong to the whole process.
        with _ONE_WITH_PILLOW, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = PIL.Image.open(io.BytesIO(data))
            _refuse_size(Size(*image.size), name)
            return _decode_pillow(image, name)
    except DataError:
        raise
    except Exception:  # a file that is cut or made up: its formats' readers raise whatever they come upon
        pass
    if kind in UNREAD:
        raise DataError(f"{name} {UNREAD[kind]}, which is not read here. Save it as JPEG (.jpg), or leave it out.")
    what = f"{kind}, cut or damaged" if kind else ".jpg, .jpeg or .png expected"
    raise DataError(f"{name} is not an image that can be decoded ({what}). Replace it, or leave it out.")


def rgb_of(photo: Photo) -> Image:
    """Return the upright uint8 RGB (height, width, 3) of a file or its content, an array that is just that, or Pillow's
    image.

    Raises DataError, which names a file, where it cannot be read, and where an array or an image is something else.
    """
    if isinstance(photo, bytes):
        return decode_bytes(photo, "The photo").rgb
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise DataError(
                f"An array of {photo.dtype} {photo.shape} is no photo: uint8 RGB (height, width, 3) expected. "
                "Convert it."
            )
        _refuse_tiny(photo, "The array")
        return photo
    if isinstance(photo, PIL.Image.Image):
        rgb = _decode_pillow(photo, "The image").rgb
        _refuse_tiny(rgb, "The image")
        return rgb
    if not isinstance(photo, str | Path):
        raise DataError(
            f"A {type(photo).__name__} is no photo: a path, bytes, an array or an image of Pillow expected."
        )
    return decode(photo).rgb


def _decode_pillow(image: PIL.Image.Image, name: str) -> Decoded:
    """Convert Pillow's image as `decode` converts the content of a file, turned as its EXIF block says."""
    try:
        if image.mode.startswith("I;16"):
            pixels = np.asarray(image).astype(np.uint16)  # (h, w)
        elif image.mode in ("1", "L"):
            pixels = np.asarray(image.convert("L"))  # (h, w)
        elif image.has_transparency_data:
            pixels = np.asarray(image.convert("RGBA"))[:, :, [2, 1, 0, 3]]  # (h, w, 4), BGRA as OpenCV has it
        elif image.mode in ("I", "F"):
            pixels = np.asarray(image)  # refused below: nothing says which value is white
        else:
            pixels = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])  # (h, w, 3), BGR
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes a file only now
        raise DataError(f"{name} cannot be decoded: {error}.") from None
    return _to_rgb(pixels, exif_orientation(image.info.get("exif", b"")), name)


def _refuse_tiny(rgb: Image, name: str) -> None:
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_EDGE_PX:
        raise DataError(
            f"{name} is {width}x{height} px: at least {MIN_EDGE_PX}x{MIN_EDGE_PX} expected. "
            "Replace it, or leave it out."
        )


def _refuse_size(size: Size | None, name: str) -> None:
    """Raise DataError for a photo beyond the limits; one without pixels is left to the decoder."""
    if size is None or min(size) < 1:
        return
    most = limits()
    megapixels, aspect = size.width * size.height / 1e6, max(size) / min(size)
    remedy = "Cut or shrink it, leave it out, or raise"
    if megapixels > most.megapixels:
        raise DataError(
            f"{name} is {size.width}x{size.height} px, {megapixels:,.0f} megapixels: at most {most.megapixels:g} "
            f"expected. {remedy} {MAX_MEGAPIXELS} (--max-megapixels)."
        )
    if aspect > most.aspect:
        raise DataError(
            f"{name} is {size.width}x{size.height} px, {aspect:,.0f} times as long as wide: at most {most.aspect:g} "
            f"times expected. {remedy} {MAX_ASPECT} (--max-aspect)."
        )


def _truncated(data: bytes, name: str) -> DataError:
    return DataError(
        f"{name} is truncated: its end is missing after {len(data):,} bytes. Copy the photo again, or leave it out."
    )


def _damaged(name: str, what: str) -> DataError:
    return DataError(f"{name} is damaged: {what}. Copy the photo again, or leave it out.")


def exif_orientation(exif: bytes) -> int:
    """Return EXIF's orientation 1..8 from a TIFF block; 1 (upright) without one. Source: EXIF 2.32, 4.6.4.

    PIL.Image.Exif is no replacement: it raises on some broken blocks, and takes other values where an entry is
    repeated or has another type, so stores and bundles made before would see other pixels.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)  # offset of the first directory
        (count,) = struct.unpack_from(order + "H", exif, directory)  # entries of 12 bytes each follow
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            # Tag, type, count, value; an orientation has 16 bits, the first two of the value's four bytes.
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == EXIF_ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # a broken block turns nothing, as in browsers
        return 1
    return 1


def _to_rgb(pixels: NDArray[Any], orientation: int, name: str) -> Decoded:
    """Convert what IMREAD_UNCHANGED gives, (h, w) or (h, w, 1, 3 or 4) in BGR, to upright uint8 RGB (h, w, 3)."""
    conversions = []
    if pixels.dtype == np.uint16:
        pixels = _in_strips(_to_8_bits, pixels)
        conversions.append("16-bit")
    elif pixels.dtype != np.uint8:
        raise DataError(
            f"{name} holds {pixels.dtype} values: 8 or 16 bits a colour expected. Convert it, or leave it out."
        )
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        raise DataError(
            f"{name} has {pixels.shape[2]} values per pixel: grey, RGB or RGB with transparency expected. "
            "Convert it, or leave it out."
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        conversions.append("grayscale")
    elif pixels.shape[2] == 4:
        rgb = _in_strips(_over_white, pixels)
        conversions.append("transparent")
    else:
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return _upright(rgb, conversions, orientation)


def _upright(rgb: Image, conversions: Sequence[str], orientation: int) -> Decoded:
    if orientation != 1:
        rgb = _turn(rgb, orientation)
        conversions = [*conversions, "EXIF-turned"]
    return Decoded(rgb, tuple(sorted(conversions, key=CONVERSIONS.index)))


def _in_strips(convert: Callable[[NDArray[Any]], Image], pixels: NDArray[Any]) -> Image:
    """Convert pixels, each by itself, in strips of rows: the wider type in between then takes little memory."""
    rows = max(1, STRIP_PX // max(1, pixels.shape[1]))
    if len(pixels) <= rows:
        return convert(pixels)
    return np.concatenate([convert(pixels[top : top + rows]) for top in range(0, len(pixels), rows)])


def _to_8_bits(pixels: NDArray[Any]) -> Image:
    # Rounded to the nearest of 256 values; in uint32, because the products exceed 16 bits.
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


def _over_white(bgra: Image) -> Image:
    # Channels 2, 1, 0: BGR becomes RGB, without alpha.
    rgb = bgra[:, :, 2::-1].astype(np.uint32)  # (h, w, 3)
    alpha = bgra[:, :, 3:].astype(np.uint32)  # (h, w, 1)
    return ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)  # + 127: rounded, not cut


def _turn(rgb: Image, orientation: int) -> Image:
    """Undo EXIF's orientation 2..8: from 5 on rows and columns are swapped, then rows or columns are reversed."""
    if orientation >= 5:
        rgb = rgb.transpose(1, 0, 2)  # (w, h, 3)
    if orientation in (3, 4, 7, 8):
        rgb = rgb[::-1]
    if orientation in (2, 3, 6, 7):
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)  # until here a view with other strides
