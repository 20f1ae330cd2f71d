"""Photos that lack labels: they train the tasks whose labels they have, and nothing else changes.

If an unknown label were taken for the label -1, which is the last one of an array, or for 0, each of these would fail.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from maskcls.errors import CallError
from maskcls.labels import UNKNOWN
from maskcls.recipe import Recipe
from maskcls.stores.features import FeatureStores
from maskcls.task_split import TASK_SPLITS
from maskcls.tasks import task
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData, TrainingPhotos
from maskcls.training.head_loss import EpochLoss
from maskcls.training.losses import SoftF1, age_loss, create_loss
from maskcls.training.metrics import scores
from maskcls.training.model_fit import ModelFit
from tests.maskcls.training.gapped import AGE, GENDER, MASK, gapped, lacking, without
from tests.maskcls.training.kept_features import KEPT
from tests.maskcls.training.small import RECIPE, data
from tests.maskcls.training.test_fit import same_tensors
from tests.maskcls.training.test_micro_batch import NO_BATCH

NEEDS = {"mask3": {MASK}, "worn": {MASK}, "gender2": {GENDER}, "age3": {AGE}, "under_30": {AGE}, "over_59": {AGE}}
NEEDS |= {"correct": {MASK}, "gender_under_30": {GENDER, AGE}, "classes": {MASK, GENDER, AGE}}
SHARED = NO_BATCH.override({"task_split": "shared_heads"})


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def only(fit: Fit) -> ModelFit:
    (model_fit,) = fit.model_fits
    return model_fit


@pytest.mark.parametrize("name", TASK_SPLITS)
def test_a_model_draws_the_photos_that_have_a_label_for_one_of_its_heads(name: str) -> None:
    given = gapped()
    for tasks in TASK_SPLITS[name].models:
        photos = TrainingPhotos.of(RECIPE, tasks, given)
        expected = [row for row in given.train if any(not NEEDS[t.name] & set(lacking(row)) for t in tasks)]
        assert photos.rows.tolist() == expected
        for t in tasks:
            labels = photos.labels(t)
            for row, label in zip(photos.rows.tolist(), labels.tolist(), strict=True):
                known = not NEEDS[t.name] & set(lacking(row))
                assert label == (t.labels[row % 18] if known else UNKNOWN)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, {"loss": "soft_f1", "class_weights": "balanced", "sampler": "weighted"}])
def test_a_model_of_one_task_trains_as_if_the_others_photos_were_not_there(values: dict[str, object]) -> None:
    """Weights to the bit: what a photo lacks for one member does not change another, and no label is made up."""
    recipe = RECIPE.override({"age_regression": 0.0, "epochs": 1, **values})
    fit = Fit(recipe, gapped())
    list(fit.epochs())
    for number, attribute in enumerate((MASK, GENDER, AGE)):
        other = Fit(recipe, without(gapped(), attribute))
        list(other.epochs())
        one, another = (each.model_fits[number].model.state_dict() for each in (fit, other))
        assert same_tensors([one], [another])
    assert fit.history[0].photos == sum(len(without(gapped(), a).train) for a in (MASK, GENDER, AGE))


def test_an_age_that_is_not_known_is_not_regressed_and_its_photo_trains_the_classes() -> None:
    recipe = NO_BATCH.override({"age_regression": 1.0})
    model_fit = only(Fit(recipe, gapped()))
    (head,) = model_fit.head_losses
    positions = torch.arange(len(head.labels))
    logits, ages = torch.zeros(len(positions), 18), torch.zeros(len(positions), requires_grad=True)
    head(logits, ages, positions, None).backward()
    assert ages.grad is not None
    known = head.ages != UNKNOWN
    assert 0 < known.sum() < len(known)
    assert ((ages.grad != 0) == known).all()
    expected = age_loss(torch.zeros(int(known.sum())), head.ages[known]).item()
    plain = head(logits, None, positions, None).item()
    assert head(logits, ages, positions, None).item() == pytest.approx(plain + expected, rel=1e-5)


LOSSES: dict[str, dict[str, Any]] = {
    "cross entropy": {"loss": "cross_entropy"},
    "focal": {"loss": "focal", "focal_gamma": 2.0},
    "soft F1": {"loss": "soft_f1"},
    "two losses": {"loss": "focal", "second_loss": "soft_f1", "second_loss_weight": 0.4},
}


def loss_of(name: str, labels: torch.Tensor, weighted: bool, smoothing: float) -> nn.Module:
    weights = "balanced" if weighted else "none"
    recipe = Recipe().override({**LOSSES[name], "class_weights": weights, "label_smoothing": smoothing})
    return create_loss(recipe, labels, 4)


class SixPhotos:
    """Of which the second, the third and the last have no label."""

    LABELS = torch.tensor([2, UNKNOWN, UNKNOWN, 0, 2, UNKNOWN])
    LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)) * 2

    def target(self) -> tuple[torch.Tensor, torch.Tensor]:
        known = (self.LABELS != UNKNOWN).float()
        return torch.eye(4)[self.LABELS.clamp(min=0)] * known[:, None], known


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss(SixPhotos):
    def test_it_is_that_of_the_known_labels_alone(self, name: str, weighted: bool, smoothing: float) -> None:
        loss, (target, known) = loss_of(name, self.LABELS, weighted, smoothing), self.target()
        is_known = self.LABELS != UNKNOWN
        logits = self.LOGITS.clone().requires_grad_()
        found = loss(logits, target, None, known)
        assert found.item() == pytest.approx(loss(self.LOGITS[is_known], self.LABELS[is_known]).item(), rel=1e-5)
        found.backward()
        assert logits.grad is not None
        assert (logits.grad[~is_known] == 0).all()
        assert (logits.grad[is_known] != 0).any()
        weights = loss_of(name, self.LABELS[is_known], weighted, smoothing)
        assert weights(logits, target, None, known).item() == found.item(), "class weights count known labels alone"

    def test_without_any_known_label_it_is_zero(self, name: str, weighted: bool, smoothing: float) -> None:
        loss = loss_of(name, self.LABELS, weighted, smoothing)
        logits = self.LOGITS.clone().requires_grad_()
        found = loss(logits, torch.zeros(6, 4), None, torch.zeros(6))
        found.backward()
        assert found.item() == 0
        assert logits.grad is not None
        assert (logits.grad == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["cross entropy", "focal"])
class TestMeansOverPhotos(SixPhotos):
    def test_a_mixed_photo_counts_by_the_share_whose_label_is_known(
        self, name: str, weighted: bool, smoothing: float
    ) -> None:
        """A photo of which a quarter is known counts a quarter: four of them count as one that is whole."""
        loss = loss_of(name, self.LABELS, weighted, smoothing)
        logits = self.LOGITS[[0, 3, 3, 3, 3]]
        mixed = torch.eye(4)[[2, 0, 0, 0, 0]] * torch.tensor([1, 0.25, 0.25, 0.25, 0.25])[:, None]
        found = loss(logits, mixed, None, mixed.sum(1)).item()
        assert found == pytest.approx(loss(self.LOGITS[[0, 3]], torch.tensor([2, 0])).item(), rel=1e-5)

    def test_the_parts_add_up(self, name: str, weighted: bool, smoothing: float) -> None:
        loss, (target, known) = loss_of(name, self.LABELS, weighted, smoothing), self.target()
        cut = (slice(0, 2), slice(2, 3), slice(3, 6))  # the second has no label at all
        summed = sum(loss(self.LOGITS[part], target[part], target, known[part]).item() for part in cut)
        assert summed == pytest.approx(loss(self.LOGITS, target, None, known).item(), rel=1e-5)


def test_soft_f1_counts_a_part_by_its_known_labels() -> None:
    six, loss = SixPhotos(), SoftF1()
    target, known = six.target()
    expected = loss(six.LOGITS[:1], six.LABELS[:1]).item() / 3 + loss(six.LOGITS[3:5], six.LABELS[3:5]).item() * 2 / 3
    cut = (slice(0, 2), slice(2, 3), slice(3, 6))
    summed = sum(loss(six.LOGITS[part], target[part], target, known[part]).item() for part in cut)
    assert summed == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mix", ["none", "mixup", "half_cutmix"])
def test_heads_that_share_batches_take_the_gradient_of_the_photos_they_have_labels_of(mix: str) -> None:
    """In parts as in one piece, to which no photo without a label adds."""
    recipe = SHARED.override({"mix": mix, "mix_probability": 1.0, "age_regression": 0.5, "label_smoothing": 0.1})
    gradients, losses = [], []
    for micro_batch in (0, 5):
        model_fit = only(Fit(recipe, gapped(), micro_batch=micro_batch))
        model_fit.model.train()
        losses.append(model_fit.step(*next(iter(model_fit.batches.epoch(0)))).item())
        parameters = [p.grad.flatten() for p in model_fit.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(parameters).double())
    assert torch.isfinite(gradients[0]).all()
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 1e-5
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_photo_mixed_of_a_known_and_an_unknown_label_has_the_known_one_by_its_share() -> None:
    head = only(Fit(SHARED.override({"age_regression": 0.5}), gapped())).head_losses[2]  # of age3
    known, unknown = (int(torch.nonzero(is_it)[0]) for is_it in (head.ages == 45, head.ages == UNKNOWN))
    lacks = int(torch.nonzero(head.labels == UNKNOWN)[0])
    positions, shares = torch.tensor([known, lacks]), torch.tensor([[0.7, 0.3], [0.3, 0.7]])
    target, share = head._target(positions, shares)
    assert target.tolist() == pytest.approx(np.outer([0.7, 0.3], np.eye(3)[head.labels[known]]))
    assert share is not None
    assert share.tolist() == pytest.approx([0.7, 0.3])
    years, share = head._years(torch.tensor([known, unknown]), shares)
    assert years.tolist() == pytest.approx([45, 45])
    assert share is not None
    assert share.tolist() == pytest.approx([0.7, 0.3])


def test_the_reported_loss_is_the_mean_over_known_labels() -> None:
    model_fit = only(Fit(SHARED, gapped()))
    of_epoch, heads = EpochLoss(model_fit.head_losses), model_fit.head_losses
    logits = torch.randn(len(heads[0].labels), 3, generator=torch.Generator().manual_seed(0))
    for positions in torch.arange(len(logits)).split(5):
        losses = [head(logits[positions][:, : head.n_labels], None, positions, None) for head in heads]
        of_epoch.add(torch.stack(losses)[None], positions)
    everything = torch.arange(len(logits))
    whole = sum(head(logits[:, : head.n_labels], None, everything, None).item() for head in heads)
    assert of_epoch.mean == pytest.approx(whole, rel=1e-5), "as if the epoch had been one batch"
    assert of_epoch.photos == len(logits)


@pytest.mark.parametrize("sampler", ["none", "oversample", "weighted", "square_root"])
def test_every_sampler_draws_for_heads_that_share_batches(sampler: str) -> None:
    (result,) = Fit(SHARED.override({"sampler": sampler, "epochs": 1}), gapped()).epochs()
    assert np.isfinite(result.train_loss)
    assert result.photos == len(gapped().train)


def test_validation_photos_without_all_labels_are_not_scored() -> None:
    given = gapped(180)
    fit = Fit(RECIPE.override({"task_split": "single", "epochs": 1}), given)
    list(fit.epochs())
    whole = given.validation[given.labels[given.validation] != UNKNOWN]
    assert 0 < fit.best.scores.n == len(whole) < len(given.validation)
    expected = scores(data(180).labels[whole], fit.log_probs(whole))
    assert expected.task_f1["gender2"] > 0
    assert repr(fit.best.scores) == repr(expected)
    assert np.isfinite(fit.log_probs(given.validation)).all(), "they are predicted as the others are"


def test_without_any_validation_photo_with_all_labels_the_latest_epoch_is_the_best() -> None:
    given = gapped()
    lacking_all = given.validation[given.labels[given.validation] == UNKNOWN]
    fit = Fit(RECIPE.override({"epochs": 2}), replace(given, validation=lacking_all))
    results = list(fit.epochs())
    assert np.isnan([result.validation_f1 for result in results]).all()
    assert fit.best_epoch == 2


def test_frozen_features_of_photos_without_labels_are_those_of_the_others(tmp_path: Path) -> None:
    recipe = KEPT.override({"task_split": "shared_heads"})
    known = replace(gapped(), pixels_digest="drawn")
    plain, cached = Fit(recipe, known), Fit(recipe, known, stores=FeatureStores(tmp_path, 1.0, shared=True))
    curves = [[(one.train_loss, one.validation_f1) for one in fit.epochs()] for fit in (plain, cached)]
    assert cached.frozen_features == "kept"
    assert curves[0] == curves[1]


def test_killed_and_resumed_it_goes_on_to_the_bit(tmp_path: Path) -> None:
    recipe = SHARED.override({"epochs": 2, "mix": "mixup", "age_regression": 0.5})
    unbroken, killed, resumed = (Fit(recipe, gapped()) for _ in range(3))
    results = [(one.train_loss, one.validation_f1) for one in unbroken.epochs()]
    next(iter(killed.epochs()))
    killed.save(tmp_path)
    assert resumed.resume(tmp_path)
    assert [(one.train_loss, one.validation_f1) for one in resumed.epochs()] == results


class TestAgeGroupsWithoutYears:
    """Photos 0 to 2 are worn by men of three groups, whose ages are not known."""

    def photos(self, values: dict[str, object], tasks: str = "age3") -> TrainingPhotos:
        given = data()
        ages = given.ages.copy()
        ages[:3] = UNKNOWN
        return TrainingPhotos.of(Recipe().override(values), (task(tasks),), replace(given, ages=ages))

    def test_the_group_is_the_label_at_the_contests_cuts(self) -> None:
        photos = self.photos({})
        assert photos.rows[:3].tolist() == [0, 1, 2]
        assert photos.labels(task("age3"))[:3].tolist() == [0, 1, 2]
        assert photos.classes[:3].tolist() == [0, 1, 2]

    def test_other_cuts_leave_out_those_who_may_be_on_either_side(self) -> None:
        """Under 30 may be 27 or not; 30 to 59 may be 58; over 59 stays so."""
        assert self.photos({"age_cut_young": 27, "age_cut_old": 58}).rows[:2].tolist() == [2, 3]
        over_59 = self.photos({"age_cut_young": 27, "age_cut_old": 58}, "over_59")
        assert over_59.rows[:3].tolist() == [0, 2, 3], "whoever is under 30 is not over 59, whichever the cut"

    def test_a_band_leaves_out_whoever_must_be_in_it(self) -> None:
        assert self.photos({"ages_left_out": "20-24"}).rows[:3].tolist() == [0, 1, 2]
        assert self.photos({"ages_left_out": "0-29"}, "mask3").rows[:3].tolist() == [1, 2, 4]

    def test_a_band_keeps_those_of_unknown_age(self) -> None:
        given = gapped()
        recipe = Recipe().override({"ages_left_out": "25-25"})
        photos = TrainingPhotos.of(recipe, (task("mask3"),), given)
        lacks_age = [row for row in given.train.tolist() if AGE in lacking(row) and MASK not in lacking(row)]
        assert set(lacks_age) <= set(photos.rows.tolist())
        assert not (given.ages[photos.rows] == 25).any()


@pytest.mark.parametrize(("attribute", "name"), [(AGE, "age3"), (MASK, "mask3"), (GENDER, "gender2")])
def test_a_task_without_any_label_is_refused_before_the_fit(attribute: int, name: str) -> None:
    given = gapped()
    attributes = given.known_attributes()
    attributes[:, attribute] = UNKNOWN
    nothing = np.full_like(given.labels, UNKNOWN)
    ages = nothing if attribute == AGE else given.ages
    lacks = replace(given, labels=nothing, ages=ages, attributes=attributes)
    with pytest.raises(CallError, match=f"None of the 72 training photos has a label for {name} "):
        Fit(RECIPE, lacks)


def test_gaps_that_nobody_has_change_nothing() -> None:
    """What is known of photos of a known class is not read."""
    plain = data()
    noise = np.random.default_rng(0).integers(UNKNOWN, 2, (len(plain.labels), 3))
    one, other = (Fit(SHARED, given) for given in (plain, replace(plain, attributes=noise)))
    assert [r.train_loss for r in one.epochs()] == [r.train_loss for r in other.epochs()]
    assert same_tensors(one.best_states(), other.best_states())


def test_relabelled_takes_what_another_table_knows() -> None:
    import pandas as pd

    plain = data()
    table = pd.DataFrame({"label": plain.labels, "age": plain.ages.astype(float), "mask": 0, "gender": 1})
    table["age_group"] = plain.labels % 3
    table.loc[:5, ["label", "age", "age_group"]] = UNKNOWN, np.nan, UNKNOWN
    changed: FitData = plain.relabelled(table, np.arange(4))
    assert changed.labels[:6].tolist() == [UNKNOWN] * 4 + plain.labels[4:6].tolist()
    assert changed.ages[:6].tolist() == [UNKNOWN] * 4 + plain.ages[4:6].tolist()
    assert changed.known_attributes(np.arange(5)).tolist() == [[0, 1, UNKNOWN]] * 4 + [[0, 1, 1]]
    back = changed.relabelled(table.assign(label=plain.labels, age=plain.ages), np.arange(4))
    assert back.labels.tolist() == plain.labels.tolist()
    assert plain.labels[0] == 0, "the data that was changed is a copy"
