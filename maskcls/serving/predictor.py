"""Photos -> probabilities of the 18 classes, by the way that validation takes: decode, geometry, padded blocks of one size."""

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from maskcls.data import geometry
from maskcls.device import resolve_device
from maskcls.errors import DataError
from maskcls.labels import N_CLASSES
from maskcls.models.model import BLOCK, log_probabilities
from maskcls.serving.bundle import Bundle, read_bundle

log = logging.getLogger("maskcls")

Photo = str | Path | geometry.Image
"""A file, or an upright uint8 RGB array (height, width, 3) of any size."""
BLOCKS_AHEAD = 2
"""Decoded while the model is at work on one: enough to keep both busy, and a bound on memory."""
LISTED = 20


class Answers(NamedTuple):
    """(n, 18) probabilities, and for each photo that cannot be read its row and what is wrong; there all classes are 1/18."""

    probabilities: NDArray[np.float64]
    bad: dict[int, str]


class Predictor:
    """A bundle at work on a device: `auto` (cuda where there is one), or torch's name of one.

    Args:
        flip: answer with the mean of a photo's and its mirror image's probabilities, for twice the work.
    """

    def __init__(self, bundle: Bundle | Path, device: str = "auto", *, flip: bool = False) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
        self.device = resolve_device(device)
        self.flip = flip
        for model in self.bundle.models:
            model.to(self.device)

    def pixels(self, photo: Photo) -> geometry.Image:
        """What the model sees of a photo before it normalises it: uint8 (s, s, 3), to the bit what the pixel store holds."""
        return self._crop(photo).pixels

    def _crop(self, photo: Photo) -> geometry.Cropped:
        return self.bundle.geometry.crop(photo if isinstance(photo, np.ndarray) else geometry.decode(photo).rgb)

    def probabilities(self, photos: Sequence[Photo], *, progress: bool = False) -> NDArray[np.float64]:
        """(n, 18), rows summing to one. Raises DataError that lists all photos which cannot be read, after looking at all."""
        answers = self.answers(photos, progress=progress)
        if answers.bad:
            raise DataError(_refusal(answers.bad, len(photos)))
        return answers.probabilities

    def at_once(self, photo: geometry.Image) -> NDArray[np.float64]:
        """(18,) of one photo for somebody who waits: not padded to a block, so the last bits may differ from `probabilities`."""
        return self._probabilities(self.pixels(photo)[None], block_photos=1)[0]  # type: ignore[no-any-return]

    def answers(self, photos: Sequence[Photo], *, skip_bad: bool = False, progress: bool = False) -> Answers:
        """Like `probabilities`, but photos that cannot be read are returned beside; unless `skip_bad`, the first ends the predicting.

        With a face crop the log says in how many photos no face was found.
        """
        probabilities = np.full((len(photos), N_CLASSES), 1 / N_CLASSES)
        bad: dict[int, str] = {}
        faces_missed = 0
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not (progress and console.is_terminal)) as bar:
            task = bar.add_task("Photos", total=len(photos))
            for start, block in self._decoded(photos):
                good = {start + row: cropped for row, cropped in enumerate(block) if not isinstance(cropped, DataError)}
                bad.update({start + row: str(error) for row, error in enumerate(block) if isinstance(error, DataError)})
                faces_missed += sum(cropped.face_missed for cropped in good.values())
                if good and (skip_bad or not bad):
                    probabilities[list(good)] = self._probabilities(np.stack([cropped.pixels for cropped in good.values()]))
                bar.advance(task, len(block))
        if self.bundle.geometry.face_crop != "none" and (skip_bad or not bad):
            log.info(geometry.told_of_missed_faces(faces_missed, len(photos) - len(bad)))
        return Answers(probabilities, bad)

    def _probabilities(self, pixels: NDArray[np.uint8], block_photos: int = BLOCK) -> NDArray[np.float64]:
        bundle = self.bundle
        answer = log_probabilities(
            bundle.models, bundle.task_split, pixels, join=bundle.recipe.join, flip=self.flip, block_photos=block_photos
        )
        return np.exp(answer)

    def _decoded(self, photos: Sequence[Photo]) -> Iterator[tuple[int, list[geometry.Cropped | DataError]]]:
        """Blocks of decoded photos with the row each begins at; a few blocks ahead are decoded in threads meanwhile."""
        ahead: deque[tuple[int, list[Future[geometry.Cropped | DataError]]]] = deque()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for start in range(0, len(photos), BLOCK):
                ahead.append((start, [pool.submit(self._crop_or_error, photo) for photo in photos[start : start + BLOCK]]))
                if len(ahead) > BLOCKS_AHEAD:
                    yield _result(*ahead.popleft())
            while ahead:
                yield _result(*ahead.popleft())

    def _crop_or_error(self, photo: Photo) -> geometry.Cropped | DataError:
        try:
            return self._crop(photo)
        except DataError as error:
            return error


def _result(start: int, block: list[Future[geometry.Cropped | DataError]]) -> tuple[int, list[geometry.Cropped | DataError]]:
    return start, [future.result() for future in block]


def _refusal(bad: dict[int, str], total: int) -> str:
    messages = [f"  {message}" for message in list(bad.values())[:LISTED]]
    if len(bad) > LISTED:
        messages.append(f"  … and {len(bad) - LISTED:,} more")
    return "\n".join([f"{len(bad):,} of {total:,} photos cannot be read; nothing was written. Mend them, or use --skip-bad.", *messages])
