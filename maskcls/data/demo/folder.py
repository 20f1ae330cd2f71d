"""A contest folder of drawn faces, for where no data is at hand.

It has the layout and the oddities of the contest's data: ids with leading zeros, one that ends in -1, one that two
people share, different file endings in one folder, litter.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from maskcls import seeds
from maskcls.data.demo import face as demo_face
from maskcls.data.demo.brush import Image
from maskcls.data.demo.face import NONE, NOSE_OUT, ON_CHIN, WORN, Face
from maskcls.data.pool import over_photos
from maskcls.errors import CallError
from maskcls.files import write_csv
from maskcls.labels import AGE_CUTS, GENDERS, age_group, encode

MIN_PERSONS = 6
"""One for each gender and age group."""

ANSWERS = "eval-answers.csv"
"""The drawn truth of eval's photos, at the folder's top, outside of eval/."""

SHARES = (0.22, 0.18, 0.10)
"""Of all people, for each gender: under 30, 30 to 59, over 59."""

AGE_RANGES = ((18, AGE_CUTS[0]), AGE_CUTS, (AGE_CUTS[1], 76))
"""First age of each age group, and the first beyond it, years."""

SHOTS = (*(f"mask{number}" for number in range(1, 6)), "incorrect_mask", "normal")
SHOT_MASKS = (0, 0, 0, 0, 0, 1, 2)  # indices into labels.MASKS
ENDINGS = (".jpg", ".jpg", ".jpg", ".jpg", ".jpeg", ".png")
FIRST_ID = 10_001  # beyond the contest's, so that its label corrections fit nobody here
JPEG_QUALITY = 92
TRAIN_STREAM, EVAL_STREAM, ORDER_STREAM = range(3)


@dataclass(frozen=True)
class Person:
    """A row of train.csv, and the face that belongs to it."""

    id: str
    gender: int
    age_years: int
    face: Face
    seed: tuple[int, int, int]

    @property
    def path(self) -> str:
        """The person's folder."""
        return f"{self.id}_{GENDERS[self.gender]}_Drawn_{self.age_years}"


def draw(out: Path, persons: int, seed: int) -> None:
    """Write a contest folder of drawn faces.

    train/ has `persons` people, seven photos each, and eval/ a quarter as many others, whose classes are in ANSWERS.
    The same persons and seed give the same files in every process. Everything is written beside `out` first and
    renamed at the end.

    Raises CallError where `out` exists and is not empty, or `persons` < MIN_PERSONS.
    """
    if persons < MIN_PERSONS:
        raise CallError(f"`persons >= {MIN_PERSONS}` must hold, one for each gender and age group, but got {persons}.")
    if seed < 0:
        raise CallError(f"`seed >= 0` must hold, but got {seed}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CallError(f"{out} is there already. Name a new folder for the drawn faces, or remove it first.")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        temporary.chmod(0o755)  # mkdtemp's is private
        _write_train(temporary / "train", _people(persons, seed, TRAIN_STREAM))
        _write_eval(temporary, _people(max(4, persons // 4), seed, EVAL_STREAM), seed)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _people(count: int, seed: int, stream: int) -> list[Person]:
    """Return people in the proportions of SHARES, in shuffled order."""
    cells = [(gender, group) for gender in range(len(GENDERS)) for group in range(len(SHARES))]
    filled = [cell for cell, places in zip(cells, _apportion(count), strict=True) for _ in range(places)]
    order = seeds.generator(seed, stream).permutation(count)
    people = []
    for number, place in enumerate(order.tolist()):
        gender, group = filled[place]
        people.append(_person(_id(number, stream), gender, group, (seed, stream, number)))
    return people


def _apportion(count: int) -> list[int]:
    """Return how many of `count` people each gender x age group gets.

    Each gets at least one (if there are as many people), and the rest are divided by SHARES.
    """
    shares = np.array(SHARES * len(GENDERS))
    places = np.zeros(len(shares), dtype=int)
    for _ in range(count):
        places[np.argmax(shares / (places + (places > 0) * 0.5 + 1e-9))] += 1
    return [int(value) for value in places]


def _id(number: int, stream: int) -> str:
    """Return an id of six digits.

    As in the contest, one id ends in -1 (the fourth person's), and two people share one (the fifth and the sixth).
    """
    shared = number - 1 if number == 5 else number
    return f"{FIRST_ID + shared + 500_000 * stream:06d}" + ("-1" if number == 3 else "")


def _person(id_: str, gender: int, group: int, seed: tuple[int, int, int]) -> Person:
    rng = seeds.generator(*seed, len(SHOTS))
    age = int(rng.integers(*AGE_RANGES[group]))
    return Person(id_, gender, age, demo_face.random_face(rng, bool(gender), group), seed)


def _shot(person: Person, index: int) -> Image:
    """Draw the person's photo number `index` of SHOTS: uint8 RGB."""
    rng = seeds.generator(*person.seed, index)
    incorrect = (NOSE_OUT, ON_CHIN)[int(rng.integers(2))]
    mask = (WORN, incorrect, NONE)[SHOT_MASKS[index]]
    return demo_face.draw(person.face, demo_face.random_shot(rng, mask), rng)


def _write_train(train: Path, people: Sequence[Person]) -> None:
    photos = []
    for number, person in enumerate(people):
        folder = train / "images" / person.path
        folder.mkdir(parents=True)
        for index, name in enumerate(SHOTS):
            mixed = number % len(ENDINGS) == len(ENDINGS) - 1  # such a folder's photos differ in their endings
            ending = ENDINGS[(number + index * mixed) % len(ENDINGS)]
            photos.append((folder / f"{name}{ending}", person, index))
    _draw_photos(photos)
    litter = train / "images" / people[0].path / "._mask1.jpg"
    litter.write_bytes(b"\0\x05\x16\x07" + bytes(60))  # what macOS leaves beside copied files
    rows = [(p.id, GENDERS[p.gender], "Drawn", p.age_years, p.path) for p in people]
    write_csv(train / "train.csv", ("id", "gender", "race", "age", "path"), rows)


def _write_eval(out: Path, people: Sequence[Person], seed: int) -> None:
    images = out / "eval" / "images"
    images.mkdir(parents=True)
    photos, answers = [], []
    for person in people:
        for index, name in enumerate(SHOTS):
            image_id = hashlib.sha1(f"{person.seed} {name}".encode(), usedforsecurity=False).hexdigest() + ".jpg"
            photos.append((images / image_id, person, index))
            answers.append((image_id, encode(SHOT_MASKS[index], person.gender, age_group(person.age_years)), person.id))
    _draw_photos(photos)
    order = seeds.generator(seed, ORDER_STREAM).permutation(len(answers)).tolist()
    shuffled = [answers[place] for place in order]
    write_csv(out / "eval" / "info.csv", ("ImageID", "ans"), [(image_id, 0) for image_id, _, _ in shuffled])
    write_csv(out / ANSWERS, ("ImageID", "ans", "person"), shuffled)


def _draw_photos(photos: Sequence[tuple[Path, Person, int]]) -> None:
    """Draw each person's photo of that number into that file, on all cores."""
    for _ in over_photos(lambda photo: _write_photo(photo[0], _shot(*photo[1:])), photos):
        pass


def _write_photo(file: Path, rgb: Image) -> None:
    quality = [] if file.suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    encoded, data = cv2.imencode(file.suffix, rgb[:, :, ::-1], quality)
    if not encoded:
        raise OSError(f"{file} could not be encoded.")
    file.write_bytes(data.tobytes())
