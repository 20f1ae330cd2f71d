"""The first half of the preprocessing: photo file -> RGB -> a square of one size, of the face if asked. cv2 and numpy.

Training, validation, prediction and the web page all use it, so the same photo gives the same pixels in each.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from maskcls.data.face_crop import DETECTOR, face_square
from maskcls.errors import CallError, DataError

# Photos are decoded in parallel, one per thread or process: OpenCV's own threads would only compete for the cores.
cv2.setNumThreads(0)

Image = NDArray[np.uint8]
Photo = str | Path | Image | PIL.Image.Image
"""A file, or an upright uint8 RGB array (height, width, 3) of any size, or an image of Pillow."""

MIN_EDGE_PX = 8
"""A photo with a shorter edge shows nothing to recognise; most often it is 1x1, a placeholder."""

FACE_CROPS = ("none", "haar")
"""What comes before the centre square: nothing, or a cut to the face that OpenCV's Haar cascades find."""

FORMAT = {"version": 2, "resize": "smallest edge", "crop": "center", "shrink": "area", "enlarge": "cubic"}

# Markers: start of image and the first byte of the next one, start of scan, end of image.
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
EXIF_ORIENTATION = 0x0112


class Decoded(NamedTuple):
    """A photo as uint8 RGB (height, width, 3), and the conversions that it needed, of CONVERSIONS."""

    rgb: Image
    conversions: tuple[str, ...]


CONVERSIONS = ("EXIF-turned", "16-bit", "grayscale", "transparent")


def decode(file: str | Path) -> Decoded:
    """Read a photo of any format that OpenCV knows.

    Raises DataError, naming the file, where it is missing, unreadable, empty, truncated, not an image, or too small.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    return decode_bytes(data, str(file))


def decode_bytes(data: bytes, name: str) -> Decoded:
    """Decode the content of a file like `decode`; `name` stands for the file in messages."""
    if not data:
        raise DataError(f"{name} is empty (0 bytes). Copy the photo again, or leave it out.")
    if _is_truncated(data):
        raise DataError(
            f"{name} is truncated: its end is missing after {len(data):,} bytes. Copy the photo again, or leave it out."
        )
    try:
        # Unchanged: 16 bits and transparency stay for `_to_rgb`, and a photo is not turned by its EXIF data yet.
        pixels, kinds, metadata = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {error.err}.") from None
    if pixels is None:
        raise DataError(
            f"{name} is not an image that can be decoded (.jpg, .jpeg or .png expected). Replace it, or leave it out."
        )
    exif = next(
        (bytes(part) for kind, part in zip(kinds, metadata, strict=True) if kind == cv2.IMAGE_METADATA_EXIF), b""
    )
    decoded = _to_rgb(pixels, exif_orientation(exif), name)
    _refuse_tiny(decoded.rgb, name)
    return decoded


def rgb_of(photo: Photo) -> Image:
    """Return the upright uint8 RGB (height, width, 3) of a file, of an array that is just that, or of Pillow's image.

    Raises DataError, which names a file, where it cannot be read, and where an array or an image is something else.
    """
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3:
            raise DataError(
                f"An array of {photo.dtype} {photo.shape} is no photo: uint8 RGB (height, width, 3) expected. "
                "Convert it."
            )
        _refuse_tiny(photo, "The array")
        return photo
    if isinstance(photo, PIL.Image.Image):
        return _decode_pillow(photo)
    if not isinstance(photo, str | Path):
        raise DataError(f"A {type(photo).__name__} is no photo: a path, an array or an image of Pillow expected.")
    return decode(photo).rgb


def _decode_pillow(image: PIL.Image.Image) -> Image:
    """Convert Pillow's image as `decode` converts the content of a file, turned as its EXIF block says."""
    name = "The image"
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
    rgb = _to_rgb(pixels, exif_orientation(image.info.get("exif", b"")), name).rgb
    _refuse_tiny(rgb, name)
    return rgb


def _refuse_tiny(rgb: Image, name: str) -> None:
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_EDGE_PX:
        raise DataError(
            f"{name} is {width}x{height} px: at least {MIN_EDGE_PX}x{MIN_EDGE_PX} expected. "
            "Replace it, or leave it out."
        )


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


def _is_truncated(data: bytes) -> bool:
    """Whether the end marker is missing; some decoders fill the missing part with grey and raise nothing."""
    if data.startswith(JPEG_START):
        # An embedded thumbnail ends with such a marker, too, so the last end must follow the last scan.
        return data.rfind(JPEG_END) < max(data.rfind(JPEG_SCAN), len(JPEG_START))
    if data.startswith(PNG_START):
        # Mostly it is at the very end; all bytes are searched only where others follow it.
        return PNG_END not in data[-1024:] and PNG_END not in data
    return False


def _to_rgb(pixels: NDArray[Any], orientation: int, name: str) -> Decoded:
    """Convert what IMREAD_UNCHANGED gives, (h, w) or (h, w, 1, 3 or 4) in BGR, to upright uint8 RGB (h, w, 3)."""
    conversions = []
    if pixels.dtype == np.uint16:
        # In uint32, because the products exceed 16 bits.
        pixels = (pixels.astype(np.uint32) * 255 + 32767) // 65535  # rounded to the nearest of 256 values
        conversions.append("16-bit")
    elif pixels.dtype != np.uint8:
        raise DataError(
            f"{name} holds {pixels.dtype} values: 8 or 16 bits a colour expected. Convert it, or leave it out."
        )
    pixels = pixels.astype(np.uint8, copy=False)
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        rgb = cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB)
        conversions.append("grayscale")
    elif pixels.shape[2] == 4:
        rgb = _over_white(pixels)
        conversions.append("transparent")
    else:
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if orientation != 1:
        rgb = _turn(rgb, orientation)
        conversions.append("EXIF-turned")
    return Decoded(rgb, tuple(sorted(conversions, key=CONVERSIONS.index)))


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


class Cropped(NamedTuple):
    """A square, uint8 (image_size, image_size, 3), contiguous.

    `face_missed`: a face was looked for and not found, so this is the plain crop.
    """

    pixels: Image
    face_missed: bool


@dataclass(frozen=True)
class Geometry:
    """The square around the face, if asked and found; then SmallestMaxSize and CenterCrop to `image_size` px."""

    image_size: int
    face_crop: str = "none"

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise CallError(f"`image_size >= 1` must hold, but got {self.image_size}.")
        if self.face_crop not in FACE_CROPS:
            raise CallError(f"face_crop is one of {', '.join(FACE_CROPS)}, but got {self.face_crop!r}.")

    def apply(self, rgb: Image) -> Image:
        """Crop a photo: uint8 (height, width, 3) -> uint8 (image_size, image_size, 3), contiguous."""
        return self.crop(rgb).pixels

    def crop(self, rgb: Image) -> Cropped:
        """Crop a photo like `apply`, and say whether its face was missed."""
        if self.face_crop == "none":
            return Cropped(self._middle_square(rgb), face_missed=False)
        face = face_square(rgb)
        return Cropped(self._middle_square(rgb if face is None else face), face_missed=face is None)

    def _middle_square(self, rgb: Image) -> Image:
        size = self.image_size
        height, width = rgb.shape[:2]
        scale = size / min(height, width)
        if scale != 1:
            # Never below `size`, whatever the rounding, so that the crop fits.
            wanted = (max(size, round(width * scale)), max(size, round(height * scale)))
            rgb = cv2.resize(rgb, wanted, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
            height, width = rgb.shape[:2]
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(rgb[top : top + size, left : left + size])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a bundle; `from_dict` gives an equal geometry.

        With a face crop they include everything that decides where it cuts.
        """
        detector = {} if self.face_crop == "none" else {"face_detector": DETECTOR}
        return {**FORMAT, "image_size": self.image_size, "face_crop": self.face_crop, **detector}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` gave.

        Raises DataError where the values describe another way of cropping than this version's.
        """
        size, face_crop = values.get("image_size"), values.get("face_crop")
        if isinstance(size, int) and isinstance(face_crop, str) and face_crop in FACE_CROPS:
            geometry = cls(size, face_crop)
            # Everything has to agree: a crop by other rules gives other pixels than those that were trained on.
            if values == geometry.to_dict():
                return geometry
        raise DataError(
            f"This version's geometry is {json.dumps(FORMAT)}, an image_size and a face_crop "
            f"({' or '.join(FACE_CROPS)}; with haar a face_detector, {json.dumps(DETECTOR)}), "
            f"but got {json.dumps(values)}."
        )

    @property
    def digest(self) -> str:
        """12 hex digits, the same in every process, for equal geometries."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def missed_faces_note(missed: int, total: int) -> str:
    """Return a line for the log on photos whose face was not found."""
    return f"No face was found in {missed:,} of {total:,} photos; they keep the plain crop."


def load(file: str | Path, geometry: Geometry) -> Image:
    """Decode and crop a photo: uint8 (image_size, image_size, 3). Raises DataError as `decode` does."""
    return geometry.apply(decode(file).rgb)
