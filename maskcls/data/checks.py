"""All that is wrong with a folder of photos, in one pass: rows, names, and every photo decoded once, in parallel."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from maskcls.data.contest_folder import IMAGES, scan
from maskcls.data.geometry import decode
from maskcls.data.identical import identical_photos
from maskcls.data.photos import tabulate
from maskcls.data.problems import FATAL, Problem, ordered
from maskcls.data.splits import missing_classes, split_people
from maskcls.errors import DataError
from maskcls.labels import CLASS_NAMES

__all__ = ["Inspection", "Problem", "bad_photos", "check_folder", "inspect_folder"]

CONVERTED = {
    "EXIF-turned": "turned as their EXIF data say",
    "16-bit": "brought from 16 bits a colour to 8",
    "grayscale": "turned from grayscale into RGB",
    "transparent": "laid over white",
}
"""geometry.CONVERSIONS, for people to read."""


@dataclass(frozen=True)
class Inspection:
    """What a folder holds: `problems` that training refuses, `notes` that it doesn't mind, and the photos that are good."""

    problems: list[Problem]
    notes: list[str] = field(default_factory=list)
    photos: pd.DataFrame = field(default_factory=pd.DataFrame)


def check_folder(data: Path, progress: bool = False) -> list[Problem]:
    """All problems of a contest folder, most important first; none if training takes it."""
    return inspect_folder(data, progress).problems


def inspect_folder(data: Path, progress: bool = False) -> Inspection:
    """`check_folder`, with what is worth knowing besides; `progress` shows a bar on a terminal."""
    data = data.absolute()
    contents = scan(data)
    if any(problem.kind in FATAL for problem in contents.problems):
        return Inspection(ordered(contents.problems), contents.notes)
    photos = tabulate(contents)
    errors, conversions = decode_all(photos["file"].tolist(), progress)
    problems = [Problem("photo", f"{IMAGES}/{photos['key'].iloc[row]}", message) for row, message in errors.items()]
    notes = contents.notes + [f"{count:,} photos are {CONVERTED[name]} when they are read." for name, count in sorted(conversions.items())]
    shared = identical_photos(photos)
    if shared:
        people = len({person for persons in shared for person in persons})
        notes.append(f"{len(shared):,} photos stand under several people ({people:,} in all), who go to one side of every split together.")
    good = photos.drop(index=list(errors)).reset_index(drop=True)
    return Inspection(ordered([*contents.problems, *problems, *class_problems(good)]), notes, good)


def class_problems(photos: pd.DataFrame) -> Iterator[Problem]:
    """Classes with nobody, in the table or else in the training side of its default split."""
    if photos.empty:
        yield Problem("folder", IMAGES, f"{IMAGES} has no photo that can be used. Mend the others, or check the path.")
        return
    everybody = missing_classes(photos, set(photos["person"]))
    if everybody:
        yield class_problem(everybody, "in the whole folder", "Add people of that gender and age, and their photos.")
        return
    split = split_people(photos)
    untrained = missing_classes(photos, split.train)
    if untrained:
        yield class_problem(untrained, "in training", "Add people, or choose them with --split or another --split-seed.")
    elif not split.validation or not split.holdout:
        message = f"There are only {photos['person'].nunique()} people, too few for training, validation and holdout. Add people."
        yield Problem("class", "train/train.csv", message)


def class_problem(classes: Sequence[int], where: str, remedy: str) -> Problem:
    """That classes (0..17) have nobody, `where` and what to do being said."""
    names = "; ".join(f"{class_} ({CLASS_NAMES[class_]})" for class_ in classes)
    plural = "Classes" if len(classes) > 1 else "Class"
    message = f"{plural} with nobody {where}: {names}. Expected photos of every one of the {len(CLASS_NAMES)} classes. {remedy}"
    return Problem("class", "train/train.csv", message)


def decode_all(files: Sequence[str], progress: bool = False) -> tuple[dict[int, str], Counter[str]]:
    """Decode every file. Returns the message for each row that can't be, and how many photos needed each conversion."""
    errors: dict[int, str] = {}
    conversions: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool, _bar(len(files), progress) as advance:
        for row, (error, needed) in enumerate(pool.map(_try_decode, files)):
            if error:
                errors[row] = error
            conversions.update(needed)
            advance()
    return errors, conversions


def _try_decode(file: str) -> tuple[str, tuple[str, ...]]:
    try:
        return "", decode(file).conversions
    except DataError as error:
        return str(error), ()


@contextmanager
def _bar(total: int, shown: bool) -> Iterator[Callable[[], None]]:
    console = Console(stderr=True)
    columns = (TextColumn("Checking photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda: bar.advance(task)


def bad_photos(photos: pd.DataFrame, cache: Path, progress: bool = False) -> dict[str, str]:
    """Photos that can't be decoded: key -> message.

    The answer is remembered under `cache`/checks, keyed by the files' paths, sizes and times, so that a second run decodes nothing.
    """
    identity = hashlib.sha256()
    for file in photos["file"]:
        stat = Path(file).stat()
        identity.update(f"{file}\t{stat.st_size}\t{stat.st_mtime_ns}\n".encode())
    remembered = cache / "checks" / f"{identity.hexdigest()[:24]}.json"
    try:
        known: dict[str, str] = json.loads(remembered.read_text())
        return known
    except (OSError, json.JSONDecodeError):
        errors, _ = decode_all(photos["file"].tolist(), progress)
    bad = {str(photos["key"].iloc[row]): message for row, message in errors.items()}
    remembered.parent.mkdir(parents=True, exist_ok=True)
    temporary = remembered.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(bad, indent=1))
    temporary.replace(remembered)
    return bad
