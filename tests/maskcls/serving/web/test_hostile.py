"""Requests that are mutated, huge, wrong and malicious: each is answered, none with a server's error but 503."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import h11
import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.maskcls.serving.web.process import Served, serving
from tests.maskcls.serving.web.test_api import chunk, form, in_base64, noise, png_of

FEW, MANY = 200, 10_000
GROWTH_MB = 200
"""Of the process over MANY requests, after the first tenth of them."""
METHODS = ("POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "FOO")
PATHS = (
    "/v1/predict",
    "/v1/explain",
    "/",
    "/v1/model",
    "/metrics",
    "/page.js",
    "/../etc/passwd",
    "/%00",
    "/examples/9.jpg",
    "//",
    "/ä",
)
HEADERS = {
    "content-type": (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "application/json; charset=x",
        "\x7f",
        "a" * 999,
    ),
    "content-length": ("-1", "0", "9" * 30, "a"),
    "host": ("evil.example", "", "[", "127.0.0.1:x", "a" * 999),
    "origin": ("null", "http://evil.example", "a" * 999),
    "authorization": ("Basic", "Basic \x7f", "Bearer " + "a" * 999),
    "accept": ("\x7f" * 99,),
    "cookie": ("a=b;" * 500,),
    "range": ("bytes=0-9999999999",),
}


def bomb(width: int, height: int) -> bytes:
    """A PNG of nothing but zeros, far smaller than its pixels."""

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x06\0\0\0"
    rows = zlib.compress(bytes((4 * width + 1) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def seeds(photo_kinds: list[Path], drawn_face: bytes) -> list[bytes]:
    small = [file.read_bytes() for file in photo_kinds if file.stat().st_size < 100_000]
    face = cv2.imdecode(np.frombuffer(drawn_face, np.uint8), cv2.IMREAD_COLOR)
    progressive = cv2.imencode(".jpg", face, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    others = [cv2.imencode(ending, face)[1].tobytes() for ending in (".webp", ".bmp", ".tiff", ".png")]
    return [drawn_face, progressive, *small, *others, png_of(2**31 - 1, 9), bomb(900, 900), b"", b"\xff\xd8\xff"]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """The same with a few bytes changed, cut, doubled or put in."""
    changed = bytearray(data or b"\0")
    for _ in range(int(rng.integers(0, 6))):
        at = int(rng.integers(len(changed))) if rng.random() < 0.5 else int(rng.integers(min(64, len(changed))))
        way = rng.integers(5)
        if way == 0:
            changed[at] = int(rng.integers(256))
        elif way == 1:
            changed[at : at + 4] = rng.bytes(4)
        elif way == 2 and len(changed) > 20:
            del changed[at : at + int(rng.integers(1, 200))]
            changed = changed or bytearray(b"\0")
        elif way == 3:
            changed[at:at] = changed[at : at + int(rng.integers(1, 200))]
        else:
            changed[at : at + 2] = (b"\xff\xff", b"\0\0", b"\x7f\xff")[int(rng.integers(3))]
    return bytes(changed)


def request_of(rng: np.random.Generator, seeds: list[bytes]) -> dict[str, Any]:
    """One of many kinds of request, for a client's `request`."""
    photo = mutated(seeds[int(rng.integers(len(seeds)))], rng)
    kind = int(rng.integers(8))
    request: dict[str, Any] = {"method": "POST", "url": str(rng.choice(["/v1/predict", "/v1/explain"], p=[0.8, 0.2]))}
    if kind < 4:
        request["files"] = form(*[photo] * int(rng.choice([1, 1, 1, 2, 17])))
    elif kind == 4:
        request["json"] = {"images": [in_base64(photo)]}
    elif kind == 5:
        text = json.dumps({"image": in_base64(photo[:300])}).encode()
        request |= {"content": mutated(text, rng), "headers": {"content-type": "application/json"}}
    elif kind == 6:
        body = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + photo[:500] + b"\r\n--x--\r\n"
        )
        request |= {"content": mutated(body, rng), "headers": {"content-type": "multipart/form-data; boundary=x"}}
    else:
        name = str(rng.choice(list(HEADERS)))
        request["method"], request["url"] = str(rng.choice(METHODS)), str(rng.choice(PATHS))
        request["headers"] = {name: str(rng.choice(HEADERS[name])).encode()}
        request["content"] = photo[:100]
    return request


@pytest.mark.slow
def test_hostile_requests_are_answered_and_none_with_a_servers_error(
    client: TestClient, drawn_face: bytes, seeds: list[bytes]
) -> None:
    rng, statuses = np.random.default_rng(FEW), Counter[int]()
    for number in range(FEW):
        statuses[client.request(**request_of(rng, seeds)).status_code] += 1
        if number % 20 == 0:
            assert client.post("/v1/predict", files=form(drawn_face)).status_code == 200
    assert {status for status in statuses if status >= 500} <= {503}
    assert {200, 400, 413, 422} <= set(statuses)


class Attack:
    """Hostile requests to a service from several threads; meanwhile a user sends a photo from time to time."""

    def __init__(self, service: Served, seeds: list[bytes], face: bytes) -> None:
        self._service, self._seeds, self._face = service, seeds, face
        self.statuses = Counter[str]()
        self.memory_mb: list[float] = []
        """After each tenth of the requests."""
        self.user_s: list[float] = []
        self._lock, self._ended = threading.Lock(), threading.Event()

    def run(self, requests: int, threads: int = 8) -> None:
        user = threading.Thread(target=self._use)
        user.start()
        try:
            with ThreadPoolExecutor(threads) as pool:
                for _ in range(10):
                    list(pool.map(self._attack, range(threads), [requests // 10 // threads] * threads))
                    self.memory_mb.append(self._service.process.memory_info().rss / 1e6)
        finally:
            self._ended.set()
            user.join()

    def _attack(self, thread: int, requests: int) -> None:
        rng = np.random.default_rng([thread, len(self.memory_mb)])
        with httpx2.Client(base_url=self._service.url, timeout=60) as client:
            for _ in range(requests):
                try:
                    status = str(client.request(**request_of(rng, self._seeds)).status_code)
                except (httpx2.LocalProtocolError, httpx2.InvalidURL, h11.LocalProtocolError):
                    status = "not sent"  # the client keeps to HTTP more strictly than an attacker does
                except httpx2.TransportError as error:
                    status = type(error).__name__
                with self._lock:
                    self.statuses[status] += 1

    def _use(self) -> None:
        with httpx2.Client(base_url=self._service.url, timeout=60) as client:
            while not self._ended.wait(0.5):
                began = time.perf_counter()
                answer = client.post("/v1/predict", files=form(self._face))
                self.user_s.append(time.perf_counter() - began)
                with self._lock:
                    self.statuses[f"the user: {answer.status_code}"] += 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_requests_keep_no_user_out(
    random_bundle: Callable[[str], Path], drawn_face: bytes, seeds: list[bytes]
) -> None:
    with serving(random_bundle("three"), "--device", "cpu") as service:
        attack = Attack(service, seeds, drawn_face)
        attack.run(MANY)
    print(
        f"{dict(sorted(attack.statuses.items()))}; MB: {[round(each) for each in attack.memory_mb]}; "
        f"the user waited {np.median(attack.user_s):.3f} s (median), at most {max(attack.user_s):.3f} s"
    )
    answered = {status for status in attack.statuses if status.isdecimal()}
    assert {status for status in answered if status >= "500"} <= {"503"}
    assert {"200", "400", "413", "422"} <= answered
    assert {status for status in attack.statuses if status.startswith("the user")} == {"the user: 200"}
    assert attack.memory_mb[-1] - attack.memory_mb[0] < GROWTH_MB, attack.memory_mb


def test_a_photo_that_is_far_larger_than_its_file_is_refused_by_its_header(client: TestClient) -> None:
    small = bomb(6000, 6000)
    assert len(small) < 1_000_000
    answer = client.post("/v1/predict", files=form(small))
    assert answer.json()["error"]["code"] == "too_many_pixels"
    assert client.post("/v1/predict", files=form(noise(".png", 64, 64))).status_code == 200
