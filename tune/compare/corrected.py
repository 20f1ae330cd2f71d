"""What corrections of labels buy: `--vary corrections=none,accepted.csv`.

The arms train, and choose their epoch, with the labels that each file of corrections makes; all of them are tested by
the labels of the last one. The run's photo table has these labels as columns of its own, so that it does not matter
what becomes of the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskcls.errors import CallError
from maskcls.files import expanded
from tune.compare.treatments import CORRECTIONS, Treatment, corrections_name

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.training.fit_data import FitData

JUDGED = "judged"
"""Column of the photo table: whether somebody judged a label of the person."""
JUDGED_PEOPLE, EVERYBODY = "judged people", "everybody"
"""Names of the two comparisons: on whom the same fits are tested."""


class LabelsOf(Treatment):
    """Training, and the choice of the epoch, have the labels of one of the varied corrections."""

    keeps_features = True

    def __init__(self, name: str) -> None:
        self._name = name

    def data(self, faces: FaceDataset, data: FitData, generator: np.random.Generator) -> FitData:
        own = {source: column for source, column in columns(self._name).items() if column in faces.photos}
        photos = faces.photos.assign(**{source: faces.photos[column] for source, column in own.items()})
        rows = np.concatenate([data.train, data.validation])
        return replace(data.relabelled(photos, rows), digest=f"{data.digest}-{CORRECTIONS}={self._name}")


def columns(name: str) -> dict[str, str]:
    """By the columns whose values corrections change, those of the photo table that have them under these corrections.

    Runs from before a photo could lack a label have those of the label and the age alone.
    """
    return {source: f"{source}:{name}" for source in ("label", "age", "mask", "gender", "age_group")}


def checked(values: Sequence[Any]) -> list[str]:
    """The values of --vary corrections: `none`, `published`, or CSV files as absolute paths.

    Raises CallError for a file that isn't there, two of one name, or a single value.
    """
    made = []
    for value in map(str, values):
        file = expanded(value).resolve()
        if value not in ("none", "published") and not file.is_file():
            raise CallError(
                f"--vary {CORRECTIONS}: there is no file {value}. Expected none, published, and CSV files of "
                "corrections."
            )
        made.append(value if value in ("none", "published") else str(file))
    names = [corrections_name(value) for value in made]
    if len(set(names)) < len(names):
        raise CallError(f"--vary {CORRECTIONS}: the files need different names, but got {', '.join(made)}. Rename one.")
    if len(made) < 2:
        raise CallError(
            f"--vary {CORRECTIONS} needs at least two values: the base's first, and last the labels that everybody is "
            "tested by, as in corrections=none,accepted.csv."
        )
    return made


def with_labels(
    faces: FaceDataset, values: Sequence[str], data: Path, *, skip_bad: bool, people_from: str | None = None
) -> FaceDataset:
    """Return the photos with the labels and ages under each of the corrections, and who was judged by the last.

    Extra photos, which are not among the data, keep their labels.

    Raises CallError if they all make the same labels.
    """
    from maskcls.data.corrections import read_corrections
    from maskcls.data.extra import with_extra_rows
    from maskcls.data.photos import read_photos

    photos, keys = faces.photos.copy(), faces.photos["key"].tolist()
    for value in values:
        table = read_photos(data, corrections=read_corrections(value), skip_bad=skip_bad, people_from=people_from)
        table = with_extra_rows(table, faces.photos).set_index("key").loc[keys]
        for source, column in columns(corrections_name(value)).items():
            photos[column] = table[source].to_numpy()
    first, *others = (photos[list(columns(corrections_name(value)).values())].to_numpy() for value in values)
    if all(((one == first) | ((one != one) & (first != first))).all() for one in others):  # nan: an age is not known
        raise CallError(
            f"--vary {CORRECTIONS}={','.join(map(corrections_name, values))}: they all make the same labels, so there "
            "is nothing to compare. Were corrections accepted, and for these people?"
        )
    judged = read_corrections(values[-1]).judged_people(photos)
    photos[JUDGED] = photos["person"].isin(list(judged)).astype(int)
    return replace(faces, photos=photos)


def claims(values: Sequence[str]) -> Mapping[str, str]:
    """By comparison's name, what a table says above it."""
    truth = f"tested by the labels of {corrections_name(values[-1])}"
    return {
        JUDGED_PEOPLE: f"Tested are the people who stand in {corrections_name(values[-1])}, accepted or rejected, "
        f"{truth}. An audit chose them, so they are not a sample of all people.",
        EVERYBODY: f"Tested is everybody, {truth}; labels that nobody judged may be wrong.",
    }
