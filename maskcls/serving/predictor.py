"""Predicts probabilities of the 18 classes for photos, as validation does: decode, geometry, padded blocks of one size.

If a bundle holds several classifiers, a photo is decoded once and cropped once for each geometry among them, and the
prediction is the weighted mean of their probabilities.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast, overload

import numpy as np
import pandas as pd
import PIL.Image
from numpy.typing import NDArray

from maskcls import machine
from maskcls.data import geometry
from maskcls.data.decoding import decode as decoding
from maskcls.data.decoding.decode import Image, Photo
from maskcls.data.faces.detectors import Detector, check_usable
from maskcls.data.pool import over_photos, photo_bar
from maskcls.errors import CallError, DataError, RunError
from maskcls.labels import N_CLASSES
from maskcls.serving.engine import Engine, Name, create_engine
from maskcls.serving.predicting.unfinished import Block
from maskcls.serving.rows import PhotoPrediction, name_of, row_of, table_of
from maskcls.text import first_lines

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.bundle import Bundle
    from maskcls.serving.torch_engine import TorchEngine

log = logging.getLogger("maskcls")

Crops = dict[geometry.Geometry, geometry.Cropped]
"""One photo through each geometry of a bundle."""
BLOCKS_AHEAD = 2
"""Blocks decoded ahead while the models work on one: enough to keep both busy, and a bound on memory."""
LISTED = 20
"""Photos that a message lists at most."""


class Seen(NamedTuple):
    """A photo that is ready to be predicted, and how many faces it has; None: nobody looked."""

    crops: Crops
    faces: int | None


class Evidence(NamedTuple):
    """Where in a photo the evidence for a class lies, by Grad-CAM."""

    pixels: NDArray[np.uint8]
    """(s, s, 3) RGB, the photo as the classifier sees it, the redder the more evidence lies there."""
    stage: int
    """Of the backbone, 1..5, whose output says it."""


class Predictions(NamedTuple):
    """Predictions for n photos, some of which may be unreadable."""

    probabilities: NDArray[np.float64]
    """(n, 18), rows summing to one; 1/18 each for a photo that cannot be read."""
    bad: dict[int, str]
    """For each photo that cannot be read, by its row, what is wrong."""
    faces: list[int | None] = []
    """How many faces each photo has, None of one that cannot be read; empty where nobody looked."""


class Predictor:
    """A bundle on a device, ready to predict.

        Predictor("runs/first/best").predict(["a.jpg", array, image])

    Several threads may use one at the same time: photos are decoded in parallel, and the models run one call after
    another. From its first predictor on the process keeps the memory that it frees, until `machine.give_back_memory`.

    Args:
        bundle: a bundle, or its folder.
        device: `auto` (the first GPU, or the CPU if there is none), or torch's name, as in `cpu` or `cuda:0`.
        flip: predict the mean of a photo's and its mirror image's probabilities, for twice the work.
        abstain: for a photo whose class has a lower probability the answer is "not sure": no class, no mask, gender or
            age group.
        engine: `torch`; `onnx`, the graph that `maskcls export --onnx` added to the bundle, which needs no torch;
            `int8`, its variant in 8-bit integers; or an engine that is there.
        face_check: count the faces of each photo; where the bundle cuts photos to the face, they are in any case.

    Raises:
        DataError: the folder holds no bundle, or a damaged one.
        CallError: torch cannot use the device, or the bundle has no such graph.
        RunError: what the engine needs is not installed.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        device: str = "auto",
        *,
        flip: bool = False,
        abstain: float = 0.0,
        engine: str | Engine = "torch",
        face_check: bool = False,
    ) -> None:
        from maskcls.serving.bundle import Bundle, read_bundle  # a recipe's model takes 0.3 s to build

        machine.keep_freed_memory()
        with_models = engine == "torch"
        self.bundle = bundle if isinstance(bundle, Bundle) else read_bundle(Path(bundle), with_models=with_models)
        self.engine = create_engine(self.bundle, engine, device, flip=flip) if isinstance(engine, str) else engine
        self.device = self.engine.device
        self.flip = flip
        self.abstain = abstain
        # Each once: classifiers with the same geometry share a photo's crop.
        self.geometries = tuple(dict.fromkeys(classifier.geometry for classifier in self.bundle.classifiers))
        self.cuts_to_faces = any(each.face_crop != "none" for each in self.geometries)
        self.counts_faces = face_check or self.cuts_to_faces
        self._detector = check_usable() if face_check else None

    def predict(self, photos: Photo | Sequence[Photo], *, skip_bad: bool = False) -> pd.DataFrame:
        """Classify photos: one row per photo, in their order.

        The columns are `photo` (the path, or `photos[3]` for what is no file), `mask`, `gender` and `age_group` in the
        words of `maskcls.labels`, `class` (0..17, by the bundle's decision rule, so not always the likeliest),
        `probability` (of that class), and the 18 probabilities, which add up to one, under the names that
        `maskcls.predict --probabilities` writes: `p0_worn_male_under_30` to `p17_not_worn_female_over_59`, all of them
        in `maskcls.serving.marginals.PROBABILITY_COLUMNS`. A predictor that abstains adds the column `sure`; where that
        is False, class and attributes are missing. One that counts faces (`face_check`, or a bundle that cuts photos to
        the face) adds the column `faces`; of several, the largest in the middle is taken by a bundle that cuts photos
        to the face.

        Args:
            photos: paths, contents of files as bytes, uint8 RGB arrays (height, width, 3) and Pillow's images, also
                mixed; or one of these. Files and Pillow's images are turned as their EXIF block says; an array is taken
                as upright. An array of them, (n, height, width, 3), is a list as well.
            skip_bad: give a photo that cannot be read a row of missing values instead of raising. A column `error`,
                empty for the other photos, then says what is wrong with it.

        Raises DataError where photos cannot be read; the message names all of them.
        """
        photos = _as_list(photos)
        probabilities, bad, faces = self._predicted(photos, skip_bad)
        classes = self.classes(probabilities)
        return table_of(photos, classes, probabilities, bad if skip_bad else None, self.abstain, faces or None)

    @overload
    def rows(  # type: ignore[overload-overlap]  # a str is a Sequence[str] as well
        self, photos: str | Path | bytes | PIL.Image.Image, *, skip_bad: bool = False
    ) -> PhotoPrediction: ...

    @overload
    def rows(self, photos: Sequence[Photo], *, skip_bad: bool = False) -> list[PhotoPrediction]: ...

    @overload
    def rows(self, photos: Image, *, skip_bad: bool = False) -> PhotoPrediction | list[PhotoPrediction]: ...

    def rows(
        self, photos: Photo | Sequence[Photo], *, skip_bad: bool = False
    ) -> PhotoPrediction | list[PhotoPrediction]:
        """Classify photos as `predict` does, and return a typed row for each, or for one photo its row.

        Raises DataError where photos cannot be read, unless `skip_bad`: then their rows have an `error`.
        """
        listed = _as_list(photos)
        probabilities, bad, faces = self._predicted(listed, skip_bad)
        classes = self.classes(probabilities).tolist()
        rows = [
            row_of(photo, at, classes[at], probabilities[at], bad.get(at, ""), self.abstain)
            for at, photo in enumerate(listed)
        ]
        if faces:
            rows = [replace(row, faces=count) for row, count in zip(rows, faces, strict=True)]
        return rows[0] if _is_one(photos) else rows

    def _predicted(self, photos: list[Photo], skip_bad: bool) -> Predictions:
        found = self.predictions(photos, skip_bad=skip_bad)
        if found.bad and not skip_bad:
            raise DataError(_refusal(found.bad, len(photos), "mend them, leave them out, or give skip_bad=True."))
        return found

    def classes(self, probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
        """The classes (n,) of 0..17 that the bundle decides for by the probabilities (n, 18) that it gave."""
        return self.bundle.classes(probabilities)

    def look(self, photo: Photo) -> Seen:
        """A photo's crops and, if this predictor counts faces, how many it has. Raises DataError as `rgb_of` does."""
        rgb = decoding.rgb_of(photo)
        crops = self.crops(rgb)
        return Seen(crops, count_faces(rgb, crops, self._detector))

    def crops(self, photo: Photo) -> Crops:
        """A photo's pixels, uint8 (s, s, 3), for each geometry: to the bit what the pixel store holds."""
        rgb = decoding.rgb_of(photo)
        return {each: each.crop(rgb) for each in self.geometries}

    def probabilities(self, photos: Sequence[Photo], *, progress: bool = False) -> NDArray[np.float64]:
        """Predict (n, 18), rows summing to one. Raises DataError that lists all photos which cannot be read."""
        predictions = self.predictions(photos, progress=progress)
        check_readable(predictions.bad, len(photos))
        return predictions.probabilities

    def at_once(self, photos: Sequence[Crops]) -> NDArray[np.float64]:
        """Predict (n, 18) for the crops of n photos in one pass of just these: faster than a padded block, but the
        last bits may differ from it, and between one n and another.
        """
        pixels = {each: np.stack([crops[each].pixels for crops in photos]) for each in self.geometries}  # (n, s, s, 3)
        return self.engine.probabilities(pixels, len(photos))  # (n, 18)

    def evidence(self, photo: Crops, class_: int) -> Evidence | None:
        """Compute where in a photo the evidence for a class 0..17 lies, of an ensemble for its heaviest classifier.

        None where that cannot be said: by a graph, which has no gradients, or of a backbone without maps.
        """
        if self.engine.name != Name.TORCH:
            return None
        from maskcls.models.saliency import heated  # imports torch

        pixels = {each: cropped.pixels[None] for each, cropped in photo.items()}  # (1, s, s, 3)
        found = cast("TorchEngine", self.engine).evidence(pixels, np.array([class_]))
        seen = photo[self.bundle.heaviest.geometry].pixels
        return None if found is None else Evidence(heated(seen, found.heat[0]), found.stage)

    def predictions(self, photos: Sequence[Photo], *, skip_bad: bool = False, progress: bool = False) -> Predictions:
        """Predict like `probabilities`, but return which photos cannot be read instead of raising.

        With a face crop the log says in how many photos no face was found.

        Args:
            skip_bad: whether to predict the others although some cannot be read; else no block after the first bad
                photo is predicted.
        """
        probabilities = np.empty((len(photos), N_CLASSES))
        bad: dict[int, str] = {}
        faces: list[int | None] = []
        faces_missed = 0
        with photo_bar("Photos", len(photos), progress) as advance:
            for block in self.blocks(photos, skip_bad=skip_bad):
                probabilities[block.start : block.end] = block.probabilities
                bad.update(block.bad)
                faces += block.faces
                faces_missed += block.faces_missed
                advance(len(block.probabilities))
        if skip_bad or not bad:
            self.log_missed_faces(faces_missed, len(photos) - len(bad))
        return Predictions(probabilities, bad, faces)

    def blocks(
        self, photos: Sequence[Photo], *, start: int = 0, skip_bad: bool = False
    ) -> Generator[Block, None, None]:
        """Predict the photos from row `start` on, block by block: memory does not grow with their number.

        Args:
            skip_bad: as `predictions` has it.
        """
        any_bad = False
        for first, decoded in self._decoded(photos, start):
            good = {row: one.crops for row, one in enumerate(decoded) if not isinstance(one, DataError)}
            bad = {
                first + row: _message(photos, first + row, error)
                for row, error in enumerate(decoded)
                if isinstance(error, DataError)
            }
            any_bad = any_bad or bool(bad)
            # (m, 18); rows of photos that cannot be read stay as they are here.
            probabilities = np.full((len(decoded), N_CLASSES), 1 / N_CLASSES)
            if good and (skip_bad or not any_bad):
                pixels = {each: np.stack([crops[each].pixels for crops in good.values()]) for each in self.geometries}
                # (m, s, s, 3) for each geometry -> (m, 18)
                probabilities[list(good)] = self.check_finite(self.engine.probabilities(pixels))
            missed = sum(any(cropped.face_missed for cropped in crops.values()) for crops in good.values())
            faces = [None if isinstance(one, DataError) else one.faces for one in decoded] if self.counts_faces else []
            yield Block(first, probabilities, bad, missed, tuple(faces))

    def log_missed_faces(self, missed: int, total: int) -> None:
        """Say in the log, if photos are cut to the face, in how many of those that could be read none was found."""
        if self.cuts_to_faces:
            log.info(geometry.missed_faces_note(missed, total))

    def of_rows(self, faces: FaceDataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predict (n, 18) for rows (n,) of the photo table from the pixel stores, which are built if need be.

        As the models have it, without the bundle's temperature, which changes no class.
        """
        from maskcls.serving.torch_engine import TorchEngine

        if not isinstance(self.engine, TorchEngine):
            raise CallError("A graph has the bundle's temperature inside. Predict rows with the engine torch.")
        stores = {each: faces.pixels(each.image_size, face_crop=each.face_crop) for each in self.geometries}
        return self.check_finite(self.engine.uncalibrated(stores, rows))

    def check_finite(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return them; raise RunError where one is not finite, for the likeliest class would be the first one."""
        if not np.isfinite(probabilities).all():
            raise RunError(
                f"The probabilities of {self.bundle.folder} are not finite: its weights are damaged. Export it again."
            )
        return probabilities

    def _decoded(self, photos: Sequence[Photo], first: int) -> Iterator[tuple[int, list[Seen | DataError]]]:
        """Blocks of decoded photos from row `first` on, each with its first row; threads decode a few blocks ahead."""
        rest = photos[first:] if first else photos
        results = over_photos(self._seen_or_error, rest, ahead=BLOCKS_AHEAD * self.engine.block)
        for start in range(first, len(photos), self.engine.block):
            yield start, list(islice(results, self.engine.block))

    def _seen_or_error(self, photo: Photo) -> Seen | DataError:
        try:
            return self.look(photo)
        except DataError as error:  # returned, since the pool would end at the first one that is raised
            return error


def count_faces(rgb: Image, crops: Crops, detector: Detector | None) -> int | None:
    """Return how many faces a photo has: as they were found to cut it, if they were, or else by the detector; None
    without one.
    """
    counts = [cropped.faces for cropped in crops.values() if cropped.faces is not None]
    if counts:
        return counts[0]
    return None if detector is None else detector.find(rgb).number


def probabilities_of(
    bundle: Bundle | Path, faces: FaceDataset, rows: NDArray[np.int64], device: str = "auto"
) -> NDArray[np.float64]:
    """Predict (n, 18) for rows (n,) of the photo table with a bundle, as `Predictor.of_rows` does."""
    return Predictor(bundle, device).of_rows(faces, rows)


def check_readable(bad: Mapping[int, str], total: int) -> None:
    """Raise DataError that lists photos which cannot be read, if there are any; `bad` says of each what is wrong."""
    if bad:
        raise DataError(_refusal(bad, total, "nothing was written. Mend them, or use --skip-bad."))


def _is_one(photos: object) -> bool:
    """Whether this is a photo, and no list of photos. An array of two dimensions is one without colours."""
    has_edges = getattr(photos, "ndim", 0) in (2, 3)
    return isinstance(photos, str | Path | bytes) or not hasattr(photos, "__iter__") or has_edges


def _as_list(photos: Photo | Sequence[Photo]) -> list[Photo]:
    return [cast("Photo", photos)] if _is_one(photos) else list(cast("Sequence[Photo]", photos))


def _message(photos: Sequence[Photo], row: int, error: DataError) -> str:
    return str(error) if isinstance(photos[row], str | Path) else f"{name_of(photos[row], row)}: {error}"


def _refusal(bad: Mapping[int, str], total: int, advice: str) -> str:
    heading = f"{len(bad):,} of {total:,} photos cannot be read; {advice}"
    return "\n".join([heading, *first_lines(list(bad.values()), LISTED)])
