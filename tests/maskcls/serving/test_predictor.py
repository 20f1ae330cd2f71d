from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from starlette.testclient import TestClient

from maskcls.data import pixels
from maskcls.data.dataset import FaceDataset
from maskcls.data.decoding import decode as decoding
from maskcls.data.decoding.decode import Photo, decode
from maskcls.data.demo.folder import MIN_PERSONS
from maskcls.data.faces.detectors import DETECTORS
from maskcls.data.geometry import FACE_CROPS, Geometry
from maskcls.data.splits import Split
from maskcls.errors import CallError, DataError, RunError
from maskcls.models.model import log_probabilities
from maskcls.recipe import Recipe
from maskcls.serving.evaluation import evaluate
from maskcls.serving.predictor import Predictor, probabilities_of
from maskcls.serving.web.access import Access
from maskcls.serving.web.app import build_app
from maskcls.serving.web.limits import Limits
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.metrics import scores
from tests.conftest import DemoFaces, Ensemble

RandomBundle = Callable[[str], Path]


@pytest.fixture(scope="module")
def drawn_faces(demo_faces: DemoFaces) -> list[Path]:
    return sorted(demo_faces(MIN_PERSONS, 0).glob("train/images/*/normal.*"))


def cut_to_faces(bundle: Path, folder: Path, face_crop: str = "haar") -> Predictor:
    """The same classifier, as a bundle whose geometry has a face crop."""
    manifest = json.loads((shutil.copytree(bundle, folder) / "bundle.json").read_text())
    (classifier,) = manifest["classifiers"]
    classifier["preprocessing"]["geometry"] = Geometry(64, face_crop).to_dict()
    recipe = Recipe.model_validate({**classifier["recipe"], "face_crop": face_crop})
    classifier |= {"recipe": recipe.model_dump(mode="json"), "recipe_digest": recipe.digest}
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return Predictor(folder, "cpu")


@pytest.fixture(scope="module")
def predictor(random_bundle: RandomBundle) -> Predictor:
    return Predictor(random_bundle("three"), "cpu")


class Spy:
    """Stands before a member and keeps what reaches it: the normalised tensor, as its backbone gets it."""

    def __init__(self, predictor: Predictor) -> None:
        self.seen: list[np.ndarray] = []
        self.hook = predictor.bundle.classifiers[0].models[0].backbone.register_forward_pre_hook(self._keep)

    def _keep(self, _: object, inputs: tuple) -> None:
        self.seen.append(inputs[0].cpu().numpy().copy())

    def take(self, n: int) -> np.ndarray:
        seen, self.seen = np.concatenate(self.seen), []
        return seen[:n]


def webcam_frame(file: Path) -> Path:
    """What the page sends of a camera: its canvas as a PNG with an alpha channel that is full everywhere."""
    frame = np.random.default_rng(1).integers(0, 256, (480, 640, 4), np.uint8)
    frame[:, :, 3] = 255
    file.write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    return file


def served(predictor: Predictor, files: list[str], spy: Spy) -> np.ndarray:
    """The tensors of photos that are sent to the service: all in one form, then each alone, as the page sends them."""
    app = build_app(predictor, Limits(photos=len(files)), Access("127.0.0.1"))
    form = [("file", ("photo", Path(file).read_bytes())) for file in files]
    with TestClient(app, base_url="http://127.0.0.1") as client:
        spy.seen.clear()  # of the service's own check
        for sent in (form, *([one] for one in form)):
            assert client.post("/v1/predict", files=sent).status_code == 200
    seen = spy.take(2 * len(files))
    assert np.array_equal(seen[: len(files)], seen[len(files) :])
    return seen[: len(files)]


@pytest.mark.parametrize("face_crop", FACE_CROPS)
def test_a_photo_of_each_kind_is_one_tensor_in_validation_predict_evaluate_and_serve(
    random_bundle: RandomBundle, face_crop: str, photo_kinds: list[Path], drawn_faces: list[Path], tmp_path: Path
) -> None:
    if face_crop != "none" and DETECTORS[face_crop].why_not():
        pytest.skip(DETECTORS[face_crop].why_not())
    bundle = random_bundle("three")
    predictor = Predictor(bundle, "cpu") if face_crop == "none" else cut_to_faces(bundle, tmp_path / "cut", face_crop)
    files = [str(file) for file in [*photo_kinds, *drawn_faces, webcam_frame(tmp_path / "frame.png")]]
    n, spy = len(files), Spy(predictor)
    store, _ = pixels.open_or_build(files, files, Geometry(64, face_crop), tmp_path / "cache", 1.0)

    (classifier,) = predictor.bundle.classifiers
    validated = log_probabilities(classifier.models, classifier.task_split, store, np.arange(n))
    in_validation = spy.take(n)
    predicted = predictor.probabilities(files)
    in_predict = spy.take(n)
    labels = np.arange(n)
    evaluation = evaluate(predictor, pd.DataFrame({"file": files, "label": labels}))
    in_evaluate = spy.take(n)
    in_service = served(predictor, files, spy)
    spy.hook.remove()

    assert in_validation.shape == (n, 3, 64, 64)
    assert np.array_equal(in_validation, in_predict)
    assert np.array_equal(in_validation, in_evaluate)
    assert np.array_equal(in_validation, in_service)
    assert len({tensor.tobytes() for tensor in in_validation}) == n  # the kinds are different photos indeed
    assert np.array_equal(np.stack([predictor.crops(file)[classifier.geometry].pixels for file in files]), store)
    assert np.array_equal(predicted, np.exp(validated))
    assert evaluation.everyone.to_dict() == scores(labels, validated).to_dict()


def test_on_a_gpu_prediction_multiplies_as_validation_does(predictor: Predictor, drawn_faces: list[Path]) -> None:
    """Both are `log_probabilities`, which rounds to TF32 while a model runs, and not after it."""
    used = []
    backbone = predictor.bundle.classifiers[0].models[0].backbone
    hook = backbone.register_forward_pre_hook(lambda _, inputs: used.append(torch.backends.cuda.matmul.fp32_precision))
    before = torch.backends.cuda.matmul.fp32_precision
    predictor.probabilities(drawn_faces[:2])
    hook.remove()
    assert used == ["tf32"]
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_faces_that_are_not_found_are_reported_when_predicting(
    random_bundle: RandomBundle,
    photo_kinds: list[Path],
    drawn_faces: list[Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    predictor = cut_to_faces(random_bundle("single"), tmp_path / "haar")
    photos = [*photo_kinds, *drawn_faces, tmp_path / "missing.jpg"]
    missed = sum(Geometry(64, "haar").crop(decode(file).rgb).face_missed for file in photos[:-1])
    assert 1 <= missed <= len(photo_kinds)
    with caplog.at_level("INFO", "maskcls"):
        predictor.predictions(photos, skip_bad=True)
        assert caplog.messages == [
            f"No face was found in {missed} of {len(photos) - 1} photos; they keep the plain crop."
        ]
        caplog.clear()
        Predictor(random_bundle("single"), "cpu").probabilities(photos[:-1])
    assert caplog.messages == []


def test_a_bundle_that_cuts_photos_to_the_face_counts_faces(
    random_bundle: RandomBundle, drawn_faces: list[Path], tmp_path: Path
) -> None:
    face = decode(next(file for file in drawn_faces if Geometry(64, "haar").crop(decode(file).rgb).faces)).rgb
    arrays = [face, np.full_like(face, 128), np.hstack([face, face])]
    photos: list[Photo] = [*arrays, tmp_path / "missing.jpg"]
    predictor = cut_to_faces(random_bundle("single"), tmp_path / "haar")
    counts = [DETECTORS["haar"].find(rgb).number for rgb in arrays]
    assert counts[:2] == [1, 0]
    assert [row.faces for row in predictor.rows(photos, skip_bad=True)] == [*counts, None]
    table = predictor.predict(photos, skip_bad=True)
    assert table["faces"].tolist() == [*counts, pd.NA]
    plain = Predictor(random_bundle("single"), "cpu")
    assert "faces" not in plain.predict(photos[:1])
    assert [row.faces for row in plain.rows(arrays)] == [None] * 3


def test_an_array_counts_as_the_photo_it_was_decoded_from(predictor: Predictor, photo_kinds: list[Path]) -> None:
    arrays = [decode(file).rgb for file in photo_kinds]
    assert np.array_equal(predictor.probabilities(arrays), predictor.probabilities(photo_kinds))


def test_an_answer_does_not_depend_on_neighbours_or_order(predictor: Predictor, photo_kinds: list[Path]) -> None:
    alone = np.concatenate([predictor.probabilities([file]) for file in photo_kinds])
    assert np.allclose(alone.sum(axis=1), 1)
    assert len(np.unique(alone, axis=0)) == len(photo_kinds)
    many = (photo_kinds * 20)[:131]  # three blocks, the last one partly filled
    together = predictor.probabilities(many[::-1])[::-1]
    assert np.array_equal(together, np.tile(alone, (20, 1))[:131])


def test_all_bad_photos_are_named_in_one_message(predictor: Predictor, photo_kinds: list[Path], tmp_path: Path) -> None:
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.png"
    empty.touch()
    text.write_text("no image")
    photos = [empty, *photo_kinds * 10, text]
    with pytest.raises(
        DataError, match=r"^2 of 72 photos cannot be read; nothing was written\. Mend them, or use --skip-bad\."
    ) as caught:
        predictor.probabilities(photos)
    assert f"{empty} is empty (0 bytes)" in str(caught.value)
    assert f"{text} is not an image that can be decoded" in str(caught.value)


def test_an_array_without_colours_is_one_photo(predictor: Predictor) -> None:
    with pytest.raises(DataError, match=r"^1 of 1 photos cannot be read"):
        predictor.predict(np.zeros((40, 30), np.uint8))


def test_a_long_list_of_bad_photos_is_cut(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"and 5 more\.$"):
        predictor.probabilities([tmp_path / f"{i}.jpg" for i in range(25)])


def test_skipped_photos_have_equal_probabilities_and_leave_the_others_as_they_are(
    predictor: Predictor, photo_kinds: list[Path], tmp_path: Path
) -> None:
    predictions = predictor.predictions([photo_kinds[0], tmp_path / "missing.jpg", photo_kinds[1]], skip_bad=True)
    assert list(predictions.bad) == [1]
    assert "missing.jpg cannot be read" in predictions.bad[1]
    assert np.all(predictions.probabilities[1] == 1 / 18)
    assert np.array_equal(predictions.probabilities[[0, 2]], predictor.probabilities(photo_kinds[:2]))


def test_no_photos_have_no_answers(predictor: Predictor) -> None:
    assert predictor.probabilities([]).shape == (0, 18)


def test_a_device_that_is_not_there_is_a_wrong_call(random_bundle: RandomBundle) -> None:
    with pytest.raises(CallError, match="--device abacus cannot be used"):
        Predictor(random_bundle("single"), "abacus")


class TestEvaluate:
    @pytest.fixture
    def photos(self, photo_kinds: list[Path]) -> pd.DataFrame:
        return pd.DataFrame({"file": [str(file) for file in photo_kinds], "label": range(7)})

    def test_people_whom_the_bundle_trained_on_are_counted_and_the_others_scored(
        self, predictor: Predictor, photos: pd.DataFrame
    ) -> None:
        photos["person"] = ["000001_male_Asian_25"] * 3 + ["new"] * 4
        evaluation = evaluate(predictor, photos)
        assert (evaluation.people, evaluation.seen) == (2, 1)
        expected = scores(np.arange(3, 7), predictor.probabilities(photos["file"].tolist()[3:]))
        assert evaluation.others is not None
        assert evaluation.others.to_dict() == expected.to_dict()

    def test_when_all_are_known_there_is_no_other_score(self, predictor: Predictor, photos: pd.DataFrame) -> None:
        assert evaluate(predictor, photos.assign(person="000001_male_Asian_25")).others is None
        assert evaluate(predictor, photos.assign(person="new")).others is None

    def test_photos_that_cannot_be_read_are_left_out_when_reported(
        self, predictor: Predictor, photos: pd.DataFrame, tmp_path: Path
    ) -> None:
        flat = tmp_path / "flat.png"
        flat.write_bytes(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes())
        photos.loc[0, "file"] = str(flat)
        with pytest.raises(DataError, match=r"flat\.png is 1x1 px"):
            evaluate(predictor, photos)
        evaluation = evaluate(predictor, photos, skip_bad=True)
        assert (evaluation.everyone.n, evaluation.unreadable, evaluation.counts[0]) == (6, 1, 0)
        with pytest.raises(DataError, match=r"None of the 1 photos can be read"):
            evaluate(predictor, photos[:1], skip_bad=True)


def test_the_mirrored_answer_is_the_mean_over_a_photo_and_its_mirror_image(random_bundle: RandomBundle) -> None:
    photos = list(np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8))
    mirrored = [photo[:, ::-1] for photo in photos]
    plain, both = Predictor(random_bundle("single"), "cpu"), Predictor(random_bundle("single"), "cpu", flip=True)
    expected = (plain.probabilities(photos) + plain.probabilities(mirrored)) / 2
    np.testing.assert_allclose(both.probabilities(photos), expected, rtol=1e-5)
    np.testing.assert_allclose(both.probabilities(mirrored), expected, rtol=1e-5)
    assert not np.allclose(plain.probabilities(photos), expected, rtol=1e-2)
    np.testing.assert_allclose(both.at_once([both.crops(photos[0])])[0], expected[0], rtol=1e-3)
    assert both.probabilities(photos).sum(1) == pytest.approx(1)


def weighted_mean(ensemble: Ensemble, answers_of: Callable[[Path], np.ndarray]) -> np.ndarray:
    return np.sum(
        [weight * answers_of(folder) for weight, folder in zip(ensemble.weights, ensemble.alone, strict=True)], 0
    )


class TestEnsemble:
    @pytest.mark.slow
    def test_its_answer_is_the_weighted_mean_of_its_classifiers_probabilities(
        self, random_ensemble: Ensemble, photo_kinds: list[Path]
    ) -> None:
        for flip in (False, True):
            together = Predictor(random_ensemble.folder, "cpu", flip=flip)
            expected = weighted_mean(
                random_ensemble,
                lambda folder: Predictor(folder, "cpu", flip=flip).probabilities(photo_kinds),  # noqa: B023
            )
            found = together.probabilities(photo_kinds)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            assert found.sum(axis=1) == pytest.approx(1)
            at_once = together.at_once([together.crops(file) for file in photo_kinds])
            np.testing.assert_allclose(at_once, expected, rtol=1e-3, atol=1e-6)
        assert together.geometries == (Geometry(64), Geometry(96))

    def test_a_photo_is_decoded_once_and_cropped_once_for_each_geometry(
        self, random_ensemble: Ensemble, photo_kinds: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        predictor = Predictor(random_ensemble.folder, "cpu")
        decoded: list[Path] = []
        cropped: list[int] = []
        decode_, crop = decoding.decode, Geometry.crop

        def counted_decode(file: Path) -> object:
            decoded.append(file)
            return decode_(file)

        def counted_crop(self: Geometry, rgb: np.ndarray) -> object:
            cropped.append(self.image_size)
            return crop(self, rgb)

        monkeypatch.setattr(decoding, "decode", counted_decode)
        monkeypatch.setattr(Geometry, "crop", counted_crop)
        predictor.probabilities(photo_kinds)
        assert sorted(decoded) == sorted(photo_kinds)
        assert sorted(cropped) == [64] * len(photo_kinds) + [96] * len(photo_kinds)

    def test_unreadable_photos_are_skipped_and_the_people_it_saw_known(
        self, random_ensemble: Ensemble, photo_kinds: list[Path], tmp_path: Path
    ) -> None:
        predictor = Predictor(random_ensemble.folder, "cpu")
        predictions = predictor.predictions([tmp_path / "missing.jpg", *photo_kinds], skip_bad=True)
        assert list(predictions.bad) == [0]
        assert np.array_equal(predictions.probabilities[1:], predictor.probabilities(photo_kinds))
        photos = pd.DataFrame({"file": [str(file) for file in photo_kinds], "label": range(7)})
        evaluation = evaluate(predictor, photos.assign(person=["000001_male_Asian_25"] * 3 + ["new"] * 4))
        assert (evaluation.people, evaluation.seen) == (2, 1)
        assert evaluation.everyone.to_dict() == scores(np.arange(7), predictor.probabilities(photo_kinds)).to_dict()


@pytest.mark.parametrize("kind", ["single", "ensemble"])
def test_rows_of_the_photo_table_are_answered_as_their_files_are(
    kind: str, random_bundle: RandomBundle, random_ensemble: Ensemble, photo_kinds: list[Path], tmp_path: Path
) -> None:
    folder = random_bundle("three") if kind == "single" else random_ensemble.folder
    files = [str(file) for file in photo_kinds]
    faces = FaceDataset(
        pd.DataFrame({"file": files, "key": files}), Split((), (), ()), CacheOptions(tmp_path / "cache", 1.0)
    )
    rows = np.array([5, 0, 3])
    found = probabilities_of(folder, faces, rows, "cpu")
    assert np.array_equal(found, Predictor(folder, "cpu").probabilities([photo_kinds[row] for row in rows]))


@pytest.mark.parametrize("name", ["three", "advised"])
def test_weights_that_are_not_finite_predict_nobody(random_bundle: RandomBundle, name: str) -> None:
    """The likeliest class of numbers that are none would be the first one, for everybody."""
    broken = Predictor(random_bundle(name), "cpu")
    with torch.no_grad():
        next(broken.bundle.classifiers[0].models[0].parameters()).fill_(torch.nan)
    with pytest.raises(RunError, match=rf"{name} are not finite: its weights are damaged\. Export it again"):
        broken.predict([np.full((40, 40, 3), 100, np.uint8)], skip_bad=True)
