"""Predicts probabilities of the 18 classes for photos, as validation does: decode, geometry, padded blocks of one size.

If a bundle holds several classifiers, a photo is decoded once and cropped once for each geometry among them, and the
prediction is the weighted mean of their probabilities.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls import machine
from maskcls.data import geometry
from maskcls.data.decoding import decode as decoding
from maskcls.data.decoding.decode import Image, Photo
from maskcls.data.pool import over_photos, photo_bar
from maskcls.errors import CallError, DataError
from maskcls.labels import AGES, GENDERS, MASKS, N_CLASSES, decode
from maskcls.machine import resolve_device
from maskcls.serving.submission import PROBABILITY_COLUMNS
from maskcls.text import first_lines

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.bundle import Bundle, Classifier

log = logging.getLogger("maskcls")

Crops = dict[geometry.Geometry, geometry.Cropped]
"""One photo through each geometry of a bundle."""
BLOCKS_AHEAD = 2
"""Blocks decoded ahead while the models work on one: enough to keep both busy, and a bound on memory."""
LISTED = 20
"""Photos that a message lists at most."""


class Predictions(NamedTuple):
    """Predictions for n photos, some of which may be unreadable."""

    probabilities: NDArray[np.float64]
    """(n, 18), rows summing to one; 1/18 each for a photo that cannot be read."""
    bad: dict[int, str]
    """For each photo that cannot be read, by its row, what is wrong."""


class Predictor:
    """A bundle on a device, ready to predict.

        Predictor("runs/first/best").predict(["a.jpg", array, image])

    From its first predictor on the process keeps the memory that it frees, until `machine.give_back_memory`.

    Args:
        bundle: a bundle, or its folder.
        device: `auto` (the first GPU, or the CPU if there is none), or torch's name, as in `cpu` or `cuda:0`.
        flip: predict the mean of a photo's and its mirror image's probabilities, for twice the work.

    Raises:
        DataError: the folder holds no bundle, or a damaged one.
        CallError: torch cannot use the device.
    """

    def __init__(self, bundle: Bundle | Path | str, device: str = "auto", *, flip: bool = False) -> None:
        from maskcls.models.model import BLOCK  # imports torch and timm, and so does the next
        from maskcls.serving.bundle import Bundle, read_bundle

        machine.keep_freed_memory()
        self._block = BLOCK
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle))
        self.device = resolve_device(device)
        self.flip = flip
        # Each once: classifiers with the same geometry share a photo's crop.
        self.geometries = tuple(dict.fromkeys(classifier.geometry for classifier in self.bundle.classifiers))
        for classifier in self.bundle.classifiers:
            for model in classifier.models:
                model.to(self.device)

    def predict(self, photos: Sequence[Photo] | Image, *, skip_bad: bool = False) -> pd.DataFrame:
        """Classify photos: one row per photo, in their order.

        The columns are `photo` (the path, or `photos[3]` for what is no file), `mask`, `gender` and `age_group` in the
        words of `maskcls.labels`, `class` (0..17), `probability` (of that class), and the 18 probabilities, which add
        up to one, under the names that `maskcls.predict --probabilities` writes: `p0_worn_male_under_30` to
        `p17_not_worn_female_over_59`, all of them in `maskcls.serving.submission.PROBABILITY_COLUMNS`.

        Args:
            photos: paths, uint8 RGB arrays (height, width, 3) and Pillow's images, also mixed. Files and Pillow's
                images are turned as their EXIF block says; an array is taken as upright. An array of them, (n, height,
                width, 3), is a list as well.
            skip_bad: give a photo that cannot be read a row of missing values instead of raising. A column `error`,
                empty for the other photos, then says what is wrong with it.

        Raises:
            DataError: photos cannot be read; the message names all of them.
            CallError: `photos` is a single photo.
        """
        if isinstance(photos, str | Path) or not hasattr(photos, "__iter__") or getattr(photos, "ndim", 0) == 3:
            raise CallError(f"predict expects a list of photos, but got one: predict([{_typed(photos)}]).")
        photos = list(photos)
        probabilities, bad = self.predictions(photos, skip_bad=skip_bad)
        if bad and not skip_bad:
            raise DataError(_refusal(bad, len(photos), "mend them, leave them out, or give skip_bad=True."))
        table = _table(photos, probabilities)
        if skip_bad:
            rows = list(bad)
            table = table.astype({"class": "Int64"})  # which may be missing
            table.loc[rows, table.columns[1:]] = pd.NA
            table["error"] = [bad.get(row, "") for row in range(len(photos))]
        return table

    def crops(self, photo: Photo) -> Crops:
        """A photo's pixels, uint8 (s, s, 3), for each geometry: to the bit what the pixel store holds."""
        rgb = decoding.rgb_of(photo)
        return {each: each.crop(rgb) for each in self.geometries}

    def probabilities(self, photos: Sequence[Photo], *, progress: bool = False) -> NDArray[np.float64]:
        """Predict (n, 18), rows summing to one. Raises DataError that lists all photos which cannot be read."""
        predictions = self.predictions(photos, progress=progress)
        if predictions.bad:
            raise DataError(
                _refusal(predictions.bad, len(photos), "nothing was written. Mend them, or use --skip-bad.")
            )
        return predictions.probabilities

    def at_once(self, photos: Sequence[Crops]) -> NDArray[np.float64]:
        """Predict (n, 18) for the crops of n photos in one pass of just these: faster than a padded block, but the
        last bits may differ from it, and between one n and another.
        """
        pixels = {each: np.stack([crops[each].pixels for crops in photos]) for each in self.geometries}  # (n, s, s, 3)
        return self._probabilities(pixels, block_photos=len(photos))  # (n, 18)

    def predictions(self, photos: Sequence[Photo], *, skip_bad: bool = False, progress: bool = False) -> Predictions:
        """Predict like `probabilities`, but return which photos cannot be read instead of raising.

        With a face crop the log says in how many photos no face was found.

        Args:
            skip_bad: whether to predict the others although some cannot be read; else no block after the first bad
                photo is predicted.
        """
        # (n, 18); rows of photos that cannot be read stay as they are here.
        probabilities = np.full((len(photos), N_CLASSES), 1 / N_CLASSES)
        bad: dict[int, str] = {}
        faces_missed = 0
        with photo_bar("Photos", len(photos), progress) as advance:
            for start, block in self._decoded(photos):
                good = {start + row: crops for row, crops in enumerate(block) if not isinstance(crops, DataError)}
                bad.update(
                    {
                        start + row: _message(photos, start + row, error)
                        for row, error in enumerate(block)
                        if isinstance(error, DataError)
                    }
                )
                faces_missed += sum(any(cropped.face_missed for cropped in crops.values()) for crops in good.values())
                if good and (skip_bad or not bad):
                    pixels = {
                        each: np.stack([crops[each].pixels for crops in good.values()]) for each in self.geometries
                    }
                    # (m, s, s, 3) for each geometry -> (m, 18)
                    probabilities[list(good)] = self._probabilities(pixels)
                advance(len(block))
        if any(each.face_crop != "none" for each in self.geometries) and (skip_bad or not bad):
            log.info(geometry.missed_faces_note(faces_missed, len(photos) - len(bad)))
        return Predictions(probabilities, bad)

    def of_rows(self, faces: FaceDataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predict (n, 18) for rows (n,) of the photo table from the pixel stores, which are built if need be."""
        stores = {each: faces.pixels(each.image_size, face_crop=each.face_crop) for each in self.geometries}
        return self._probabilities(stores, rows)

    def _probabilities(
        self,
        pixels: Mapping[geometry.Geometry, NDArray[np.uint8]],
        rows: NDArray[np.int64] | None = None,
        block_photos: int | None = None,
    ) -> NDArray[np.float64]:
        block = block_photos or self._block
        weighted = [  # classifiers x (n, 18)
            each.weight * self._of(each, pixels[each.geometry], rows, block) for each in self.bundle.classifiers
        ]
        return np.sum(weighted, axis=0)  # type: ignore[no-any-return]  # (n, 18), the mean: weights sum to one

    def _of(
        self, classifier: Classifier, pixels: NDArray[np.uint8], rows: NDArray[np.int64] | None, block_photos: int
    ) -> NDArray[np.float64]:
        from maskcls.models.model import log_probabilities

        models, split, join = classifier.models, classifier.task_split, classifier.recipe.join
        return np.exp(
            log_probabilities(models, split, pixels, rows, join=join, flip=self.flip, block_photos=block_photos)
        )

    def _decoded(self, photos: Sequence[Photo]) -> Iterator[tuple[int, list[Crops | DataError]]]:
        """Blocks of decoded photos, each with its first row; threads decode a few blocks ahead."""
        results = over_photos(self._crops_or_error, photos, ahead=BLOCKS_AHEAD * self._block)
        for start in range(0, len(photos), self._block):
            yield start, list(islice(results, self._block))

    def _crops_or_error(self, photo: Photo) -> Crops | DataError:
        try:
            return self.crops(photo)
        except DataError as error:  # returned, since the pool would end at the first one that is raised
            return error


def probabilities_of(
    bundle: Bundle | Path, faces: FaceDataset, rows: NDArray[np.int64], device: str = "auto"
) -> NDArray[np.float64]:
    """Predict (n, 18) for rows (n,) of the photo table with a bundle: the same as `Predictor` gives for their files."""
    return Predictor(bundle, device).of_rows(faces, rows)


def _table(photos: Sequence[Photo], probabilities: NDArray[np.float64]) -> pd.DataFrame:
    """What `Predictor.predict` returns for photos that all can be read; probabilities are (n, 18)."""
    classes = probabilities.argmax(axis=1)  # (n,)
    found = [decode(int(class_)) for class_ in classes]
    table = pd.DataFrame(
        {
            "photo": [_name(photo, row) for row, photo in enumerate(photos)],
            "mask": [MASKS[one.mask] for one in found],
            "gender": [GENDERS[one.gender] for one in found],
            "age_group": [AGES[one.age] for one in found],
            "class": classes,
            "probability": probabilities.max(axis=1),
        }
    )
    return table.join(pd.DataFrame(probabilities, columns=list(PROBABILITY_COLUMNS)))


def _typed(photo: object) -> str:
    return repr(str(photo)) if isinstance(photo, str | Path) else "photo"


def _name(photo: object, row: int) -> str:
    """What a photo is called: a file's path; other photos have no name but their place."""
    return str(photo) if isinstance(photo, str | Path) else f"photos[{row}]"


def _message(photos: Sequence[Photo], row: int, error: DataError) -> str:
    return str(error) if isinstance(photos[row], str | Path) else f"{_name(photos[row], row)}: {error}"


def _refusal(bad: dict[int, str], total: int, advice: str) -> str:
    heading = f"{len(bad):,} of {total:,} photos cannot be read; {advice}"
    return "\n".join([heading, *first_lines(list(bad.values()), LISTED)])
