"""A queue of photos and one thread that predicts those that wait together."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import RunError
from maskcls.serving.predictor import Crops

log = logging.getLogger("maskcls")

Probabilities = NDArray[np.float64]


class _Waiting(NamedTuple):
    crops: Crops
    answer: Future[Probabilities]


class Batcher:
    """Predicts photos in batches of whatever waits, at most `batch`; an idle one predicts a photo at once.

    The last bits of a convolution depend on the batch's size, so those of an answer may depend on who else asks;
    with `batch` 1 they do not.

    Args:
        predict: crops of n photos -> (n, 18) probabilities. Only called in the batcher's own thread.
        batch: most photos at a time.
        on_batch: called with each batch's number of photos.
    """

    def __init__(
        self,
        predict: Callable[[Sequence[Crops]], Probabilities],
        batch: int,
        on_batch: Callable[[int], None] = lambda photos: None,
    ) -> None:
        self._predict = predict
        self._batch = batch
        self._on_batch = on_batch
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, crops: Crops) -> Future[Probabilities]:
        """Queue a photo: its (18,) probabilities, later. A future that is cancelled in time costs nothing."""
        answer: Future[Probabilities] = Future()
        with self._changed:
            if self._is_closed:
                raise RunError("The service is ending.")
            self._waiting.append(_Waiting(crops, answer))
            self._changed.notify()
        return answer

    def close(self) -> None:
        """Predict what waits, then end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            batch = [each for each in taken if each.answer.set_running_or_notify_cancel()]
            if batch:
                self._answer(batch)

    def _answer(self, batch: Sequence[_Waiting]) -> None:
        self._on_batch(len(batch))
        try:
            found = self._predict([each.crops for each in batch])  # (n, 18)
        except Exception as error:
            log.exception("A batch of %d could not be predicted.", len(batch))
            for each in batch:
                each.answer.set_exception(RunError(f"The classifier failed: {type(error).__name__}."))
            return
        if not np.isfinite(found).all():
            log.error("Of a batch of %d not all probabilities are finite: the weights are damaged.", len(batch))
        for each, probabilities in zip(batch, found, strict=True):
            if np.isfinite(probabilities).all():
                each.answer.set_result(probabilities)
            else:
                each.answer.set_exception(RunError("The classifier's probabilities are not finite."))
