"""The study of the contest project: its declaration, and that each treatment does what its name says, on real fits of
drawn faces."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from maskcls.data.corrections import read_corrections
from maskcls.data.dataset import FaceDataset
from maskcls.data.decoding.decode import decode
from maskcls.data.photos import read_photos
from maskcls.data.splits import split_people
from maskcls.labels import decode as decode_class
from maskcls.models.model import log_probabilities, member_log_probs
from maskcls.recipe import Recipe
from maskcls.serving import decision
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from maskcls.training.model_fit import rate_factor
from maskcls.training.presets import base_recipe
from tests.conftest import DemoFaces
from tune.compare import studies
from tune.compare.arms import find_inapplicable, plan_comparison
from tune.compare.defects import (
    BASELINE_MEAN,
    BestByAccuracy,
    MovingBatchNorm,
    SplitByPhoto,
    UncorrectedLabels,
    UnfinishedCosine,
)
from tune.compare.treatments import TREATMENTS, find

STUDY = studies.get("contest")
SMALL = Recipe().override(
    {
        "backbone": "test_resnet",
        "weights": "none",
        "image_size": 32,
        "frozen_stages": 0,
        "batch_size": 16,
        "epochs": 1,
        "lr_body": 1e-3,
    }
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, demo_faces: DemoFaces) -> FaceDataset:
    torch.set_num_threads(1)
    photos = read_photos(demo_faces(24, 3))
    return FaceDataset(photos, split_people(photos), CacheOptions(tmp_path_factory.mktemp("study") / "cache"))


@pytest.fixture(scope="module")
def fit(faces: FaceDataset) -> Fit:
    fit = Fit(SMALL.override({"task_split": "mask_genderage"}), FitData.of(faces, SMALL))
    list(fit.epochs())
    return fit


def answers(name: str, fit: Fit, faces: FaceDataset) -> np.ndarray:
    with fit.at_best() as models:
        return find(name).predict(models, fit, faces, faces.rows("holdout"))


class TestDeclaration:
    def test_all_that_is_to_be_asked_is_asked(self) -> None:
        assert [comparison.name for comparison in STUDY.comparisons] == [
            *("preprocessing", "numbering", "best epoch", "schedule", "BatchNorm", "hue", "split"),
            *("frozen stages", "task split"),
            *("join of five_binary", "join of mask_gender_ages", "join of mask_genderage", "join of advised"),
            *(
                "loss",
                "sampler",
                "oversampling, augmented",
                "oversampling, not augmented",
                "corrections",
                "age boundary",
            ),
            *("face crop", "image size", "mixing", "averages", "age regression"),
        ]
        assert sum(len(comparison.variants) for comparison in STUDY.comparisons) == 54
        assert all(comparison.claim and comparison.source for comparison in STUDY.comparisons)

    def test_every_treatment_is_used_and_there(self) -> None:
        declared = [one for name in studies.names() for one in studies.get(name).comparisons]
        used = {one.treatment for one in declared} | {arm.treatment for one in declared for arm in one.variants}
        assert used == set(TREATMENTS)
        for name in TREATMENTS:
            assert type(find(name)).__doc__

    @pytest.mark.parametrize("scale", ["cpu", "gpu"])
    @pytest.mark.parametrize("preset", ["contest-2021", "fine-tune"])
    def test_it_is_planned_from_every_preset_at_every_scale(self, preset: str, scale: str) -> None:
        base = base_recipe(preset, scale, {}, demo=False)
        for comparison in STUDY.comparisons:
            made, same = plan_comparison(comparison, base, {})
            assert len(made.variants) + len(same) == len(comparison.variants)
            assert same == (["image_size=112"] if (comparison.name, scale) == ("image size", "cpu") else [])

    def test_what_a_call_makes_pointless_is_left_out(self, faces: FaceDataset) -> None:
        base = base_recipe("fine-tune", "cpu", {}, demo=False)
        fixed = {"task_split": "three", "frozen_stages": 0, "join": "hard"}
        made = [plan_comparison(comparison, base, fixed)[0] for comparison in STUDY.comparisons]
        assert {name for name, _ in find_inapplicable(made, faces)} == {
            *("numbering", "BatchNorm", "corrections"),
            *("join of five_binary", "join of mask_gender_ages", "join of mask_genderage", "join of advised"),
        }

    def test_a_treatment_says_itself_what_it_changes(self) -> None:
        trained = {name for name in TREATMENTS if find(name).retrains}
        assert trained == {
            *("unfinished cosine", "moving BatchNorm", "split by photo", "uncorrected labels"),
            *("unknown ages", "unknown ages left out"),
        }
        assert {name for name in TREATMENTS if find(name).picks} == {"best epoch by accuracy", "last epoch"}

    def test_hue_limits_are_the_projects(self) -> None:
        """0.2 of OpenCV's 180 steps of hue, and of 255 of saturation and value."""
        (hue,) = (one for one in STUDY.comparisons if one.name == "hue")
        values = hue.variants[0].overrides
        assert values["augment_hue_degrees"] == pytest.approx(0.2 / 180 * 360)
        assert values["augment_saturation"] == values["augment_value"] == pytest.approx(0.2 / 255)


def test_squeezed_photos_are_whole(fit: Fit, faces: FaceDataset) -> None:
    files = faces.photos["file"].iloc[faces.rows("holdout")]
    whole = np.stack([cv2.resize(decode(file).rgb, (32, 32), interpolation=cv2.INTER_AREA) for file in files])
    with fit.at_best() as models:
        expected = log_probabilities(models, fit.recipe.split, whole).argmax(1)
    assert answers("squeezed photos", fit, faces).tolist() == expected.tolist()
    assert not np.array_equal(whole, fit.data.pixels[faces.rows("holdout")])


def test_a_foreign_mean_reaches_the_model_and_is_taken_back(fit: Fit, faces: FaceDataset) -> None:
    before = [model.mean.clone() for model in fit.models]
    seen = []
    hook = fit.models[0].backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    answers("foreign mean and std", fit, faces)
    hook.remove()
    first = torch.tensor(fit.data.pixels[faces.rows("holdout")[0]]).float() / 255
    expected = (first - torch.tensor(BASELINE_MEAN)) / torch.tensor((0.237, 0.247, 0.246))
    torch.testing.assert_close(seen[0][0].permute(1, 2, 0), expected, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(model.mean, mean) for model, mean in zip(fit.models, before, strict=True))


def test_inverted_numbering_turns_under_30_round_and_leaves_gender_alone(
    faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of members that know all 18 classes: whoever is under 30 is called older, and the others under 30, but for those
    over 59."""
    recipe = SMALL.override({"task_split": "mask_genderage"})
    classes = np.arange(18)
    known = [np.log(np.eye(t.n_labels)[t.of(classes)] * 0.98 + 0.02 / t.n_labels) for t in recipe.split.tasks]
    monkeypatch.setattr("tune.compare.defects._log_probs", lambda models, pixels, rows: known)
    fit = Fit(recipe, FitData.of(faces, recipe))
    predicted = [
        decode_class(int(class_)) for class_ in find("inverted numbering").predict(fit.models, fit, faces, classes)
    ]
    true = [decode_class(class_) for class_ in range(18)]
    assert [answer[:2] for answer in predicted] == [answer[:2] for answer in true]
    assert [t.age for t, c in zip(predicted, true, strict=True) if c.age == 0] == [1] * 6
    assert [t.age for t, c in zip(predicted, true, strict=True) if c.age == 1] == [0] * 6


def test_the_hard_join_and_the_flip_are_the_products_own(fit: Fit, faces: FaceDataset) -> None:
    rows = faces.rows("holdout")
    with fit.at_best() as models:
        expected = fit.recipe.split.join(member_log_probs(models, fit.data.pixels, rows), "hard").argmax(1)
        mirrored = log_probabilities(models, fit.recipe.split, fit.data.pixels, rows, flip=True).argmax(1)
    assert answers("hard join", fit, faces).tolist() == expected.tolist()
    assert answers("test-time flip", fit, faces).tolist() == mirrored.tolist()


def test_the_decision_rule_is_fitted_on_the_validation_people_and_the_other_tested_ones(
    fit: Fit, faces: FaceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decision, "LEAST_PEOPLE", 10)
    tested, validated = faces.rows("holdout"), faces.rows("validation")
    rows = np.concatenate([tested, validated])
    with fit.at_best() as models:
        found = np.exp(log_probabilities(models, fit.recipe.split, fit.data.pixels, rows))
    photos = faces.photos.iloc[rows]
    answered = decision.Predicted(found, photos["label"].to_numpy(np.int64), photos["person"].to_numpy(object))
    expected = decision.cross_fitted_classes(answered, decision.prior_of(faces))[: len(tested)]
    assert answers("decision rule", fit, faces).tolist() == expected.tolist()


def test_the_best_epoch_by_accuracy(fit: Fit) -> None:
    result = fit.history[0]
    better = dataclasses.replace(result, validation_f1=0.0, scores=dataclasses.replace(result.scores, accuracy=1.0))
    assert BestByAccuracy.picks
    assert BestByAccuracy().better(better, result)
    assert not find("").better(better, result)


def test_an_unfinished_cosine_never_comes_down(faces: FaceDataset) -> None:
    fit = Fit(SMALL.override({"epochs": 12}), FitData.of(faces, SMALL))
    assert rate_factor(fit.model_fits[0].recipe, 12) < 0.01
    UnfinishedCosine().prepared(fit)
    assert fit.model_fits[0].recipe.epochs == 50
    assert rate_factor(fit.model_fits[0].recipe, 12) > 0.8
    assert fit.recipe.epochs == 12, "so many are still run"


@pytest.mark.parametrize("averaged", [{}, {"ema_decay": 0.9}])
def test_moving_batchnorm_moves_statistics_alone_and_survives_a_kill(
    faces: FaceDataset, tmp_path: Path, averaged: dict[str, float]
) -> None:
    recipe = SMALL.override({"frozen_stages": 5, "epochs": 2, **averaged})

    def prepared() -> Fit:
        fit = Fit(recipe, FitData.of(faces, recipe))
        MovingBatchNorm().prepared(fit)
        return fit

    fit, killed, resumed = prepared(), prepared(), prepared()
    before = {name: tensor.clone() for name, tensor in fit.models[0].backbone.state_dict().items()}
    results = list(fit.epochs())
    moved = {
        name.rpartition(".")[2]
        for name, tensor in fit.models[0].backbone.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}
    next(iter(killed.epochs()))
    killed.save(tmp_path)
    assert resumed.resume(tmp_path)
    assert [r.validation_f1 for r in resumed.epochs()] == [r.validation_f1 for r in results]
    assert resumed.history[-1].train_loss == results[-1].train_loss


def test_split_by_photo_puts_people_on_both_sides_and_leaves_the_tested_alone(faces: FaceDataset) -> None:
    data = FitData.of(faces, SMALL)
    mixed = SplitByPhoto().data(faces, data, np.random.default_rng(0))
    people = faces.photos["person"].to_numpy()
    assert set(people[mixed.train]) & set(people[mixed.validation])
    assert not set(people[data.train]) & set(people[data.validation])
    assert (len(mixed.train), len(mixed.validation)) == (len(data.train), len(data.validation))
    assert sorted([*mixed.train, *mixed.validation]) == sorted([*data.train, *data.validation])
    assert not set(people[mixed.train]) & set(faces.split.holdout)


def test_uncorrected_labels_reach_training_alone(faces: FaceDataset, tmp_path: Path) -> None:
    assert UncorrectedLabels().applies(faces, SMALL) == "no correction changes a label of these photos"
    trained, validated = faces.split.train[0], faces.split.validation[0]
    (tmp_path / "own.csv").write_text(f"what,path,value\nswap,{trained},\nswap,{validated},\n")
    folder = Path(faces.photos["file"].iloc[0]).parents[3]
    corrected = dataclasses.replace(
        faces, photos=read_photos(folder, corrections=read_corrections(str(tmp_path / "own.csv")))
    )
    assert UncorrectedLabels().applies(corrected, SMALL) == ""
    data = FitData.of(corrected, SMALL)
    raw = UncorrectedLabels().data(corrected, data, np.random.default_rng(0))
    changed = np.flatnonzero(raw.labels != data.labels)
    assert set(corrected.photos["person"].iloc[changed]) == {trained}
    assert len(changed) == 2, "incorrect_mask and normal"
    assert raw.digest != data.digest
