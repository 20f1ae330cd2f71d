"""What a fit reads: the pixel store and which photos it trains and validates on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from maskcls.data.facedata import FaceData


@dataclass(frozen=True)
class FitData:
    """Pixels (photos, s, s, 3) uint8, usually memory-mapped; the class (0..17) and the key of each photo; rows of the two sides.

    `digest` names photos, labels and split; a saved fit goes on only with the same.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: Sequence[str]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    digest: str

    @classmethod
    def of(cls, faces: "FaceData", image_size: int, progress: bool = False) -> "FitData":
        """The train and validation people of the data, at one size; decodes the photos where no pixel store has them."""
        return cls(
            pixels=faces.pixels(image_size, progress),
            labels=faces.photos["label"].to_numpy(np.int64),
            keys=faces.photos["key"].tolist(),
            train=faces.rows("train"),
            validation=faces.rows("validation"),
            digest=f"{faces.digest}-{faces.split.digest}",
        )
