"""The classes trained with: age cuts and bands move or drop training photos, and nothing that is scored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from torch import Tensor

from maskcls.errors import CallError
from maskcls.labels import decode
from maskcls.recipe import Recipe
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData, TrainingPhotos
from maskcls.training.model_fit import ModelFit
from tests.maskcls.training.small import RECIPE, data

YEARS = np.array([[18, 26, 28, 29], [31, 44, 57, 58], [60, 61, 64, 70]])


def aged() -> FitData:
    """The small data, each age group with four different ages in turn."""
    small = data(180)
    ages = YEARS[small.labels % 3, np.arange(180) // 18 % 4]
    return dataclasses.replace(small, ages=ages)


def training_photos(recipe: Recipe) -> TrainingPhotos:
    return TrainingPhotos.of(recipe, recipe.split.models[-1], aged())


def test_without_cuts_of_its_own_training_is_reported_the_classes() -> None:
    photos = training_photos(Recipe())
    assert np.array_equal(photos.rows, aged().train)
    assert np.array_equal(photos.classes, aged().labels[aged().train])


def test_a_lower_cut_moves_training_photos_and_no_validation_photo() -> None:
    recipe = RECIPE.override({"task_split": "single", "age_cut_old": 58, "epochs": 1})
    given = aged()
    photos = training_photos(recipe)
    for row, class_ in zip(photos.rows, photos.classes, strict=True):
        before, after = decode(int(given.labels[row])), decode(int(class_))
        assert after[:2] == before[:2]
        assert after.age == (2 if given.ages[row] >= 58 else before.age)
    assert (photos.classes != given.labels[photos.rows]).sum() == (given.ages[given.train] == 58).sum() > 0
    fit = Fit(recipe, given)
    (result,) = fit.epochs()
    truth = given.labels[given.validation]
    assert result.scores.n == len(truth)
    assert [f1 is not None for f1 in result.scores.to_dict()["class_f1"]] == [c in truth for c in range(18)]


def test_a_band_is_left_out_of_training_alone() -> None:
    recipe = RECIPE.override({"task_split": "three", "ages_left_out": "28-29,57-58", "epochs": 1})
    given = aged()
    photos = training_photos(recipe)
    assert set(photos.ages) == {18, 26, 31, 44, 60, 61, 64, 70}
    fit = Fit(recipe, given)
    (result,) = fit.epochs()
    assert result.photos == 3 * len(photos.rows)
    assert result.scores.n == len(given.validation)


def test_the_photos_of_a_batch_are_those_its_labels_are_of() -> None:
    """With a band left out, positions count what is left; else a photo could have its neighbour's label unnoticed."""
    plain = {
        "augment_flip": 0.0,
        "augment_probability": 0.0,
        "sampler": "weighted",
        "age_cut_old": 58,
        "ages_left_out": "28-29",
    }
    fit = Fit(RECIPE.override({"task_split": "mask_genderage", **plain}), aged())
    for model_fit in fit.model_fits:
        photos = TrainingPhotos.of(model_fit.recipe, model_fit.model.tasks, aged())
        for pixels, positions in model_fit.batches.epoch(1):
            rows = photos.rows[positions.numpy()]
            assert np.array_equal(pixels.numpy(), aged().pixels[rows])
            labels = buffer(model_fit, "labels")[positions].numpy()
            assert np.array_equal(labels, model_fit.model.tasks[0].of(photos.classes[positions.numpy()]))
            assert np.array_equal(aged().ages[rows], buffer(model_fit, "ages")[positions].numpy())


def buffer(model_fit: ModelFit, name: str) -> Tensor:
    """A tensor that the first head's loss keeps: the `labels` or the `ages` of the training photos."""
    found = getattr(model_fit.head_losses[0], name)
    assert isinstance(found, Tensor)
    return found


def test_a_member_that_does_not_depend_on_age_may_leave_a_group_out() -> None:
    recipe = RECIPE.override({"task_split": "three", "members.mask3.ages_left_out": "60-99"})
    mask, _, age = Fit(recipe, aged()).model_fits
    assert len(buffer(mask, "labels")) < len(buffer(age, "labels"))


def test_one_member_may_have_its_own_cut() -> None:
    recipe = RECIPE.override(
        {"task_split": "three", "members.age3.age_cut_old": 57, "members.age3.ages_left_out": "28-29"}
    )
    mask, _, age = Fit(recipe, aged()).model_fits
    assert len(buffer(mask, "labels")) == len(aged().train)
    assert len(buffer(age, "labels")) < len(aged().train)
    assert (buffer(age, "labels").numpy() == 2).sum() == (aged().ages[aged().train] >= 57).sum()


@pytest.mark.parametrize(
    "values", [{"ages_left_out": "60-99"}, {"age_cut_old": 80}, {"ages_left_out": "18-99"}, {"age_cut_young": 10}]
)
def test_a_class_left_without_photos_is_reported_with_the_ages_there_are(values: dict[str, object]) -> None:
    with pytest.raises(
        CallError, match=r"leave nobody to train classes on who is '.*'\. The training people are 18 to 70 years old"
    ):
        training_photos(Recipe().override(values))
