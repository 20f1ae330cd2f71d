from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.batcher import Batcher
from maskcls.serving.web.limits import Limits
from tests.maskcls.serving.web.conftest import HeldPredictor, Serving, until
from tests.maskcls.serving.web.test_api import error_of, form, noise

MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


def pieces(total: int, size: int = 10_000) -> Iterator[bytes]:
    for _ in range(total // size):
        yield bytes(size)


@pytest.mark.parametrize("name", ["body_mb", "queue", "header_s"])
def test_a_limit_is_positive(name: str) -> None:
    with pytest.raises(CallError, match=rf"`{name} > 0` must hold, but got 0"):
        Limits(**{name: 0})


def test_a_body_is_counted_and_not_believed(serving: Serving, drawn_face: bytes) -> None:
    with serving(body_mb=0.1) as client:
        for sent in (150_000, 250_000, 350_000):  # in pieces, without a length; the last is not even read to its end
            answer = client.post("/v1/predict", content=pieces(sent), headers=MULTIPART)
            assert error_of(answer) == (413, "too_large")
            assert "larger than 0.1 MB" in answer.json()["error"]["message"]
        short = {**MULTIPART, "content-length": "10"}
        assert error_of(client.post("/v1/predict", content=pieces(150_000), headers=short)) == (413, "too_large")
        said = {**MULTIPART, "content-length": "99999999999999999999"}
        assert client.post("/v1/predict", content=b"a", headers=said).status_code == 400
        assert error_of(client.post("/v1/predict", content=b"a", headers={**said, "content-length": "400000"})) == (
            413,
            "too_large",
        )
        assert "maskcls_body_bytes 0.0" in client.get("/metrics").text
        assert client.post("/v1/predict", files=form(drawn_face)).status_code == 200


def test_pixels_aspect_and_photos_are_options(serving: Serving) -> None:
    with serving(megapixels=0.01, aspect=2, photos=1) as client:
        assert client.post("/v1/predict", files=form(noise(".png", 100, 100))).status_code == 200
        assert error_of(client.post("/v1/predict", files=form(noise(".png", 100, 101)))) == (422, "too_many_pixels")
        assert error_of(client.post("/v1/predict", files=form(noise(".png", 101, 50)))) == (422, "too_narrow")
        two = form(noise(".png", 50, 50), noise(".png", 50, 50))
        assert error_of(client.post("/v1/predict", files=two)) == (413, "too_many_photos")


def test_a_full_queue_is_said_before_the_body_is_read(serving: Serving, held: HeldPredictor, drawn_face: bytes) -> None:
    with serving(predictor=held, queue=2) as client, ThreadPoolExecutor(1) as pool:
        assert error_of(client.post("/v1/predict", files=form(*[drawn_face] * 3))) == (429, "busy")
        waiting = pool.submit(client.post, "/v1/predict", files=form(drawn_face, drawn_face))
        assert held.begun.wait(60)
        read: list[bytes] = []

        def body() -> Iterator[bytes]:
            read.append(b"a")
            yield b"a"

        answer = client.post("/v1/predict", files=form(drawn_face))
        assert error_of(answer) == (429, "busy")
        assert answer.headers["retry-after"] == "1"
        assert error_of(client.get("/readyz")) == (503, "busy")
        assert client.get("/healthz").status_code == 200
        held.go.set()
        assert waiting.result(60).status_code == 200
        assert client.post("/v1/predict", files=form(drawn_face)).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_a_request_that_takes_too_long_is_answered_and_leaves_the_queue(
    serving: Serving, held: HeldPredictor, drawn_face: bytes
) -> None:
    with serving(predictor=held, queue=1, request_s=0.5) as client:
        for path in ("/v1/predict", "/v1/explain", "/v1/predict"):
            answer = client.post(path, files=form(drawn_face))
            assert error_of(answer) == (503, "timeout")
            assert answer.headers["retry-after"] == "1"
        held.go.set()


def test_a_large_photo_that_takes_long_keeps_no_small_one_waiting(serving: Serving, drawn_face: bytes) -> None:
    large = cv2.imencode(".png", np.zeros((2100, 2000, 3), np.uint8))[1].tobytes()
    go = threading.Event()
    with serving() as client, ThreadPoolExecutor(1) as pool:
        service = service_of(client)
        service._large_decoder.submit(go.wait, 60)
        waiting = pool.submit(client.post, "/v1/predict", files=form(large))
        until(lambda: service._large_decoder._work_queue.qsize() == 1)
        assert client.post("/v1/predict", files=form(drawn_face)).status_code == 200
        assert not waiting.done()
        go.set()
        assert waiting.result(60).status_code == 200


def test_who_waits_for_an_explanation_keeps_room_in_the_queue_and_nobody_waiting(
    serving: Serving, drawn_face: bytes
) -> None:
    go = threading.Event()
    with serving(queue=2) as client, ThreadPoolExecutor(1) as pool:
        service = service_of(client)
        service._explainer.submit(go.wait, 60)
        waiting = pool.submit(client.post, "/v1/explain", files=form(drawn_face))
        until(lambda: service._explainer._work_queue.qsize() == 1)
        assert client.post("/v1/predict", files=form(drawn_face)).status_code == 200
        assert error_of(client.post("/v1/predict", files=form(drawn_face, drawn_face))) == (429, "busy")
        assert not waiting.done()
        go.set()
        assert waiting.result(60).status_code == 200


def test_photos_that_wait_are_predicted_together_up_to_the_batch(
    serving: Serving, held: HeldPredictor, drawn_face: bytes
) -> None:
    with serving(predictor=held, batch=4) as client, ThreadPoolExecutor(2) as pool:
        first = pool.submit(client.post, "/v1/predict", files=form(drawn_face))
        assert held.begun.wait(60)
        second = pool.submit(client.post, "/v1/predict", files=form(*[drawn_face] * 6))
        until(lambda: len(service_of(client)._batcher._waiting) == 6)
        held.go.set()
        assert [each.result(60).status_code for each in (first, second)] == [200, 200]
    assert held.batches == [1, 1, 4, 2]  # the service's own check, the first photo alone, then those that waited


def service_of(client: Any) -> Any:
    return client.app._service


@pytest.fixture
def many_crops(predictor: Predictor) -> list[Any]:
    photos = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    return [predictor.crops(photo) for photo in photos]


@pytest.mark.parametrize("batch", [1, 5])
def test_a_batch_changes_at_most_the_last_bits_and_a_batch_of_one_none(
    predictor: Predictor, many_crops: list[Any], batch: int
) -> None:
    alone = np.concatenate([predictor.at_once([crops]) for crops in many_crops])
    batcher = Batcher(predictor.at_once, batch)
    answers = [batcher.submit(crops) for crops in many_crops]
    batcher.close()
    found = np.array([answer.result() for answer in answers])
    np.testing.assert_allclose(found, alone, rtol=1e-3, atol=1e-6)
    if batch == 1:
        np.testing.assert_array_equal(found, alone)


def test_an_answer_that_nobody_waits_for_is_not_computed(predictor: Predictor, many_crops: list[Any]) -> None:
    seen: list[int] = []
    batcher = Batcher(lambda crops: predictor.at_once(crops), 3, seen.append)
    with batcher._changed:  # nothing is taken while more comes
        answers = [batcher.submit(crops) for crops in many_crops[:4]]
        assert answers[1].cancel()
    batcher.close()
    assert sum(seen) == 3
    assert [answer.done() for answer in answers] == [True] * 4
