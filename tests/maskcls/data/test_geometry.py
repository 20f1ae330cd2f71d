"""Decoding whatever people call a photo, and the middle square of it."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from maskcls.data.decoding import decode as decoding
from maskcls.data.decoding.decode import decode, decode_bytes, exif_orientation
from maskcls.data.faces.detectors import DETECTORS
from maskcls.data.geometry import Geometry, load
from maskcls.errors import CallError, DataError

FACES = Path(__file__).parents[4] / "shared/faces/dev/train/images"


def scene(height: int = 64, width: int = 48) -> np.ndarray:
    """RGB with four different corners, so that every turn of it differs."""
    rgb = np.full((height, width, 3), 90, np.uint8)
    rgb[: height // 2, : width // 2] = (250, 20, 20)
    rgb[: height // 2, width // 2 :] = (20, 250, 20)
    rgb[height // 2 :, : width // 2] = (20, 20, 250)
    return rgb


def encoded(suffix: str, bgr: np.ndarray) -> bytes:
    return cv2.imencode(suffix, bgr)[1].tobytes()


def exif(orientation: int, order: str = "<") -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def with_exif(suffix: str, rgb: np.ndarray, orientation: int) -> bytes:
    block = np.frombuffer(exif(orientation), np.uint8)
    return cv2.imencodeWithMetadata(suffix, rgb[:, :, ::-1].copy(), [cv2.IMAGE_METADATA_EXIF], [block])[1].tobytes()


def test_a_plain_photo_needs_no_conversion(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded(".png", scene()[:, :, ::-1]))
    decoded = decode(file)
    assert np.array_equal(decoded.rgb, scene())
    assert decoded.conversions == ()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_formats(suffix: str) -> None:
    rgb, conversions = decode_bytes(encoded(suffix, scene()[:, :, ::-1]), "a")
    assert abs(rgb.astype(int) - scene()).mean() < 3
    assert conversions == ()


def test_grayscale_becomes_three_equal_channels() -> None:
    for suffix in (".png", ".jpg"):
        rgb, conversions = decode_bytes(encoded(suffix, scene()[:, :, 0].copy()), "a")
        assert conversions == ("grayscale",)
        assert np.array_equal(rgb[:, :, 0], rgb[:, :, 2])
        assert abs(rgb[:, :, 1].astype(int) - scene()[:, :, 0]).max() < 30


def test_transparency_lies_over_white() -> None:
    bgra = np.dstack([scene()[:, :, ::-1], np.full((64, 48, 1), 255, np.uint8)])
    bgra[:8, :, 3] = 0
    bgra[8:16, :, 3] = 51
    rgb, conversions = decode_bytes(encoded(".png", bgra), "a")
    assert conversions == ("transparent",)
    assert np.all(rgb[:8] == 255)
    assert rgb[10, 0].tolist() == [round(0.2 * value + 0.8 * 255) for value in scene()[10, 0]]
    assert np.array_equal(rgb[16:], scene()[16:])


def test_sixteen_bit_is_scaled_not_cut() -> None:
    rgb, conversions = decode_bytes(encoded(".png", scene()[:, :, ::-1].astype(np.uint16) * 257), "a")
    assert conversions == ("16-bit",)
    assert np.array_equal(rgb, scene())
    grey, conversions = decode_bytes(encoded(".png", np.full((9, 9), 40000, np.uint16)), "a")
    assert conversions == ("16-bit", "grayscale")
    assert grey[0, 0].tolist() == [round(40000 / 65535 * 255)] * 3


@pytest.mark.parametrize("kind", ["transparent", "16-bit", "both", "grey"])
def test_strips_of_a_large_photo_are_converted_as_the_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 2**16, (64, 48, 4), np.uint16)
    shown = {"transparent": (pixels >> 8).astype(np.uint8), "16-bit": pixels[:, :, :3], "grey": pixels[:, :, 0]}
    data = encoded(".png", shown.get(kind, pixels))
    whole = decode_bytes(data, "a").rgb
    monkeypatch.setattr(decoding, "STRIP_PX", 500)  # ten rows of 48, so the last strip is shorter
    assert np.array_equal(decode_bytes(data, "a").rgb, whole)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_undone_as_opencv_undoes_it(suffix: str, orientation: int) -> None:
    data = with_exif(suffix, scene(), orientation)
    wanted = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert wanted is not None
    rgb, conversions = decode_bytes(data, "a")
    assert np.array_equal(rgb, wanted[:, :, ::-1])
    assert conversions == (("EXIF-turned",) if orientation > 1 else ())
    assert rgb.shape == ((64, 48, 3) if orientation < 5 else (48, 64, 3))


def test_exif_in_either_byte_order_and_broken() -> None:
    assert exif_orientation(exif(6, ">")) == exif_orientation(b"Exif\0\0" + exif(6)) == 6
    assert exif_orientation(exif(0)) == exif_orientation(exif(9)) == exif_orientation(b"") == 1
    assert exif_orientation(b"II*\0" + b"\xff" * 20) == exif_orientation(exif(6)[:15]) == 1


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_photo_is_refused(suffix: str, share: float) -> None:
    noisy = np.random.default_rng(0).integers(0, 255, (64, 48, 3), dtype=np.uint8)
    data = encoded(suffix, noisy)
    with pytest.raises(
        DataError, match=r"p/mask1 is truncated: its end is missing after [\d,]+ bytes\. Copy the photo again"
    ):
        decode_bytes(data[: int(len(data) * share)], "p/mask1")


def test_truncation_is_seen_behind_a_thumbnail_and_trailing_bytes_are_borne() -> None:
    whole = encoded(".jpg", scene()[:, :, ::-1])
    thumbnail = encoded(".jpg", scene(16, 12)[:, :, ::-1])
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    data = whole[:2] + comment + whole[2:]
    assert decode_bytes(data + b"\0" * 50, "a").rgb.shape == (64, 48, 3)
    with pytest.raises(DataError, match="truncated"):
        decode_bytes(data[:-30], "a")


def test_what_is_no_photo_is_refused(tmp_path: Path) -> None:
    cases = {
        "missing.jpg": (None, "cannot be read: No such file"),
        "empty.jpg": (b"", r"is empty \(0 bytes\)"),
        "text.jpg": (b"this is no photo at all", "is not an image that can be decoded"),
        "dot.png": (encoded(".png", np.zeros((1, 1, 3), np.uint8)), "is 1x1 px: at least 8x8 expected"),
        "float.tiff": (encoded(".tiff", np.ones((20, 20, 3), np.float32)), "holds float32 values: 8 or 16 bits"),
        "torn.jpg": (
            b"\xff\xd8\xff\xe0" + b"\0" * 40 + b"\xff\xd9",
            "is not an image that can be decoded|cannot be decoded",
        ),
    }
    for name, (data, message) in cases.items():
        file = tmp_path / name
        if data is not None:
            file.write_bytes(data)
        with pytest.raises(DataError, match=message) as caught:
            decode(file)
        assert str(file) in str(caught.value)


def test_an_unreadable_file_is_refused(unprivileged: Path) -> None:
    file = unprivileged / "a.jpg"
    file.write_bytes(encoded(".jpg", scene()))
    file.chmod(0)
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        decode(file)


@pytest.mark.parametrize("shape", [(64, 48), (48, 64), (256, 192), (33, 90), (32, 32), (9, 200)])
@pytest.mark.parametrize("size", [16, 32, 97])
def test_geometry_gives_the_middle_square(shape: tuple[int, int], size: int) -> None:
    """The four corners of the scene stay corners, and the middle stays the middle."""
    square = Geometry(size).apply(scene(*shape))
    assert square.shape == (size, size, 3)
    assert square.flags.c_contiguous
    edge = 1 if size < 30 else 4
    assert square[edge, edge].tolist() == pytest.approx(scene()[0, 0].tolist(), abs=40)
    assert square[edge, -1 - edge].tolist() == pytest.approx(scene()[0, -1].tolist(), abs=40)
    assert square[-1 - edge, -1 - edge].tolist() == pytest.approx(scene()[-1, -1].tolist(), abs=40)


def test_geometry_squeezes_nothing() -> None:
    rgb = np.zeros((200, 150, 3), np.uint8)
    cv2.circle(rgb, (75, 100), 40, (255, 255, 255), -1)
    lit = Geometry(75).apply(rgb)[:, :, 0] > 127
    assert lit.any(axis=0).sum() == pytest.approx(40, abs=1)
    assert lit.any(axis=1).sum() == pytest.approx(40, abs=1)


@pytest.mark.parametrize("edges", [(10, 20_000), (20_001, 11), (30, 1234)])
def test_a_thin_photo_is_cut_before_it_is_enlarged(edges: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its middle is that of the photo that was enlarged as a whole, but for the rounding of the resampling."""
    ramp = (np.arange(max(edges)) * 2 % 200).astype(np.uint8)
    rgb = np.broadcast_to(ramp[:, None, None] if edges[0] > edges[1] else ramp[None, :, None], (*edges, 3)).copy()
    largest = []
    resize = cv2.resize

    def noted(pixels: np.ndarray, size: tuple[int, int], **how: int) -> np.ndarray:
        largest.append(size[0] * size[1])
        return resize(pixels, size, **how)

    monkeypatch.setattr(cv2, "resize", noted)
    found = Geometry(64).apply(rgb)
    assert largest[0] <= 3 * 64 * 64
    scale = 64 / min(edges)
    whole = resize(rgb, (round(edges[1] * scale), round(edges[0] * scale)), interpolation=cv2.INTER_CUBIC)
    top, left = (whole.shape[0] - 64) // 2, (whole.shape[1] - 64) // 2
    wanted = whole[top : top + 64, left : left + 64]
    assert abs(found.astype(int) - wanted).mean() < 6


def test_a_square_of_the_right_size_is_untouched() -> None:
    assert np.array_equal(Geometry(48).apply(scene(48, 48)), scene(48, 48))


def test_geometry_round_trips_and_has_a_digest() -> None:
    assert Geometry.from_dict(Geometry(112).to_dict()) == Geometry(112)
    assert Geometry(112).digest == Geometry(112).digest != Geometry(113).digest
    assert len(Geometry(112).digest) == 12
    with pytest.raises(DataError, match=r"This version's geometry is .* but got"):
        Geometry.from_dict({**Geometry(112).to_dict(), "crop": "face"})
    with pytest.raises(CallError, match="`image_size >= 1` must hold, but got 0"):
        Geometry(0)


def test_a_face_crop_is_part_of_the_geometry() -> None:
    """What decides where the crop lies travels with a bundle and keys the pixel store."""
    assert Geometry(112) == Geometry(112, "none")
    kinds = [Geometry(112), Geometry(113, "haar"), *(Geometry(112, name) for name in DETECTORS)]
    assert len({kind.digest for kind in kinds}) == len(kinds) == 4
    for kind in kinds:
        values = json.loads(json.dumps(kind.to_dict()))
        assert Geometry.from_dict(values) == kind == pickle.loads(pickle.dumps(kind))
    assert "face_detector" not in Geometry(112).to_dict()
    with pytest.raises(CallError, match="face_crop is one of none, yunet, haar, but got 'yolo'"):
        Geometry(112, "yolo")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"face_crop": "yolo"},
        {"face_crop": None},
        {"face_crop": "none"},
        {"image_size": "112"},
        {"face_crop": "yunet"},
        {"face_detector": None},
        {"face_detector": {**DETECTORS["haar"].facts, "margin": 0.9}},
        {"more": 1},
    ],
)
def test_another_versions_geometry_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(
        DataError,
        match=r"This version's geometry is .*, an image_size and a face_crop \(none, yunet, haar\) with its "
        r"face_detector \(.*\), but got",
    ):
        Geometry.from_dict({**Geometry(112, "haar").to_dict(), **change})
    old = {key: value for key, value in Geometry(112).to_dict().items() if key != "face_crop"}
    with pytest.raises(DataError, match="This version's geometry is"):
        Geometry.from_dict(old)


@pytest.mark.skipif(not FACES.is_dir(), reason="no real faces beside the repository")
def test_real_faces_decode() -> None:
    people = sorted(FACES.iterdir())[::40]
    files = [file for person in people for file in sorted(person.iterdir()) if not file.name.startswith(".")]
    assert len(files) > 50
    for file in files:
        square = load(file, Geometry(64))
        assert square.shape == (64, 64, 3)
        assert square.std() > 5
