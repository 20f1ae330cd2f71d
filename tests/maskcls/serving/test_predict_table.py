"""`Predictor.predict`: paths, arrays and Pillow's images, mixed, as one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from maskcls import Predictor
from maskcls.data.decoding.decode import decode, rgb_of
from maskcls.errors import CallError, DataError
from maskcls.labels import encode
from maskcls.serving.submission import PROBABILITY_COLUMNS


@pytest.fixture(scope="module")
def predictor(random_bundle: Callable[[str], Path]) -> Predictor:
    return Predictor(str(random_bundle("three")), "cpu")


def test_one_row_per_photo_in_their_order(predictor: Predictor, photo_kinds: list[Path]) -> None:
    plain, turned = photo_kinds[0], photo_kinds[3]
    with PIL.Image.open(turned) as image:
        found = predictor.predict([turned, str(plain), decode(plain).rgb, image])
    assert list(found) == [
        *("photo", "mask", "gender", "age_group", "class", "probability"),
        *PROBABILITY_COLUMNS,
    ]
    assert found["photo"].tolist() == [str(turned), str(plain), "photos[2]", "photos[3]"]
    probabilities = found[list(PROBABILITY_COLUMNS)].to_numpy()
    assert np.array_equal(probabilities[:2], predictor.probabilities([turned, plain]))
    assert np.array_equal(probabilities[1], probabilities[2])
    assert found["class"].dtype == np.int64
    assert found["class"].tolist() == probabilities.argmax(axis=1).tolist()
    assert np.array_equal(found["probability"], probabilities.max(axis=1))
    masks, genders, ages = ("worn", "incorrect", "not worn"), ("male", "female"), ("under 30", "30 to 59", "over 59")
    words = zip(found["mask"], found["gender"], found["age_group"], strict=True)
    assert [encode(masks.index(m), genders.index(g), ages.index(a)) for m, g, a in words] == found["class"].tolist()


def test_pillows_images_are_converted_as_files_are(photo_kinds: list[Path]) -> None:
    """JPEG decoders differ in the last bits; other formats give the same to the bit."""
    for file in photo_kinds:
        with PIL.Image.open(file) as image:
            found, wanted = rgb_of(image), decode(file).rgb
        assert found.shape == wanted.shape, "turned as the EXIF block says"
        difference = np.abs(found.astype(int) - wanted)
        assert difference.mean() < (1.0 if file.suffix == ".jpg" else 0.01), file.name


@pytest.mark.parametrize("mode", ["1", "P", "LA", "CMYK", "YCbCr"])
def test_an_image_of_another_mode_is_a_photo_too(mode: str, photo_kinds: list[Path]) -> None:
    with PIL.Image.open(photo_kinds[0]) as image:
        found = rgb_of(image.convert(mode))
    assert found.dtype == np.uint8
    assert found.shape == (128, 96, 3)


def test_no_photos_make_an_empty_table(predictor: Predictor) -> None:
    assert predictor.predict([]).shape == (0, 6 + 18)


def test_a_stack_of_arrays_is_a_list_of_photos(predictor: Predictor) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (3, 40, 30, 3), np.uint8)
    assert predictor.predict(stack)["photo"].tolist() == ["photos[0]", "photos[1]", "photos[2]"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("missing.jpg", r"missing\.jpg cannot be read: No such file"),
        (np.zeros((40, 30, 3)), r"photos\[1\]: An array of float64 \(40, 30, 3\) is no photo: uint8 RGB"),
        (np.zeros((40, 30), np.uint8), r"photos\[1\]: An array of uint8 \(40, 30\) is no photo"),
        (np.zeros((4, 30, 3), np.uint8), r"photos\[1\]: The array is 30x4 px: at least 8x8 expected"),
        (PIL.Image.new("F", (30, 30)), r"photos\[1\]: The image holds float32 values"),
        (PIL.Image.new("RGB", (2, 30)), r"photos\[1\]: The image is 2x30 px"),
        (7, r"photos\[1\]: A int is no photo: a path, an array or an image of Pillow expected"),
    ],
)
def test_what_cannot_be_read_is_one_error_or_a_row(
    bad: Any, message: str, predictor: Predictor, photo_kinds: list[Path]
) -> None:
    photos = [photo_kinds[0], bad, photo_kinds[1]]
    with pytest.raises(DataError, match=rf"^1 of 3 photos cannot be read; .*skip_bad=True\.\n  .*{message}"):
        predictor.predict(photos)
    found = predictor.predict(photos, skip_bad=True)
    assert found["error"].str.contains(message).tolist() == [False, True, False]
    assert found.drop(columns=["photo", "error"]).isna().all(axis=1).tolist() == [False, True, False]
    alone = predictor.predict([photo_kinds[0], photo_kinds[1]])
    assert found["class"].dropna().tolist() == alone["class"].tolist()
    assert np.array_equal(found[PROBABILITY_COLUMNS[0]].dropna(), alone[PROBABILITY_COLUMNS[0]])


def test_a_truncated_file_of_pillow_is_named(predictor: Predictor, photo_kinds: list[Path], tmp_path: Path) -> None:
    (tmp_path / "half.jpg").write_bytes(photo_kinds[5].read_bytes()[:5000])
    with PIL.Image.open(tmp_path / "half.jpg") as image, pytest.raises(DataError, match=r"photos\[0\]: .*truncated"):
        predictor.predict([image])


def test_a_single_photo_is_refused_with_what_to_type(predictor: Predictor, photo_kinds: list[Path]) -> None:
    with pytest.raises(CallError, match=r"^predict expects a list of photos, but got one: predict\(\['a\.jpg'\]\)\.$"):
        predictor.predict("a.jpg")
    for photo in (photo_kinds[0], decode(photo_kinds[0]).rgb, PIL.Image.new("RGB", (30, 30))):
        with pytest.raises(CallError, match=r"^predict expects a list of photos, but got one"):
            predictor.predict(photo)  # type: ignore[arg-type]
