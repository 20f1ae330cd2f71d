"""Where a winner is wrong: the surest mistakes first, and photos only if they are asked for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.models.model import build_models
from maskcls.models.saliency import features, grad_cam
from maskcls.recipe import Recipe
from tests.tune.report.test_how_good import judged, predicted
from tune.report.mistakes import worst_mistakes
from tune.report.page import ReportOptions, write_report
from tune.runs.folder import SearchRun

__all__ = ["judged"]
RECIPE = Recipe().override({"backbone": "lcnet_050", "weights": "none", "image_size": 96, "task_split": "three"})


def test_the_surest_mistakes_come_first() -> None:
    found = predicted(4, np.arange(12) < 3)
    found.log_probabilities[1, found.predicted[1]] = 0.0
    assert [one.row for one in worst_mistakes(found, 10)] == [1, 0, 2]
    assert len(worst_mistakes(found, 2)) == 2
    first = worst_mistakes(found, 1)[0]
    assert (first.truth, first.predicted) == (found.truth[1], found.predicted[1])


def test_photos_are_in_the_page_only_if_they_are_asked_for(
    judged: tuple[SearchRun, FaceDataset], tmp_path: Path
) -> None:
    run, faces = judged
    names = {side: set(faces.photos["key"].iloc[faces.rows(side)]) for side in ("train", "validation")}
    plain = write_report(run, ReportOptions(faces.cache, predicts=True), tmp_path / "plain.html").read_text()
    assert "<img" not in plain
    assert "Where it is wrong</h2>" in plain
    assert "tune.report --with-photos adds them" in plain
    options = ReportOptions(faces.cache, predicts=True, with_photos=True)
    shown = write_report(run, options, tmp_path / "photos.html").read_text()
    assert shown.count("<img") > 3
    captions = [re.sub("<wbr>", "", text) for text in re.findall(r"<figcaption>(.*?)</figcaption>", shown)]
    photos = [text.split("<br>")[-1] for text in captions if text.startswith("the photo")]
    alike = [text.split("<br>")[-1] for text in captions if text.startswith("alike")]
    assert photos
    assert set(photos) <= names["validation"]
    assert len(alike) == 3 * len(photos)
    assert set(alike) <= names["train"]


def test_the_map_is_of_the_last_stage_that_is_fine_enough() -> None:
    models = build_models(RECIPE, pretrained=False)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), dtype=np.uint8)
    found = grad_cam(models, pixels, np.array([0, 5, 11, 17]))
    assert found is not None
    assert found.heat.shape == (4, 96, 96)
    assert found.heat.min() >= 0
    assert 0.3 < found.heat.max() <= 1
    assert found.heat.std() > 0
    assert found.stage == 5
    small = grad_cam(models, pixels[:, :48, :48], np.zeros(4, np.int64))
    assert small is not None
    assert small.stage == 4, "the last stage would have two cells along an edge"


def test_a_photo_is_most_alike_to_itself() -> None:
    models = build_models(RECIPE, pretrained=False)
    pixels = np.random.default_rng(1).integers(0, 256, (70, 96, 96, 3), dtype=np.uint8)
    found = features(models, pixels, np.arange(70))
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(70), abs=1e-5)
    assert (found @ found.T).argmax(axis=1).tolist() == list(range(70))
