"""`Predictor.predict`: paths, arrays and Pillow's images, mixed, as one table."""

from __future__ import annotations

import dataclasses
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import pytest

from maskcls import PhotoPrediction, Predictor
from maskcls.data.decoding.decode import decode, rgb_of
from maskcls.errors import DataError
from maskcls.labels import encode
from maskcls.models.model import log_probabilities
from maskcls.serving import torch_engine
from maskcls.serving.marginals import PROBABILITY_COLUMNS, marginals
from tests.conftest import ROOT


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
        (7, r"photos\[1\]: A int is no photo: a path, bytes, an array or an image of Pillow expected"),
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


def test_one_photo_of_any_kind_is_a_row_and_several_are_a_list(predictor: Predictor, photo_kinds: list[Path]) -> None:
    file = photo_kinds[4]  # a PNG: all ways of decoding give the same bits
    with PIL.Image.open(file) as image:
        forms = (str(file), file, file.read_bytes(), decode(file).rgb, image)
        alone = [cast("PhotoPrediction", predictor.rows(form)) for form in forms]
        together = predictor.rows(list(forms))
        assert predictor.predict(file.read_bytes())["photo"].tolist() == ["photos[0]"]
    assert [row.photo for row in together] == [str(file), str(file), "photos[2]", "photos[3]", "photos[4]"]
    assert [dataclasses.replace(row, photo="") for row in alone] == [dataclasses.replace(together[0], photo="")] * 5
    row = together[0]
    assert isinstance(row, PhotoPrediction)
    assert row.class_ == np.argmax(row.probabilities)
    assert row.class_name == f"{row.mask}, {row.gender}, {row.age_group}"
    assert row.probability == max(row.probabilities)
    assert row.marginals == marginals(np.array(row.probabilities))


def test_a_row_says_why_its_photo_could_not_be_read(predictor: Predictor, photo_kinds: list[Path]) -> None:
    bad, good = predictor.rows([b"", photo_kinds[0]], skip_bad=True)
    assert bad == PhotoPrediction(
        "photos[0]", error="photos[0]: The photo is empty (0 bytes). Copy the photo again, or leave it out."
    )
    assert (bad.class_name, bad.marginals) == ("", {})
    assert good.error == ""
    with pytest.raises(DataError, match=r"^1 of 1 photos cannot be read; .*\n  nowhere\.jpg cannot be read"):
        predictor.rows("nowhere.jpg")


def test_below_its_limit_a_predictor_says_that_it_is_not_sure(
    predictor: Predictor, random_bundle: Callable[[str], Path], photo_kinds: list[Path]
) -> None:
    plain = predictor.predict(photo_kinds)
    limit = float(plain["probability"].median())
    wary = Predictor(random_bundle("three"), "cpu", abstain=limit)
    table = wary.predict([*photo_kinds, b""], skip_bad=True)
    sure = (plain["probability"] >= limit).tolist()
    assert 0 < sum(sure) < len(sure)
    assert list(table)[:7] == ["photo", "mask", "gender", "age_group", "class", "probability", "sure"]
    assert table["sure"].tolist()[:-1] == sure
    assert table["class"].notna().tolist() == [*sure, False]
    assert table["mask"].notna().tolist() == [*sure, False]
    assert table["probability"].tolist()[:-1] == plain["probability"].tolist()
    for row, is_sure, class_ in zip(wary.rows(photo_kinds), sure, plain["class"], strict=True):
        assert (row.is_sure, row.class_) == ((True, class_) if is_sure else (False, None))
        assert (row.class_name == "not sure", row.mask is None) == (not is_sure, not is_sure)
        assert row.probability == max(row.probabilities)


def test_threads_share_a_predictor_and_the_models_run_one_call_at_a_time(
    random_bundle: Callable[[str], Path], photo_kinds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work, most = 0, 0

    def watched(*arguments: Any, **settings: Any) -> Any:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        time.sleep(0.02)  # so that another thread would come in between
        found = log_probabilities(*arguments, **settings)
        at_work -= 1
        return found

    monkeypatch.setattr(torch_engine, "log_probabilities", watched)
    predictors = [Predictor(random_bundle(name), "cpu") for name in ("three", "single")]
    expected = [each.predict(photo_kinds) for each in predictors]
    most = 0
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: predictors[number % 2].predict(photo_kinds), range(8)))
    assert all(table.equals(expected[number % 2]) for number, table in enumerate(found))
    assert most == 1


def test_the_example_in_the_guide_runs(
    random_bundle: Callable[[str], Path], photo_kinds: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.S)
    (example,) = [block for block in blocks if "predictor.rows" in block]
    shutil.copytree(random_bundle("three"), tmp_path / "runs/first/best")
    for name, photo in (("a.jpg", photo_kinds[0]), ("b.png", photo_kinds[1])):
        shutil.copy(photo, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["row"].photo == "a.jpg"
    assert names["table"]["photo"].tolist() == ["a.jpg", "photos[1]", "photos[2]", "photos[3]"]
    assert len(names["sure"]) <= 4
