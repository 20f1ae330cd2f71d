"""Everything that is wrong with a folder of photos, in one pass: rows, names, and every photo decoded once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pandas as pd

from maskcls.data.decoding.decode import check
from maskcls.data.identical import identical_photos
from maskcls.data.layouts.scan import root_of, scan
from maskcls.data.photos import tabulate
from maskcls.data.pool import over_photos, photo_bar
from maskcls.data.problems import FATAL, Problem, ordered
from maskcls.data.shortages import labels_of_nobody, shortages
from maskcls.data.splits import SIDES, Split, missing_classes, split_people
from maskcls.errors import Damaged, DataError
from maskcls.files import FileKind, unreadable, write_atomically
from maskcls.labels import CLASS_NAMES
from maskcls.stores.photo_limits import limits
from maskcls.text import shown

__all__ = [
    "Inspection",
    "Problem",
    "bad_photos",
    "check_folder",
    "inspect_folder",
    "training_problem",
    "without_bad_photos",
]

log = logging.getLogger("maskcls")

REMEMBERED = FileKind("reasons why photos cannot be decoded, by their keys", "Remove {file}.", most_bytes=1 << 32)
_RULES = 3
"""Raised where `decode` refuses or takes other photos than before, so that none of its earlier results is read."""

CONVERTED = {
    "EXIF-turned": "turned as their EXIF data say",
    "16-bit": "brought from 16 bits a colour to 8",
    "grayscale": "turned from grayscale into RGB",
    "transparent": "laid over white",
}
"""What `geometry.CONVERSIONS` do, in words."""


@dataclass(frozen=True)
class Inspection:
    """The contents of a folder: `problems` that training refuses, `notes` that it does not, and the good photos."""

    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    photos: pd.DataFrame = field(default_factory=pd.DataFrame)


def check_folder(
    data: Path, progress: bool = False, split_seed: int | None = 0, people_from: str | None = None
) -> list[Problem]:
    """Return all problems of the data, most important first; none if training accepts it."""
    return inspect_folder(data, progress, split_seed, people_from).problems


def inspect_folder(
    data: Path, progress: bool = False, split_seed: int | None = 0, people_from: str | None = None
) -> Inspection:
    """Return the problems of the data, notes on it and its good photos.

    Args:
        data: a photo table or a folder, as of `layouts.scan.scan`.
        progress: show a bar on a terminal.
        split_seed: of the split of the people that has to be trainable; None: not asked, because split or labels are
            the user's own.
        people_from: as of `layouts.scan.scan`.
    """
    data = data.absolute()
    contents = scan(data, people_from)
    if any(problem.kind in FATAL for problem in contents.problems):
        return Inspection(ordered(contents.problems), contents.notes)
    photos = tabulate(contents)
    # Photos of people with invalid rows as well, so that one pass finds all that is wrong.
    files = photos["file"].tolist() + contents.unlabelled
    errors, conversions = decode_all(files, progress)
    problems = [Problem("photo", os.path.relpath(files[i], root_of(data)), message) for i, message in errors.items()]
    notes = contents.notes + [
        f"{count:,} photos are {CONVERTED[name]} when they are read." for name, count in sorted(conversions.items())
    ]
    shared = identical_photos(photos)
    if shared:
        people = len({person for persons in shared for person in persons})
        notes.append(
            f"{len(shared):,} photos stand under several people ({people:,} in all), "
            "who go to one side of every split together."
        )
    good = photos[~photos["file"].isin([files[i] for i in errors])].reset_index(drop=True)
    if good.empty:
        message = f"{shown(data)} has no photo that can be used. Mend the others, or check the path."
        untrainable: Problem | None = Problem("class", ".", message)
    else:
        split = split_people(good, split_seed or 0)
        untrainable = None if split_seed is None else training_problem(good, split)
        notes += [] if untrainable or split_seed is None else shortages(good, split)
    return Inspection(ordered([*contents.problems, *problems, *([untrainable] if untrainable else [])]), notes, good)


def training_problem(photos: pd.DataFrame, split: Split, split_file: Path | None = None) -> Problem | None:
    """Return why this split of the people can't be trained on, or None if it can.

    Either a class has nobody in training, or validation is empty.
    """
    people = ", ".join(f"{len(split.side(name)):,} in {name}" for name in SIDES)
    missing = missing_classes(photos, split.train)
    if len(missing) == len(CLASS_NAMES):
        message = (
            f"None of the {len(photos):,} photos has mask, gender and age group, so that no class can be learned or "
            "scored. Add the labels."
        )
        return Problem("class", ".", message)
    if missing:
        everywhere = set(missing) <= set(missing_classes(photos, set(photos["person"])))
        where = "in the whole folder" if everywhere else f"in training (people: {people})"
        choose = (
            f"Move some to train in {split_file}."
            if split_file
            else "Add some, or choose another --split-seed, or your own --split."
        )
        remedy = "Add people of that gender and age, and their photos." if everywhere else choose
        names = "; ".join(f"{class_} ({CLASS_NAMES[class_]})" for class_ in missing)
        classes = "A class" if len(missing) == 1 else "Classes"
        absent = labels_of_nobody(photos, split.train)
        labels = f"No photo has {', '.join(absent)}. " if absent else ""
        message = f"{classes} with nobody {where}: {names}. {labels}Expected somebody of each. {remedy}"
        return Problem("class", ".", message)
    if not split.validation:
        message = (
            f"Nobody is left for validation (people: {people}). "
            "Expected three people or more who share no photo. Add some."
        )
        return Problem("class", ".", message)
    return None


def without_bad_photos(photos: pd.DataFrame, cache: Path, progress: bool = False) -> pd.DataFrame:
    """Return the table without the photos that can't be decoded, and log how many they are.

    Raises DataError where none is left.
    """
    bad = bad_photos(photos, cache, progress)
    if not bad:
        return photos
    if len(bad) == len(photos):
        raise DataError(f"None of the {len(photos):,} photos can be decoded. The first: {next(iter(bad.values()))}")
    log.warning(
        "--skip-bad: %d photos that can't be decoded are left out. The first: %s", len(bad), next(iter(bad.values()))
    )
    return photos[~photos["key"].isin(list(bad))].reset_index(drop=True)


def decode_all(files: Sequence[str], progress: bool = False) -> tuple[dict[int, str], Counter[str]]:
    """Decode every file.

    Returns a message for each row that can't be decoded, and how many photos needed each conversion.
    """
    errors: dict[int, str] = {}
    conversions: Counter[str] = Counter()
    with photo_bar("Checking photos", len(files), progress) as advance:
        for row, (error, needed) in enumerate(over_photos(_try_decode, files)):
            if error:
                errors[row] = error
            conversions.update(needed)
            advance(1)
    return errors, conversions


def _try_decode(file: str) -> tuple[str, tuple[str, ...]]:
    try:
        return "", check(file)
    except DataError as error:
        return str(error), ()


def bad_photos(photos: pd.DataFrame, cache: Path, progress: bool = False) -> dict[str, str]:
    """Return the photos that can't be decoded: key -> message.

    The result is kept under `cache`/checks by the photos' keys, sizes and times, and by what decides what can be
    decoded: OpenCV's version, `decode`'s rules and its limits. So a second run decodes nothing, also where the folder
    was moved.
    """
    identity = hashlib.sha256(f"{cv2.__version__} {_RULES} {limits()}\n".encode())
    for file, key in zip(photos["file"], photos["key"], strict=True):
        try:
            stat = Path(file).stat()
        except OSError as error:
            raise DataError(unreadable(file, error)) from None
        # With size and time, so that a photo that was mended is decoded again.
        identity.update(f"{key}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    remembered = cache / "checks" / f"{identity.hexdigest()[:24]}.json"
    file_of = dict(zip(photos["key"], photos["file"], strict=True))
    known = _read_reasons(remembered)
    if known is None:
        errors, _ = decode_all(photos["file"].tolist(), progress)
        bad = {str(photos["key"].iloc[row]): message for row, message in errors.items()}
        # A message begins with the file's path, which is another one once the folder has moved.
        known = {key: message.removeprefix(file_of[key]) for key, message in bad.items()}
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(remembered, json.dumps(known, indent=1))
    return {key: f"{file_of[key]}{reason}" for key, reason in known.items()}


def _read_reasons(remembered: Path) -> dict[str, str] | None:
    """Return why photos can't be decoded, by key; None if that was not found out before, or the file is torn."""
    try:
        known = REMEMBERED.read_object(remembered)
    except Damaged:
        return None
    return known if all(isinstance(reason, str) for reason in known.values()) else None
