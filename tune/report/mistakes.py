"""The part of a search's page on where the winner is wrong: names and probabilities, and photos if they are asked for.

The mistakes are those on validation people: whoever changes labels or recipes because of what is seen here does not
use up the holdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from maskcls.labels import CLASS_NAMES
from maskcls.recipe import N_STAGES
from maskcls.reports.page import Html, Section, folded, grid, paragraph, picture, section, strip, table
from maskcls.text import counted
from maskcls.training.fit_data import scored_rows
from tune.report.predicted import Predicted
from tune.runs.folder import SearchRun

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset

LISTED, PICTURED = 30, 12
NEIGHBOURS = 3
MOST_TRAINING_PHOTOS = 4000
"""Among so many photos of training people neighbours are looked for, so that it takes seconds."""
PICTURE_PX = 112


@dataclass(frozen=True)
class Mistake:
    """A photo that was taken for another class."""

    row: int
    """Of the predictions."""
    key: str
    truth: int
    predicted: int
    p_predicted: float
    p_truth: float

    @property
    def text(self) -> str:
        """For people: what it is, and what it was taken for."""
        return (
            f"{CLASS_NAMES[self.truth]} ({self.p_truth:.0%}), taken for {CLASS_NAMES[self.predicted]} "
            f"({self.p_predicted:.0%})"
        )


def worst_mistakes(found: Predicted, limit: int) -> list[Mistake]:
    """Photos with a wrong class, those first in which the wrong class has most more probability than the true one."""
    probabilities = np.exp(found.log_probabilities)
    rows = np.arange(len(found.truth))
    p_predicted, p_truth = probabilities[rows, found.predicted], probabilities[rows, found.truth]
    order = np.argsort(p_truth - p_predicted, kind="stable")
    wrong = [int(row) for row in order if found.truth[row] != found.predicted[row]]
    keys = found.photos["key"].tolist()
    return [
        Mistake(
            row,
            keys[row],
            truth=int(found.truth[row]),
            predicted=int(found.predicted[row]),
            p_predicted=p_predicted[row],
            p_truth=p_truth[row],
        )
        for row in wrong[:limit]
    ]


def sections(run: SearchRun, faces: FaceDataset, found: Predicted | None, *, with_photos: bool) -> list[Section]:
    """The worst mistakes on validation people; nothing where no predictions for them are known."""
    if found is None:
        return []
    wrong = int((found.truth != found.predicted).sum())
    text = (
        f"{wrong} of {counted(len(found.truth), 'validation photo')} have a wrong class; the surest mistakes first. "
        f"{found.about}"
    )
    mistakes = worst_mistakes(found, len(found.truth))
    rows = [
        [CLASS_NAMES[one.truth], f"{one.p_truth:.3f}", CLASS_NAMES[one.predicted], f"{one.p_predicted:.3f}", one.key]
        for one in mistakes[:LISTED]
    ]
    listing = table(["true class", "its probability", "predicted class", "its probability", "photo"], rows)
    pictures = (
        _pictures(run, faces, _one_of_each_person(found, mistakes)[:PICTURED]) if with_photos and mistakes else Html()
    )
    if not with_photos:
        text += " No photos, since they are of people: tune.report --with-photos adds them."
    return [
        section("Where it is wrong", text, pictures + folded(f"the first {len(rows)}", listing, unfolded=not pictures))
    ]


def _one_of_each_person(found: Predicted, mistakes: Sequence[Mistake]) -> list[Mistake]:
    """The worst mistake of each person: several photos of one are often wrong together."""
    kept: dict[object, Mistake] = {}
    for one in mistakes:
        kept.setdefault(found.person[one.row], one)
    return list(kept.values())


def _pictures(run: SearchRun, faces: FaceDataset, mistakes: Sequence[Mistake]) -> Html:
    """Of each mistake the photo as the model sees it, what it looked at, and the training photos most like it."""
    from maskcls.models.saliency import grad_cam, heated
    from maskcls.serving.bundle import read_bundle

    bundle = read_bundle(run.best)
    classifier = bundle.heaviest
    pixels = faces.pixels(classifier.geometry.image_size, face_crop=classifier.geometry.face_crop)
    row_of = {key: row for row, key in enumerate(faces.photos["key"].tolist())}
    rows = np.array([row_of[one.key] for one in mistakes], np.int64)
    saliency = grad_cam(classifier.models, pixels[rows], np.array([one.predicted for one in mistakes], np.int64))
    nearest, likeness = _nearest(classifier.models, faces, pixels, rows)
    labels, keys = faces.photos["label"].tolist(), faces.photos["key"].tolist()
    cards = []
    for at, (one, row) in enumerate(zip(mistakes, rows, strict=True)):
        shown = [picture(_jpeg(pixels[row]), ["the photo", one.key])]
        if saliency is not None:
            shown.append(picture(_jpeg(heated(pixels[row], saliency.heat[at])), ["what it looked at"]))
        for other, alike in zip(nearest[at], likeness[at], strict=True):
            lines = [f"alike {alike:.2f}", CLASS_NAMES[labels[other]], keys[other]]
            shown.append(picture(_jpeg(pixels[other]), lines))
        cards.append(strip(shown, one.text))
    seen = (
        "Red: where the evidence for the predicted class lies, by Grad-CAM on the backbone's stage "
        f"{saliency.stage} of {N_STAGES}."
        if saliency is not None
        else "Grad-CAM is left out: no stage of this backbone gives a map."
    )
    alike_text = (
        f"Then the {NEIGHBOURS} photos of training people that are most alike in the features behind the backbone."
    )
    return paragraph(f"The worst mistake of each person, as the model sees the photo. {seen} {alike_text}") + grid(
        cards
    )


def _nearest(
    models: Sequence[object], faces: FaceDataset, pixels: NDArray[np.uint8], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the most alike training photos with all labels, (m, NEIGHBOURS), and their cosine similarities."""
    from maskcls.models.saliency import features

    among = scored_rows(faces, "train")
    if len(among) > MOST_TRAINING_PHOTOS:
        among = np.sort(np.random.default_rng(0).choice(among, MOST_TRAINING_PHOTOS, replace=False))
    alike = features(models, pixels, rows) @ features(models, pixels, among).T  # type: ignore[arg-type, operator]  # (m, n)
    order = np.argsort(-alike, axis=1)[:, :NEIGHBOURS]
    return among[order], np.take_along_axis(alike, order, axis=1)


def _jpeg(rgb: NDArray[np.uint8]) -> bytes:
    import cv2

    size = (PICTURE_PX, PICTURE_PX)
    enlarged = cv2.resize(np.ascontiguousarray(rgb[..., ::-1]), size, interpolation=cv2.INTER_CUBIC)
    _, encoded = cv2.imencode(".jpg", enlarged, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return bytes(encoded)
