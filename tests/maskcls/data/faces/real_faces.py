"""What a detector finds in the real faces beside the repository."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from maskcls.data.decoding.decode import decode
from maskcls.data.faces.boxes import Box
from maskcls.data.faces.detectors import DETECTORS

FACES = Path(__file__).parents[5] / "shared/faces/dev/train/images"
needs_real_faces = pytest.mark.skipif(not FACES.is_dir(), reason="no real faces beside the repository")
KINDS = ("normal", "incorrect_mask", "worn")
WIDTH = 192
"""Of the photos, px."""


@dataclass(frozen=True)
class Found:
    """The box of each photo's face, None where none was found, by `<person>/<shot>`."""

    photos: dict[str, Box | None]

    @property
    def boxes(self) -> dict[str, Box]:
        """Those that were found."""
        return {photo: box for photo, box in self.photos.items() if box is not None}

    def share(self, kind: str = "") -> float:
        """Share of photos in which a face was found; of one of KINDS."""
        shots = [photo for photo in self.photos if photo.partition("/")[2].startswith(kind.replace("worn", "mask"))]
        return sum(self.photos[photo] is not None for photo in shots) / len(shots)

    def misplaced(self, narrowest: float) -> int:
        """Count boxes below a share of the width, or with a centre farther than 0.12 of it from the middle."""
        return sum(
            box.edge / WIDTH < narrowest or abs((box.left + box.edge / 2) / WIDTH - 0.5) > 0.12
            for box in self.boxes.values()
        )

    def elsewhere(self) -> list[str]:
        """The photos whose box overlaps with that of the same person's bare face by less than 0.4 of their union.

        The seven photos of a person come from one shot.
        """
        return [
            photo
            for photo, box in self.boxes.items()
            if (bare := self.photos.get(photo.partition("/")[0] + "/normal")) is not None and _overlap(box, bare) < 0.4
        ]


def photos_of(every: int = 1) -> dict[str, Path]:
    """Return the files of every n-th person, by `<person>/<shot>`."""
    files = [file for person in sorted(FACES.iterdir())[::every] for file in sorted(person.glob("[!.]*"))]
    return {f"{file.parent.name}/{file.stem}": file for file in files}


def found_among(name: str, every: int = 1) -> Found:
    """Look for the face in the photos of every n-th person."""
    find = DETECTORS[name].find
    return Found({photo: find(decode(file).rgb).portrait for photo, file in photos_of(every).items()})


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    wide = min(one.left + one.edge, other.left + other.edge) - max(one.left, other.left)
    high = min(one.top + one.edge, other.top + other.edge) - max(one.top, other.top)
    both = max(0.0, wide) * max(0.0, high)
    return both / (one.edge**2 + other.edge**2 - both)
