"""FaceDataset: labelled photos, their split, and the cache of their pixels: all that a fit or a search needs."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.data import pixels as pixel_stores
from maskcls.data.checks import check_folder, training_problem, without_bad_photos
from maskcls.data.corrections import Corrections, read_corrections
from maskcls.data.demo import folder as demo
from maskcls.data.extra import with_extra
from maskcls.data.geometry import Geometry
from maskcls.data.layouts.scan import scan
from maskcls.data.photos import read_photos
from maskcls.data.problems import refusal
from maskcls.data.shortages import shortages
from maskcls.data.splits import EXTRA, SIDES, Split, read_split, rows, split_people
from maskcls.errors import DataError, FolderError, OutOfReach
from maskcls.files import FileKind, write_atomically
from maskcls.labels import AGES, GENDERS, MASKS, N_CLASSES, UNKNOWN
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.given import PixelSource
from maskcls.stores.locks import FolderLock
from maskcls.text import counted

if TYPE_CHECKING:
    from maskcls.stores.features import FeatureStores

log = logging.getLogger(__name__)

PHOTOS, SPLIT = "photos.csv", "split.json"
PHOTOS_FILE = FileKind("the table of photos that a run writes", "Restore it from a backup.", most_bytes=1 << 34)
DEMO_PERSONS, DEMO_SEED = 240, 0

_NUMBERS = ("gender", "age", "age_group", "mask", "label", "size_bytes", "mtime_ns", "judged")
"""Columns that are read as numbers, also where a colon follows. Others are text: an id has leading zeros."""


@dataclass(frozen=True)
class FaceDataset:
    """The photo table (`photos.read_photos`), the split of its people, and where derived arrays are kept.

    Row i of the table is row i of `pixels`.
    """

    photos: pd.DataFrame
    split: Split
    cache: CacheOptions
    source: PixelSource | None = None
    """Gives decoded photos to a machine that does not see the photos."""

    def pixels(self, image_size: int, progress: bool = False, face_crop: str = "none") -> NDArray[np.uint8]:
        """Return every photo through the geometry, (n, image_size, image_size, 3) uint8, mapped read-only.

        Photos are decoded on first use only. `face_crop` is one of `geometry.FACE_CROPS`. Raises DataError listing the
        photos that can't be decoded.
        """
        return self.known_pixels(image_size, progress, face_crop)[0]

    def known_pixels(
        self, image_size: int, progress: bool = False, face_crop: str = "none"
    ) -> tuple[NDArray[np.uint8], str]:
        """Return what `pixels` does, and a digest of all that it depends on; "" if photos changed meanwhile."""
        return pixel_stores.open_or_build(
            self.photos["file"].tolist(),
            self.photos["key"].tolist(),
            Geometry(image_size, face_crop),
            self.cache.folder,
            self.cache.pixel_gb,
            progress,
            stamps=self._stamps,
            waits=self.cache.waits,
            source=self.source,
        )

    def decoding_s(self, digest: str) -> float:
        """Return the CPU seconds that a photo took when the pixels of this digest were decoded; 0 where unknown."""
        return pixel_stores.decoding_s(self.cache.folder, digest)

    @property
    def _stamps(self) -> list[pixel_stores.Stamp] | None:
        """The photos' stamps when the table was made, so that no fit of a run looks at every file again.

        None in a run that was begun before the table had them.
        """
        if "mtime_ns" not in self.photos:
            return None
        return list(zip(self.photos["size_bytes"].tolist(), self.photos["mtime_ns"].tolist(), strict=True))

    def feature_stores(self, *, shared: bool) -> FeatureStores | None:
        """Return where frozen features are kept, or None if none are to be kept.

        Args:
            shared: whether other fits will need the same features.
        """
        from maskcls.stores.features import FeatureStores

        return FeatureStores(self.cache.folder, self.cache.feature_gb, shared) if self.cache.feature_gb > 0 else None

    def rows(self, side: str) -> NDArray[np.int64]:
        """Return the rows of `train`, `validation` or `holdout`, in rising order."""
        return rows(self.photos, self.split.side(side))

    @cached_property
    def digest(self) -> str:
        """12 hex digits of the photos' keys, sizes, labels and ages, wherever the folder is."""
        columns = (self.photos[name].tolist() for name in ("key", "size_bytes", "label", "age"))
        lines = ["\t".join(map(str, row)) for row in zip(*columns, strict=True)]
        if UNKNOWN in self.photos["label"].to_numpy():  # else they follow from label and age
            parts = (self.photos[name].tolist() for name in ("mask", "gender", "age_group"))
            lines = [f"{line}\t{known}" for line, *known in zip(lines, *parts, strict=True)]
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:12]

    def save(self, folder: Path) -> None:
        """Write the table and the split, each file whole or not at all, for `load` to read."""
        folder.mkdir(parents=True, exist_ok=True)
        table = self.photos.to_csv(index=False)
        if "\r" in table:  # in a name; a reader takes it for a line's end, unless it is quoted
            table = self.photos.to_csv(index=False, quoting=csv.QUOTE_ALL)
        for name, text in ((PHOTOS, table), (SPLIT, self.split.to_json())):
            write_atomically(folder / name, text)

    @classmethod
    def load(cls, folder: Path, cache: CacheOptions) -> Self:
        """Read what `save` wrote. Raises DataError where it isn't there or can't be read."""
        for file in (folder / PHOTOS, folder / SPLIT):
            if not file.exists():
                raise OutOfReach(f"{file} is missing: {folder} does not hold the photos and the split of a run.")
        with PHOTOS_FILE.reading(folder / PHOTOS):
            photos = _table(PHOTOS_FILE.read_text(folder / PHOTOS))
        split = Split.load(folder / SPLIT)
        with PHOTOS_FILE.reading(folder / PHOTOS):
            _check_table(photos, split)
        return cls(photos, split, cache)


def _table(text: str) -> pd.DataFrame:
    """Return the photo table of a run. Raises ValueError where the text holds another one."""
    # Empty cells and a text such as NA stay text; by default pandas makes them nan. An empty age is made nan.
    photos = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    for name in photos:
        if str(name).partition(":")[0] in _NUMBERS:
            photos[name] = pd.to_numeric(photos[name])
    if EXTRA in photos:
        photos[EXTRA] = photos[EXTRA] == str(True)
    return photos


def _check_table(photos: pd.DataFrame, split: Split) -> None:
    """Raise ValueError where the table is not one that a run writes, or lacks people of the split."""
    if photos["key"].duplicated().any():
        raise ValueError("two photos have the same key")
    # Runs of earlier versions lack what follows from the label.
    for name, most in (("label", N_CLASSES), ("mask", len(MASKS)), ("gender", len(GENDERS)), ("age_group", len(AGES))):
        if name != "label" and name not in photos:
            continue
        if not photos[name].between(UNKNOWN, most - 1).all() or (photos[name] % 1 != 0).any():
            raise ValueError(f"{name} holds something else than whole numbers from {UNKNOWN} to {most - 1}")
    if not pd.api.types.is_numeric_dtype(photos["age"]) or not pd.api.types.is_integer_dtype(photos["size_bytes"]):
        raise ValueError("age or size_bytes holds something else than numbers")
    lacking = {person for side in SIDES for person in split.side(side)} - set(photos["person"])
    if lacking:
        raise ValueError(f"it lacks photos of {counted(len(lacking), 'person', 'people')} of the split")
    photos["file"].str.len()  # a column of text


def prepare(
    data: Path | None,
    *,
    corrections: str = "published",
    split_file: Path | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    people_from: str | None = None,
    extra: Path | None = None,
    cache: CacheOptions | None = None,
    progress: bool = False,
) -> FaceDataset:
    """Return the photos, corrected and split; without `data`, demo faces, which are drawn once into the cache.

    With `skip_bad` every photo is decoded once to find those that can't be (the result is kept in the cache), and
    those are left out; without it, they are reported when `FaceDataset.pixels` is built.

    Args:
        people_from: as of `layouts.scan.scan`.
        extra: photos for training alone, which `scan` reads as well.

    Raises DataError listing what is wrong, or naming the classes with nobody in training.
    """
    cache = cache or CacheOptions()
    # Before the photos, so that a wrong --corrections is reported at once.
    wanted = read_corrections(corrections if data is not None else "none")
    folder = demo_folder(cache.folder) if data is None else data
    is_asked = split_file is None and (wanted.published or not wanted.rows)
    photos = _read(folder, wanted, skip_bad, progress, split_seed if is_asked else None, people_from)
    left_out: set[str] = set()
    if extra is not None:
        photos = with_extra(photos, extra, skip_bad=skip_bad, people_from=people_from)
    if skip_bad:
        photos = without_bad_photos(photos, cache.folder, progress)
        left_out = scan(folder, people_from).paths - set(photos["person"])  # whom a split may name without an error
    split = split_people(photos, split_seed) if split_file is None else read_split(split_file, photos, left_out)
    problem = training_problem(photos, split, split_file)
    if problem:
        raise DataError(problem.message)
    faces = FaceDataset(photos, split, cache)
    _warn_of_missing_classes(faces)
    for note in shortages(photos, split):
        log.warning(note)
    return faces


def photo_table(
    data: Path,
    *,
    corrections: str = "none",
    skip_bad: bool = False,
    people_from: str | None = None,
    extra: Path | None = None,
) -> pd.DataFrame:
    """Return the table that `prepare` makes of the photos, none of which is opened: photos that cannot be decoded stay.

    Raises DataError listing what is wrong.
    """
    photos = read_photos(data, corrections=read_corrections(corrections), skip_bad=skip_bad, people_from=people_from)
    return photos if extra is None else with_extra(photos, extra, skip_bad=skip_bad, people_from=people_from)


def _warn_of_missing_classes(faces: FaceDataset) -> None:
    """Warn that a score is over fewer than 18 classes, which may be over a handful of people, too."""
    present = len(set(faces.photos["label"].iloc[faces.rows("validation")]) - {UNKNOWN})
    if present < N_CLASSES:
        log.warning(
            "The %d validation people have %d of the %d classes, and macro F1 is the mean over those: "
            "scores will be rough.",
            len(faces.split.validation),
            present,
            N_CLASSES,
        )


def _read(
    folder: Path,
    corrections: Corrections,
    skip_bad: bool,
    progress: bool,
    split_seed: int | None,
    people_from: str | None,
) -> pd.DataFrame:
    """Call `read_photos`, and refuse with what `maskcls.check` lists, photos that can't be decoded included.

    Args:
        split_seed: as of `check_folder`.
    """
    try:
        return read_photos(folder, corrections=corrections, skip_bad=skip_bad, people_from=people_from)
    except FolderError:
        if skip_bad:
            raise
        # Decodes every photo, so only after a failure: then one message lists all that is wrong.
        problems = check_folder(folder, progress, split_seed, people_from)
        if not problems:  # mended in the meantime
            raise
        raise refusal(problems, folder) from None


def demo_folder(cache: Path) -> Path:
    """Return the demo faces' contest folder under `cache`.

    It is drawn on first use, and again when the code that draws it has changed.
    """
    folder = demo_place(cache)
    cache.mkdir(parents=True, exist_ok=True)
    # Of several processes one draws, the others wait.
    with FolderLock(cache, Path(f"{folder}.lock")):
        if not folder.exists():
            demo.draw(folder, DEMO_PERSONS, DEMO_SEED)
    return folder


def demo_place(cache: Path) -> Path:
    """Return where under `cache` the demo faces are, or will be drawn."""
    sources = sorted(Path(demo.__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
    return cache / f"demo-{DEMO_PERSONS}-{DEMO_SEED}-{code}"
