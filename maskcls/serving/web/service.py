"""From the bytes of photos to predictions: a bounded queue, threads that decode, and the batcher."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from maskcls.data.decoding.decode import decode_bytes
from maskcls.data.decoding.kinds import Size
from maskcls.data.faces.detectors import DETECTORS, usable_detector
from maskcls.errors import DataError, RunError
from maskcls.machine import usable_cores
from maskcls.serving.predictor import Crops, Evidence, Predictor, Seen, count_faces
from maskcls.serving.web.batcher import Batcher
from maskcls.serving.web.limits import Limits
from maskcls.serving.web.metrics import Metrics
from maskcls.serving.web.photo_header import check_header
from maskcls.serving.web.refusal import Refused
from maskcls.serving.web.request_body import read_photos

log = logging.getLogger("maskcls")

_Result = TypeVar("_Result")

LARGE_PX = 4_000_000
"""Photos of more pixels are decoded one at a time, in a thread of their own.

So a few that take seconds keep nobody waiting who sends what a camera in a browser gives, and memory is bounded.
"""


class Predicted(NamedTuple):
    """A photo's class, its (18,) probabilities, and how many faces were found, None if they were not looked for."""

    class_: int
    probabilities: NDArray[np.float64]
    faces: int | None


class Explained(NamedTuple):
    """A photo's class, and where the evidence for it lies."""

    class_: int
    evidence: Evidence


class _Sized(NamedTuple):
    """A photo's file, and its size by its header."""

    data: bytes
    size: Size

    @property
    def is_large(self) -> bool:
        return self.size.width * self.size.height > LARGE_PX


class Service:
    """A bundle that answers requests within limits. To be used from one event loop, and closed.

    Raises:
        RunError: the bundle's probabilities are not finite.
    """

    def __init__(self, predictor: Predictor, limits: Limits, *, face_check: bool = True) -> None:
        self.predictor = predictor
        self.limits = limits
        self.metrics = Metrics()
        self._detector = usable_detector() if face_check else None
        if face_check and self._detector is None:
            log.warning("No answer will warn of no face or several: %s", DETECTORS["yunet"].why_not())
        self._admitted = 0  # photos, from their arrival to the answer
        self.check_model()
        self.explains = predictor.evidence(_gray(predictor), 0) is not None
        """Whether it can say where the evidence for a class lies."""
        self._decoders = ThreadPoolExecutor(max(2, usable_cores()), "decoder")
        self._large_decoder = ThreadPoolExecutor(1, "large-decoder")
        self._explainer = ThreadPoolExecutor(1, "explainer")
        self._batcher = Batcher(predictor.at_once, limits.batch, self.metrics.batch_photos.observe)

    def check_model(self) -> None:
        """Predict one photo: a bundle whose weights are not finite must not come up; and the first pass is slow.

        Raises RunError if it fails.
        """
        self.predictor.check_finite(self.predictor.at_once([_gray(self.predictor)]))

    @property
    def is_full(self) -> bool:
        """Whether no further photo is admitted now."""
        return self._admitted >= self.limits.queue

    async def predict(self, content_type: str, body: bytes) -> list[Predicted]:
        """Predict the photos of a request's body, in their order. Raises Refused."""
        return await self._answer(content_type, body, self.limits, self._predict)

    async def explain(self, content_type: str, body: bytes) -> Explained:
        """Predict the one photo of a body, and find where the evidence for its class lies. Raises Refused."""
        return await self._answer(content_type, body, replace(self.limits, photos=1), self._explain)

    async def _answer(
        self, content_type: str, body: bytes, limits: Limits, work: Callable[[list[_Sized]], Awaitable[_Result]]
    ) -> _Result:
        """Do the work on the photos of a body, in the time and with the room that there is. Raises Refused."""
        try:
            async with asyncio.timeout(self.limits.request_s):
                with self._admit(1):
                    photos = await _in(self._decoders, _read, content_type, body, limits)
                    with self._admit(len(photos) - 1):
                        return await work(photos)
        except TimeoutError:
            message = f"The answer took longer than {self.limits.request_s:g} s. Try again later."
            raise Refused(503, "timeout", message) from None
        except MemoryError:
            raise Refused(503, "out_of_memory", "The service is short of memory. Try again later.") from None

    def check_room(self) -> None:
        """Raise Refused if the queue is full."""
        if self.is_full:
            message = f"{self._admitted} photos are waiting, and {self.limits.queue} may. Try again later."
            raise Refused(429, "busy", message)

    def close(self) -> None:
        """End the threads."""
        for threads in (self._decoders, self._large_decoder, self._explainer):
            threads.shutdown(cancel_futures=True)
        self._batcher.close()

    async def _predict(self, photos: list[_Sized]) -> list[Predicted]:
        prepared = [await self._prepare(photo, place) for place, photo in enumerate(photos)]
        found = await self._probabilities([each.crops for each in prepared])
        classes = self.predictor.classes(np.stack(found)).tolist()
        return [Predicted(class_, p, one.faces) for class_, p, one in zip(classes, found, prepared, strict=True)]

    async def _explain(self, photos: list[_Sized]) -> Explained:
        (photo,) = photos
        crops = (await self._prepare(photo, 0, looks_for_faces=False)).crops
        (probabilities,) = await self._probabilities([crops])
        (class_,) = self.predictor.classes(probabilities[None]).tolist()
        return Explained(class_, await _in(self._explainer, self._evidence, crops, class_))

    def _evidence(self, crops: Crops, class_: int) -> Evidence:
        found = self.predictor.evidence(crops, class_)
        assert found is not None, "asked of a classifier that has no map"
        return found

    async def _probabilities(self, photos: list[Crops]) -> list[NDArray[np.float64]]:
        answers: list[asyncio.Future[NDArray[np.float64]]] = []
        try:
            answers += [asyncio.wrap_future(self._batcher.submit(crops)) for crops in photos]
            found = await asyncio.gather(*answers)
        except RunError as error:
            raise Refused(503, "classifier_failed", str(error)) from None
        finally:
            for answer in answers:
                answer.cancel()  # after a timeout those that still wait need no prediction
        self.metrics.photos.inc(len(photos))
        return found

    async def _prepare(self, photo: _Sized, place: int, *, looks_for_faces: bool = True) -> Seen:
        decoders = self._large_decoder if photo.is_large else self._decoders
        return await _in(decoders, self._decode, photo.data, place, looks_for_faces)

    def _decode(self, data: bytes, place: int, looks_for_faces: bool) -> Seen:
        """Decode a photo and crop it: pixels to the bit as `maskcls.predict` has them of the same file."""
        try:
            rgb = decode_bytes(data, "The photo").rgb
        except DataError as error:
            raise Refused(422, "unreadable", str(error), place) from None
        crops = self.predictor.crops(rgb)
        looks = looks_for_faces and self._detector is not None
        return Seen(crops, count_faces(rgb, crops, self._detector) if looks else None)

    @contextmanager
    def _admit(self, photos: int) -> Iterator[None]:
        if photos and self._admitted + photos > self.limits.queue:
            self.check_room()
            message = f"{photos} more photos do not fit behind the {self._admitted} that wait. Send fewer, or later."
            raise Refused(429, "busy", message)
        self._admitted += photos
        self.metrics.waiting.set(self._admitted)
        try:
            yield
        finally:
            self._admitted -= photos
            self.metrics.waiting.set(self._admitted)


def _read(content_type: str, body: bytes, limits: Limits) -> list[_Sized]:
    """The photos of a body, each with its size. Raises Refused."""
    contents = read_photos(content_type, body, limits)
    return [_Sized(data, check_header(data, limits, place)) for place, data in enumerate(contents)]


def _gray(predictor: Predictor) -> Crops:
    return predictor.crops(np.full((64, 64, 3), 128, np.uint8))


async def _in(threads: ThreadPoolExecutor, work: Callable[..., _Result], *arguments: object) -> _Result:
    """Call `work` in one of the threads. If it is given up before it begins it never does; later, it goes on."""
    return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)
