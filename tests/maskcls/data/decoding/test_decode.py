"""Files as phones, downloads and disks leave them: read right, or refused by one message that names the file."""

from __future__ import annotations

import io
import re
import struct
import warnings
from pathlib import Path
from typing import Any
from zlib import crc32

import cv2
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcls.data.decoding import jpeg
from maskcls.data.decoding.decode import check_bytes, decode, decode_bytes
from maskcls.data.decoding.kinds import header_size, is_photo, kind_of
from maskcls.errors import CallError, DataError
from maskcls.stores.photo_limits import MAX_ASPECT, MAX_MEGAPIXELS

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


def blobs(height: int = 128, width: int = 96, seed: int = 0) -> np.ndarray:
    """RGB with soft patches, like a photo."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 6, 3), np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def saved(kind: str, rgb: np.ndarray | None = None, **options: Any) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(blobs() if rgb is None else rgb).save(stream, kind, **options)
    return stream.getvalue()


def png_part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc32(name + content))


JPEG, PNG = saved("JPEG", quality=90), saved("PNG")


@pytest.fixture
def silent(capfd):
    """Nothing was written past Python either, and no warning was given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpegs_pixels_are_opencvs_to_the_bit(options: dict[str, Any]) -> None:
    """So stores and bundles that were made with its decoder see what they saw."""
    for rgb in (blobs(), blobs(65, 33, 1)):
        data = saved("JPEG", rgb, **options)
        wanted = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
        assert np.array_equal(decode_bytes(data, "a").rgb, wanted[:, :, ::-1])
    cmyk = io.BytesIO()
    PIL.Image.fromarray(blobs()).convert("CMYK").save(cmyk, "JPEG")
    wanted = np.asarray(cv2.imdecode(np.frombuffer(cmyk.getvalue(), np.uint8), cv2.IMREAD_UNCHANGED))
    assert np.array_equal(decode_bytes(cmyk.getvalue(), "a").rgb, wanted[:, :, ::-1])


@pytest.mark.parametrize(("factors", "height"), [(0x31, 176), (0x42, 200)])
def test_colours_that_are_sampled_in_an_unusual_way_are_read_as_opencv_reads_them(factors: int, height: int) -> None:
    data = bytearray(saved("JPEG", subsampling=0))
    frame = data.index(b"\xff\xc0")
    data[frame + 11] = factors  # of the first component, horizontally and vertically
    data[frame + 5 : frame + 7] = struct.pack(">H", height)  # as many rows as the scan then has
    wanted = np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    assert np.array_equal(decode_bytes(bytes(data), "a").rgb, wanted[:, :, ::-1])


def test_damage_in_colours_that_are_sampled_in_an_unusual_way_is_refused_by_name(silent: None) -> None:
    """OpenCV decodes them, and says what is wrong to stderr alone, without the file's name."""
    data = bytearray(saved("JPEG", quality=90, subsampling=0))
    data[data.index(b"\xff\xc0") + 11] = 0x31
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    with pytest.raises(DataError, match=r"^p/mask1 is damaged: .*\. Copy the photo again, or leave it out\.$"):
        decode_bytes(bytes(data), "p/mask1")


@pytest.mark.parametrize("behind", [b"\xff\xda", b"\xff\xd8\xff" + JPEG[3:-2], bytes(9), b"ftypmp42\xff\xd9\xff\xda"])
def test_bytes_behind_the_end_of_a_jpeg_are_fine(silent: None, behind: bytes) -> None:
    """As the film of a motion photo."""
    assert np.array_equal(decode_bytes(JPEG + behind, "a").rgb, decode_bytes(JPEG, "a").rgb)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("behind", [b"", JPEG])
def test_a_jpeg_that_breaks_off_is_truncated_whatever_follows(share: float, behind: bytes) -> None:
    thumbnail = saved("JPEG", blobs(32, 24))
    comment = b"\xff\xfe" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    cut = (JPEG[:2] + comment + JPEG[2:])[: int((len(JPEG) + len(comment)) * share)]
    with pytest.raises(DataError, match="^p/mask1 is (truncated|damaged|not an image that can be decoded)"):
        decode_bytes(cut + behind, "p/mask1")
    if not behind:
        assert not jpeg.layout(cut).is_whole


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_damage_inside_a_scan_is_refused_by_name(silent: None, options: dict[str, Any]) -> None:
    data = saved("JPEG", quality=90, **options)
    half = len(data) // 2
    with pytest.raises(DataError, match=r"^p/mask1 is damaged: .*\. Copy the photo again, or leave it out\.$"):
        decode_bytes(data[:half] + bytes(len(data) - half - 2) + data[-2:], "p/mask1")


def test_what_decoders_complain_about_and_no_pixel_depends_on_is_read_in_silence(silent: None) -> None:
    surplus = JPEG[:-2] + bytes(5) + JPEG[-2:]
    assert np.array_equal(decode_bytes(surplus, "a").rgb, decode_bytes(JPEG, "a").rgb)
    profile = PNG[:33] + png_part(b"iCCP", b"bad\0\0no profile") + png_part(b"tEXt", b"a\0b") + PNG[33:]
    assert np.array_equal(decode_bytes(profile, "a").rgb, blobs())


def test_a_png_is_checked_by_its_sums(silent: None) -> None:
    place = PNG.index(b"IDAT") + 40
    spoilt = PNG[:place] + bytes([PNG[place] ^ 1]) + PNG[place + 1 :]
    with pytest.raises(DataError, match="^a is damaged: the checksum of its part IDAT at byte .* is wrong"):
        decode_bytes(spoilt, "a")
    with pytest.raises(DataError, match="^a is damaged: it has no pixels"):
        decode_bytes(PNG[:33] + PNG[-12:], "a")


@pytest.mark.parametrize("kind", ["AVIF", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000"])
def test_what_opencv_or_pillow_reads_is_read(silent: None, kind: str) -> None:
    data = saved(kind)
    found = kind_of(data[:64])
    assert found
    assert header_size(data, found) == (96, 128)
    assert abs(decode_bytes(data, "a").rgb.astype(int) - blobs()).mean() < 10
    with pytest.raises(DataError, match="^a (is not an image that can|cannot) be decoded"):
        decode_bytes(data[: len(data) // 3], "a")


def test_of_an_animation_the_first_frame_is_taken_also_where_it_breaks_off_later(silent: None) -> None:
    frames = [PIL.Image.fromarray(blobs(seed=seed)) for seed in range(3)]
    stream = io.BytesIO()
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    data = stream.getvalue()
    for content in (data, data[: int(len(data) * 0.8)]):
        assert abs(decode_bytes(content, "a").rgb.astype(int) - blobs()).mean() < 10


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("mask5.HEIC", HEIC, "is a HEIC photo"),
        ("mask5.jpg", HEIC, "is a HEIC photo"),
        ("a.dng", b"II*\0" + bytes(100), "is a camera's raw photo"),
        ("a.jxl", b"\xff\x0a" + bytes(100), "is a JPEG XL photo"),
    ],
)
def test_a_photo_of_a_kind_that_is_not_read_is_named_by_its_kind(name: str, content: bytes, kind: str) -> None:
    message = rf"^p/{re.escape(name)} {kind}.*, which is not read here\. Save it as JPEG"
    with pytest.raises(DataError, match=message):
        decode_bytes(content, f"p/{name}")


def test_a_photo_is_known_by_its_suffix_or_by_what_it_holds(tmp_path: Path) -> None:
    contents = {"a.jfif": b"", "b.HEIC": b"", "c": JPEG, "d.jpg_large": PNG, "e.txt": b"BMW is a car", "f.mp4": b""}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    assert [name for name in contents if is_photo(tmp_path / name)] == ["a.jfif", "b.HEIC", "c", "d.jpg_large"]
    assert not is_photo(tmp_path)


# Sizes


def huge_png(width: int, height: int) -> bytes:
    """A header that promises so many pixels, and few bytes."""
    return (
        PNG[:8]
        + png_part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + png_part(b"IDAT", b"x")
        + PNG[-12:]
    )


def huge_jpeg(width: int, height: int) -> bytes:
    place = JPEG.index(b"\xff\xc0")
    return JPEG[: place + 5] + struct.pack(">HH", height, width) + JPEG[place + 9 :]


@pytest.mark.parametrize("make", [huge_png, huge_jpeg])
def test_size_and_aspect_are_refused_by_the_header(monkeypatch: pytest.MonkeyPatch, make) -> None:
    with pytest.raises(DataError, match=r"^a is 30000x30000 px, 900 megapixels: at most 128 expected\. .*max-megapix"):
        decode_bytes(make(30_000, 30_000), "a")
    with pytest.raises(DataError, match=r"^a is 10x20000 px, 2,000 times as long as wide: at most 20 .*--max-aspect"):
        decode_bytes(make(10, 20_000), "a")
    thin = saved("PNG", blobs(400, 10))
    with pytest.raises(DataError, match="40 times as long as wide"):
        decode_bytes(thin, "a")
    monkeypatch.setenv(MAX_ASPECT, "40")
    assert decode_bytes(thin, "a").rgb.shape == (400, 10, 3)
    monkeypatch.setenv(MAX_MEGAPIXELS, "0.003")
    with pytest.raises(DataError, match=r"0 megapixels: at most 0\.003 expected"):
        decode_bytes(thin, "a")
    monkeypatch.setenv(MAX_MEGAPIXELS, "many")
    with pytest.raises(CallError, match="MASKCLS_MAX_MEGAPIXELS is 'many'. Expected a number"):
        decode_bytes(thin, "a")


# Any file


CUT_OR_FLIPPED = given(
    of=st.sampled_from(("JPEG", "progressive", "PNG")),
    cut=st.none() | st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=3),
    behind=st.sampled_from((b"", b"\xff\xda", b"\xff\xd9", JPEG, bytes(30))),
)


def any_cut_or_flipped_file(of: str, cut: float | None, flips: list[tuple[float, int]], behind: bytes) -> None:
    data = bytearray(ANY[of])
    for share, value in flips:
        data[int(share * len(data))] = value
    if cut is not None:
        del data[int(cut * len(data)) :]
    changed = bytes(data) != ANY[of]
    content = bytes(data) + behind
    try:
        found = decode_bytes(content, "p/mask1")
    except DataError as error:
        assert str(error).startswith("p/mask1 ")  # noqa: PT017 - a right reading is as good
        assert changed
        with pytest.raises(DataError, match=f"^{re.escape(str(error))}$"):
            check_bytes(content, "p/mask1")
    else:
        assert check_bytes(content, "p/mask1") == found.conversions
        assert found.rgb.dtype == np.uint8
        assert changed or np.array_equal(found.rgb, decode_bytes(ANY[of], "a").rgb)
        assert cut is None or flips or not changed or cut * len(ANY[of]) >= len(ANY[of]) - 12 or behind, "cut"


test_any_cut_or_flipped_file_is_read_or_refused_by_name = settings(max_examples=80)(
    CUT_OR_FLIPPED(any_cut_or_flipped_file)
)
test_many_cut_or_flipped_files = pytest.mark.soak(
    settings(max_examples=20_000)(CUT_OR_FLIPPED(any_cut_or_flipped_file))
)


ANY = {"JPEG": JPEG, "progressive": saved("JPEG", progressive=True), "PNG": saved("PNG", blobs(24, 18))}


@settings(max_examples=100)
@given(
    st.binary(max_size=80),
    st.sampled_from(
        (
            b"",
            *(data[:30] for data in (JPEG, PNG)),
            b"RIFF....WEBP",
            b"GIF89a",
            b"BM",
            b"II*\0",
            HEIC[:24],
            b"\0\0\0\x1cftypavif",
            b"8BPS",
        )
    ),
)
def test_any_bytes_are_refused_or_a_photo(content: bytes, start: bytes) -> None:
    try:
        assert decode_bytes(start + content, "p/mask1").rgb.ndim == 3
    except DataError as error:
        assert "p/mask1 " in str(error)  # noqa: PT017


def test_of_damaged_files_nothing_reaches_the_terminal(silent: None) -> None:
    generator = np.random.default_rng(0)
    for data in (*ANY.values(), saved("WEBP"), saved("TIFF", compression="tiff_lzw"), saved("GIF"), saved("AVIF")):
        for _ in range(25):
            spoilt = bytearray(data)
            for place in generator.integers(0, len(data), 3):
                spoilt[place] = generator.integers(256)
            try:
                decode_bytes(bytes(spoilt[: generator.integers(len(data) // 2, len(data) + 1)]), "a")
                decode_bytes(bytes(spoilt), "a")
            except DataError:
                continue


def test_a_folder_is_no_photo(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory. It is a folder: name a file."):
        decode(tmp_path)
