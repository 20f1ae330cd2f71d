"""What a trial's rows say beside its numbers: whether frozen features are kept, and what is wrong with their cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.errors import DataError
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.stores.photo_limits import MAX_ASPECT, StatedLimits
from tests.conftest import DemoFaces
from tests.tune.searches import new_run
from tune.fitting.curve import curve
from tune.fitting.request import TrialRequest
from tune.fitting.worker import run_fit

RECIPE = Recipe(
    backbone="test_resnet",
    weights="none",
    image_size=32,
    frozen_stages=5,
    views=2,
    epochs=2,
    batch_size=16,
    lr_head=1e-3,
)


@pytest.fixture
def faces(tmp_path: Path, demo_faces: DemoFaces) -> FaceDataset:
    return prepare(demo_faces(18, 1), cache=CacheOptions(tmp_path / "cache"))


def rows(faces: FaceDataset, name: str, recipe: Recipe = RECIPE) -> list[dict[str, Any]]:
    run = new_run(faces.cache.folder.parent, name)
    faces.save(run.data)
    folder = run.trial("0000")
    folder.mkdir(parents=True)
    request = TrialRequest("0000", recipe.model_dump(), folder, run.path, 1, 0.0)
    return list(curve(request, lambda asked: run_fit(asked, cache=faces.cache, shared=True)))


def test_rows_say_whether_frozen_features_are_kept(faces: FaceDataset) -> None:
    assert [row["frozen_features"] for row in rows(faces, "kept")] == ["kept", "kept"]
    (why,) = {row["frozen_features"] for row in rows(faces, "none", RECIPE.override({"frozen_stages": 0}))}
    assert "no stage is frozen" in why


def test_a_worker_decodes_within_the_limits_of_the_call(faces: FaceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine whose environment states others."""
    monkeypatch.setenv(MAX_ASPECT, "20")
    narrow = replace(faces, cache=replace(faces.cache, limits=StatedLimits(aspect=1.2)))
    with pytest.raises(DataError, match=r"120x160 px, 1 times as long as wide: at most 1\.2 times"):
        rows(narrow, "narrow")
    wide = replace(faces, cache=replace(faces.cache, limits=StatedLimits(aspect=1.5)))
    assert len(rows(wide, "wide", RECIPE.override({"epochs": 1}))) == 1


def test_a_cache_that_takes_no_features_is_reported_with_the_trial_which_goes_on(faces: FaceDataset) -> None:
    kept = rows(faces, "kept")
    (faces.cache.folder / "features").rename(faces.cache.folder / "elsewhere")
    (faces.cache.folder / "features").write_text("a file where the folder should be")
    reported = rows(faces, "spoilt")
    assert [row["validation_f1"] for row in reported] == [row["validation_f1"] for row in kept]
    for row in reported:
        assert row["frozen_features"].startswith(row["message"])
        assert row["message"].startswith(f"the cache for frozen features, {faces.cache.folder}, takes none: ")


def test_a_fit_waits_for_room_that_other_fits_photos_take(faces: FaceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos of 40 px are in use, and there is no room for those of 32 px beside them."""
    in_use, waited = [faces.pixels(40)], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        in_use.clear()

    monkeypatch.setattr("maskcls.data.pixels.sleep", wait)
    budget_gb = (in_use[0].nbytes + 10_000) * 1e-9
    small = replace(faces, cache=replace(faces.cache, pixel_gb=budget_gb))
    assert [row["epoch"] for row in rows(small, "waits")] == [1, 2]
    assert len(waited) == 1
