"""The service in this process, with a classifier of random weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from maskcls.serving.predictor import Crops, Predictor
from maskcls.serving.web.access import Access
from maskcls.serving.web.app import build_app
from maskcls.serving.web.examples import draw_examples
from maskcls.serving.web.limits import Limits

Serving = Callable[..., AbstractContextManager[TestClient]]


class HeldPredictor(Predictor):
    """A predictor that waits, from its second batch on (the first is the service's own check), until it is let go."""

    def __init__(self, bundle: Path) -> None:
        super().__init__(bundle, "cpu")
        self.go = threading.Event()
        self.begun = threading.Event()
        self.batches: list[int] = []

    def at_once(self, photos: Sequence[Crops]) -> np.ndarray:
        if self.batches:
            self.begun.set()
            self.go.wait(60)
        self.batches.append(len(photos))
        return super().at_once(photos)


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="session")
def predictor(random_bundle: Callable[[str], Path]) -> Predictor:
    return Predictor(random_bundle("three"), "cpu")


@pytest.fixture
def held(random_bundle: Callable[[str], Path]) -> Iterator[HeldPredictor]:
    found = HeldPredictor(random_bundle("three"))
    yield found
    found.go.set()


@pytest.fixture(scope="session")
def serving(predictor: Predictor) -> Serving:
    """serving(access=…, predictor=…, a limit=…) -> a client of a service with these, as a context manager."""

    @contextmanager
    def serve(access: Access | None = None, predictor: Predictor = predictor, **limits: Any) -> Iterator[TestClient]:
        app = build_app(predictor, Limits(**limits), access or Access("127.0.0.1"))
        with TestClient(app, base_url="http://127.0.0.1:7860") as client:
            yield client

    return serve


@pytest.fixture(scope="session")
def client(serving: Serving) -> Iterator[TestClient]:
    """A service with the default limits."""
    with serving() as found:
        yield found


@pytest.fixture(scope="session")
def drawn_face() -> bytes:
    """A JPEG file."""
    return draw_examples()[0]
