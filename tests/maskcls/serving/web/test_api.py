from __future__ import annotations

import base64
import gc
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from starlette.testclient import TestClient

from maskcls.data.decoding import png
from maskcls.data.decoding.decode import decode_bytes
from maskcls.errors import RunError
from maskcls.models.saliency import grad_cam, heated
from maskcls.serving.bundle import read_bundle
from maskcls.serving.decision import Decision
from maskcls.serving.marginals import marginals
from maskcls.serving.predictor import Predictor
from maskcls.serving.web import service
from maskcls.serving.web.examples import EXAMPLES
from tests.conftest import Ensemble
from tests.maskcls.serving.web.conftest import Serving

SOME_MB = 5_000_000


def form(*photos: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("file", ("photo.jpg", photo)) for photo in photos]


def in_base64(photo: bytes) -> str:
    return base64.b64encode(photo).decode()


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def noise(suffix: str, width: int, height: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def test_below_the_limit_the_answer_is_not_sure(
    serving: Serving, random_bundle: Callable[[str], Path], drawn_face: bytes
) -> None:
    with serving(predictor=Predictor(random_bundle("three"), "cpu", abstain=1.0)) as client:
        (found,) = client.post("/v1/predict", files={"file": drawn_face}).json()["predictions"]
        assert client.get("/v1/model").json()["abstain"] == 1
    assert found["sure"] is False
    assert [found[name] for name in ("class", "mask", "gender", "age_group")] == [None] * 4
    assert found["probability"] == max(found["probabilities"])
    assert found["marginals"] == marginals(np.array(found["probabilities"]))


def test_the_class_is_named_by_the_bundles_rule_and_the_probabilities_stay(
    serving: Serving, random_bundle: Callable[[str], Path], client: TestClient, drawn_face: bytes
) -> None:
    """A prior that makes class 17 the rarest by far: the rule names it, whatever its probability."""
    rare = Decision(1.0, (*[-2.0] * 17, -60.0), "drawn photos", 60, 0.4, 0.5)
    bundle = replace(read_bundle(random_bundle("three")), decision=rare)
    (before,) = client.post("/v1/predict", files={"file": drawn_face}).json()["predictions"]
    assert before["class"] != 17
    assert client.get("/v1/model").json()["decision"] is None
    with serving(predictor=Predictor(bundle, "cpu")) as ruled:
        (found,) = ruled.post("/v1/predict", files={"file": drawn_face}).json()["predictions"]
        explained = ruled.post("/v1/explain", files={"file": drawn_face}).json()
        said = ruled.get("/v1/model").json()["decision"]
    assert found["probabilities"] == before["probabilities"]
    assert (found["class"], found["age_group"]) == (17, "over 59")
    assert found["probability"] == found["probabilities"][17] < max(found["probabilities"])
    assert explained["class"] == 17
    assert said == {"tau": 1.0, "log_prior": list(rare.log_prior), "temperature": 1.0}


def test_marginals_are_sums_over_the_classes() -> None:
    found = marginals(np.arange(18) / np.arange(18).sum())
    assert list(found) == ["mask", "gender", "age_group"]
    assert found["mask"]["worn"] == pytest.approx(sum(range(6)) / 153)
    assert found["gender"]["male"] == pytest.approx((0 + 1 + 2 + 6 + 7 + 8 + 12 + 13 + 14) / 153)
    assert found["age_group"]["over 59"] == pytest.approx((2 + 5 + 8 + 11 + 14 + 17) / 153)
    assert [sum(labels.values()) for labels in found.values()] == pytest.approx([1, 1, 1])


def test_photos_are_answered_in_their_order_as_predict_answers_their_files(
    client: TestClient, predictor: Predictor, photo_kinds: list[Path]
) -> None:
    contents = [file.read_bytes() for file in photo_kinds]
    expected = predictor.predict(photo_kinds)
    ways: list[dict[str, Any]] = [
        {"files": form(*contents)},
        {"json": {"images": [in_base64(content) for content in contents]}},
        {"json": {"images": [f"data:image/jpeg;base64,{in_base64(content)}" for content in contents]}},
    ]
    for way in ways:
        answer = client.post("/v1/predict", **way)
        assert answer.status_code == 200
        found = answer.json()["predictions"]
        for key in ("mask", "gender", "age_group", "class"):
            assert [each[key] for each in found] == expected[key].tolist()
        np.testing.assert_allclose(
            [each["probabilities"] for each in found], expected.iloc[:, -18:].to_numpy(), rtol=1e-3, atol=1e-6
        )
        for each in found:
            assert each["marginals"] == marginals(np.array(each["probabilities"]))
            assert each["probability"] == max(each["probabilities"])


@pytest.mark.slow
def test_an_ensemble_is_answered_as_for_files(
    serving: Serving, random_ensemble: Ensemble, photo_kinds: list[Path]
) -> None:
    together = Predictor(random_ensemble.folder, "cpu")
    with serving(predictor=together) as client:
        for photo, expected in zip(photo_kinds, together.probabilities(photo_kinds), strict=True):
            (found,) = client.post("/v1/predict", json={"image": in_base64(photo.read_bytes())}).json()["predictions"]
            np.testing.assert_allclose(found["probabilities"], expected, rtol=1e-3, atol=1e-6)
        assert [each["weight"] for each in client.get("/v1/model").json()["classifiers"]] == [0.5, 0.3, 0.2]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says this size, and whose pixels are missing."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"
    return png.START + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A part of a PNG file."""
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def damaged_png() -> bytes:
    whole = bytearray(noise(".png", 64, 64))
    at = whole.index(b"IDAT")
    whole[at + 8 : at + 200] = bytes(192)
    return bytes(whole)


@pytest.mark.parametrize(
    ("photo", "code", "message"),
    [
        (b"", "empty", "0 bytes"),
        (b"a poem", "not_a_photo", "JPEG, PNG or WebP expected"),
        (b"GIF89a" + bytes(100), "not_a_photo", "JPEG, PNG or WebP expected"),
        (b"<svg onload='alert(1)'/>", "not_a_photo", "JPEG, PNG or WebP expected"),
        (noise(".jpg", 64, 64)[:900], "truncated", "its end is missing after 900 bytes"),
        (png_of(10_000, 5_000), "too_many_pixels", "10,000 x 5,000 px: at most 25 megapixels"),
        (noise(".png", 200, 16), "too_narrow", "200 x 16 px: at most 8 times as long as wide"),
        (noise(".png", 7, 9), "too_small", "at least 8 x 8"),
        (damaged_png(), "unreadable", "The photo"),
    ],
    ids=["empty", "text", "gif", "svg", "truncated", "50 megapixels", "narrow", "tiny", "damaged"],
)
def test_what_is_no_photo_is_refused_with_a_word_and_a_sentence(
    client: TestClient, drawn_face: bytes, photo: bytes, code: str, message: str
) -> None:
    for way in ({"files": form(drawn_face, photo)}, {"json": {"images": [in_base64(drawn_face), in_base64(photo)]}}):
        answer = client.post("/v1/predict", **way)
        assert error_of(answer) == (422, code)
        assert message in answer.json()["error"]["message"]
        assert answer.json()["error"]["photo"] == 1


def test_a_file_of_very_many_parts_is_refused(client: TestClient) -> None:
    whole = noise(".jpg", 64, 64)
    for costly in (
        whole[:-2] + b"\xff\xda" * 100 + whole[-2:],
        whole[:2] + b"\xff\x01" * 1_000_001 + whole[2:],
        png.START + chunk(b"aaaa", b"") * 50_001,
    ):
        assert error_of(client.post("/v1/predict", files=form(costly))) == (422, "too_complex")


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "body", "status", "code"),
    [
        ({}, b"", 415, "wrong_content_type"),
        ({"content-type": "image/jpeg"}, b"\xff\xd8\xff", 415, "wrong_content_type"),
        ({"content-type": "multipart/form-data"}, b"--x--", 400, "malformed"),
        ({"content-type": "multipart/form-data; boundary=" + "x" * 1000}, b"--x--", 400, "malformed"),
        (MULTIPART, b"", 400, "malformed"),
        (MULTIPART, b"no boundary at all", 400, "malformed"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc', 400, "malformed"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\nabc\r\n--x--', 400, "unknown_field"),
        (MULTIPART, b"--x\r\nA: b\r\n\r\nabc\r\n--x--", 400, "unknown_field"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n' * 99, 413, "too_many_photos"),
        (JSON, b"", 400, "malformed"),
        (JSON, b"\xff\xfe", 400, "malformed"),
        (JSON, b"[" * 100_000, 400, "malformed"),
        (JSON, b'{"image": ' + b"9" * 10_000 + b"}", 400, "malformed"),
        (JSON, b'{"images": [' + b"[]," * 100_000 + b"[]]}", 400, "malformed"),
        (JSON, b'["abc"]', 400, "malformed"),
        (JSON, b'{"image": "aaaa", "images": []}', 400, "malformed"),
        (JSON, b'{"image": null}', 400, "malformed"),
        (JSON, b'{"images": {}}', 400, "malformed"),
        (JSON, b'{"images": []}', 400, "no_photo"),
        (JSON, b'{"images": [' + b",".join([b'"a"'] * 17) + b"]}", 413, "too_many_photos"),
        (JSON, b'{"image": "abc"}', 400, "not_base64"),
        (JSON, '{"image": "ä"}'.encode(), 400, "not_base64"),
        (JSON, b'{"image": "data:image/jpeg;base64"}', 422, "empty"),
    ],
)
def test_a_body_that_is_something_else_is_refused(
    client: TestClient, headers: dict[str, str], body: bytes, status: int, code: str
) -> None:
    assert error_of(client.post("/v1/predict", content=body, headers=headers)) == (status, code)


def picture_of(answer: dict[str, Any]) -> NDArray[np.uint8]:
    """The picture of an answer of /v1/explain, RGB."""
    found = cv2.imdecode(np.frombuffer(base64.b64decode(answer["image"]), np.uint8), cv2.IMREAD_COLOR)
    assert found is not None
    return found[:, :, ::-1].astype(np.uint8)


def test_where_the_evidence_lies_is_a_picture_of_what_the_classifier_sees(
    client: TestClient, predictor: Predictor, drawn_face: bytes
) -> None:
    found = client.post("/v1/explain", files=form(drawn_face)).json()
    (predicted,) = client.post("/v1/predict", files=form(drawn_face)).json()["predictions"]
    for key in ("class", "mask", "gender", "age_group"):
        assert found[key] == predicted[key]
    shown = picture_of(found)
    crops = predictor.crops(drawn_face)
    (seen,) = (each.pixels for each in crops.values())
    expected = grad_cam(predictor.bundle.classifiers[0].models, seen[None], np.array([found["class"]]))
    assert expected is not None
    assert found["stage"] == expected.stage
    np.testing.assert_array_equal(shown, heated(seen, expected.heat[0]))
    assert not np.array_equal(shown, seen)
    assert error_of(client.post("/v1/explain", files=form(drawn_face, drawn_face))) == (413, "too_many_photos")
    assert error_of(client.post("/v1/explain", files=form(b"a poem"))) == (422, "not_a_photo")


def test_of_an_ensemble_the_heaviest_classifier_explains(
    serving: Serving, random_ensemble: Ensemble, drawn_face: bytes
) -> None:
    together = Predictor(random_ensemble.folder, "cpu")
    heaviest = together.bundle.heaviest
    assert heaviest.weight == max(each.weight for each in together.bundle.classifiers)
    with serving(predictor=together) as client:
        found = client.post("/v1/explain", json={"image": in_base64(drawn_face)}).json()
    shown = picture_of(found)
    assert shown.shape[:2] == (heaviest.geometry.image_size,) * 2


def test_an_unknown_path_and_method_are_refused_in_the_same_form(client: TestClient) -> None:
    assert error_of(client.get("/nowhere")) == (404, "http")
    assert error_of(client.get("/v1/predict")) == (405, "http")
    answer = client.delete("/v1/model")
    assert error_of(answer) == (405, "http")
    assert answer.headers["allow"] == "GET"


def test_the_model_says_what_it_is(client: TestClient, predictor: Predictor) -> None:
    facts = client.get("/v1/model").json()
    (classifier,) = facts["classifiers"]
    assert classifier == {
        "backbone": "mobilenetv3_small_050",
        "image_size": 64,
        "face_crop": "none",
        "task_split": "three",
        "weight": 1.0,
    }
    assert facts["name"] == predictor.bundle.folder.name
    assert facts["scores"] == {"validation": {"f1": 0.5}}
    assert facts["explains"] is True
    assert len(facts["classes"]) == 18
    assert facts["limits"] == {"body_mb": 32, "megapixels": 25, "aspect": 8, "photos": 16}


def test_health_readiness_and_metrics(serving: Serving, drawn_face: bytes) -> None:
    with serving() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {"status": "ready"}
        client.post("/v1/predict", files=form(drawn_face, drawn_face))
        client.post("/v1/predict", files=form(b"a poem"))
        client.get("/wp-admin")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.text.splitlines()
    for line in (
        "maskcls_photos_total 2.0",
        'maskcls_refusals_total{code="not_a_photo"} 1.0',
        'maskcls_requests_total{path="/v1/predict",status="200"} 1.0',
        'maskcls_requests_total{path="/v1/predict",status="422"} 1.0',
        'maskcls_requests_total{path="other",status="404"} 1.0',
        "maskcls_waiting_photos 0.0",
        "maskcls_body_bytes 0.0",
    ):
        assert line in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)


def test_openapi_describes_the_answers_of_every_path(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics"}
    for path in ("/v1/predict", "/v1/explain"):
        predict = described["paths"][path]["post"]
        assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
        assert {"200", "400", "413", "415", "422", "429", "503"} <= set(predict["responses"])
    assert "class" in described["components"]["schemas"]["Prediction"]["properties"]


def test_the_page_and_its_examples_come_with_it(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for path in ("/page.css", "/page.js", "/icon.svg"):
        assert f'"{path}"' in page.text
        assert client.get(path).status_code == 200
    assert f"const EXAMPLES = {len(EXAMPLES)};" in client.get("/page.js").text
    photos = [client.get(f"/examples/{number}.jpg").content for number in range(len(EXAMPLES))]
    found = client.post("/v1/predict", files=form(*photos))
    assert len(found.json()["predictions"]) == len(set(photos)) == len(EXAMPLES)


def test_faces_are_counted_unless_it_is_switched_off(client: TestClient, drawn_face: bytes) -> None:
    face = decode_bytes(drawn_face, "The face").rgb
    photos = [
        cv2.imencode(".png", pixels)[1].tobytes() for pixels in (face, np.full_like(face, 128), np.hstack([face, face]))
    ]
    found = client.post("/v1/predict", files=form(*photos)).json()["predictions"]
    assert [each["faces"] for each in found] == [1, 0, 2]


def test_where_no_face_can_be_found_the_service_says_so_and_answers(
    serving: Serving, drawn_face: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "usable_detector", lambda: None)
    with caplog.at_level("WARNING", "maskcls"), serving() as client:
        (found,) = client.post("/v1/predict", files=form(drawn_face)).json()["predictions"]
    assert found["faces"] is None
    assert [line for line in caplog.messages if line.startswith("No answer will warn of no face or several")]


def nan_weights(bundle: Path) -> Predictor:
    broken = Predictor(bundle, "cpu")
    with torch.no_grad():
        next(broken.bundle.classifiers[0].models[0].parameters()).fill_(torch.nan)
    return broken


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_weights_that_are_not_finite_never_answer(
    serving: Serving, random_bundle: Callable[[str], Path], drawn_face: bytes
) -> None:
    with (
        pytest.raises(RunError, match=r"three are not finite: its weights are damaged\. Export it again"),
        serving(predictor=nan_weights(random_bundle("three"))),
    ):
        pass
    sound = Predictor(random_bundle("three"), "cpu")
    with serving(predictor=sound) as client:
        sound.engine = nan_weights(random_bundle("three")).engine
        answer = client.post("/v1/predict", files=form(drawn_face))
        assert error_of(answer) == (503, "classifier_failed")
        assert answer.json()["error"]["message"] == "The classifier's probabilities are not finite."
        assert 'maskcls_refusals_total{code="classifier_failed"} 1.0' in client.get("/metrics").text


OPENED: list[list[Any]] = []
"""What was opened for writing, for each block of `writes_noted`; hooks of the interpreter cannot be removed."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if OPENED and event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITING:
        OPENED[-1].append(arguments[0])


@contextmanager
def writes_noted() -> Iterator[list[Any]]:
    if not hasattr(sys, "_maskcls_notes_writes"):
        sys.addaudithook(_note)
        sys._maskcls_notes_writes = True  # type: ignore[attr-defined]
    OPENED.append([])
    try:
        yield OPENED[-1]
    finally:
        OPENED.pop()


def test_nothing_that_is_sent_is_written(client: TestClient, tmp_path: Path) -> None:
    """Of files without a name, too, into which large parts of forms often go."""
    with writes_noted() as opened:
        (tmp_path / "a").write_text("b")
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    assert len(opened) == 2
    large = noise(".png", 1500, 1200)
    assert len(large) > SOME_MB
    gc.collect()
    with writes_noted() as opened:
        answers = [
            client.post("/v1/predict", files=form(large, b"x" * SOME_MB)),
            client.post("/v1/predict", files=form(large)),
            client.post("/v1/predict", json={"image": in_base64(large)}),
            client.post("/v1/predict", content=b"x" * SOME_MB, headers=MULTIPART),
        ]
    assert [answer.status_code for answer in answers] == [422, 200, 200, 400]
    assert opened == []
