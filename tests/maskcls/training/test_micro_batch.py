"""A batch that goes through the model in parts: the plain step to the bit if it is whole, else up to rounding."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from maskcls.errors import CallError, RunError
from maskcls.recipe import Recipe
from maskcls.seeds import torch_seed
from maskcls.training.batch_norm import check_batches
from maskcls.training.conditions import Conditions, whole_batch
from maskcls.training.fit import Fit
from maskcls.training.losses import CrossEntropy, FocalLoss, SoftF1, Sum, age_loss
from maskcls.training.mixing import mix
from maskcls.training.model_fit import MIX_STREAM, ModelFit, parts
from tests.maskcls.training.small import RECIPE, data
from tests.maskcls.training.test_fit import numbers, same_tensors
from tests.maskcls.training.test_model_fit import CHOICES

# LayerNorm in place of BatchNorm, and no dropout: nothing in it looks at a batch.
NO_BATCH = RECIPE.override(
    {
        "task_split": "single",
        "backbone": "test_convnext",
        "frozen_stages": 0,
        "head_dropout": 0.0,
        "clip_norm": 0.0,
        "epochs": 2,
    }
)
MEANS: dict[str, dict[str, Any]] = {
    "focal": {},
    "cross entropy, smoothed": {"loss": "cross_entropy", "label_smoothing": 0.1},
    "cross entropy, weighted": {"loss": "cross_entropy", "class_weights": "balanced", "sampler": "none"},
    "focal, weighted and mixed": {"class_weights": "balanced", "mix": "mixup", "sampler": "none"},
    "cross entropy, weighted and mixed": {
        "loss": "cross_entropy",
        "class_weights": "balanced",
        "mix": "half_cutmix",
        "sampler": "none",
    },
    "two losses": {"second_loss": "cross_entropy", "mix": "cutmix"},
    "heads with ages": {"task_split": "shared_heads", "age_regression": 0.5, "mix": "mixup"},
    "frozen stages": {"frozen_stages": 2},
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def begun(recipe: Recipe, micro_batch: int) -> ModelFit:
    """Of the recipe in float32, as the plain step is: in bfloat16 rounding would hide what parts change."""
    return Fit(recipe.override({"precision": "float32"}), data(), micro_batch=micro_batch).model_fits[0]


def gradient(recipe: Recipe, micro_batch: int) -> tuple[torch.Tensor, float]:
    """Of one step, all parameters' in one vector, and the step's loss."""
    model_fit = begun(recipe, micro_batch)
    model_fit.model.train()
    loss = model_fit.step(*next(iter(model_fit.batches.epoch(0))))
    return torch.cat(
        [p.grad.flatten() for p in model_fit.model.parameters() if p.grad is not None]
    ).double(), loss.item()


@cache
def whole_gradient(recipe_json: str) -> tuple[torch.Tensor, float]:
    """Of the whole batch, which every number of parts is compared with."""
    return gradient(Recipe.from_json(recipe_json), 0)


def differences(recipe: Recipe, micro_batch: int) -> tuple[float, float]:
    """Of the gradient in parts from the whole batch's, over its length, and of the loss, over the whole batch's."""
    (whole, loss), (summed, summed_loss) = whole_gradient(recipe.to_json()), gradient(recipe, micro_batch)
    assert whole.norm() > 0
    assert np.isfinite([loss, summed_loss]).all()
    return float((summed - whole).norm() / whole.norm()), abs(summed_loss - loss) / loss


@given(n=st.integers(1, 300), most=st.integers(1, 300))
def test_parts_are_few_and_alike(n: int, most: int) -> None:
    cut = parts(n, most)
    assert [number for part in cut for number in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in cut]
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    assert len(cut) == -(-n // most)
    assert parts(n, 0) == [slice(0, n)]


@given(n=st.integers(2, 300), most=st.integers(1, 300))
def test_parts_of_at_least_two_photos_are_as_few_and_as_alike(n: int, most: int) -> None:
    cut = parts(n, most, least=2)
    assert [number for part in cut for number in range(n)[part]] == list(range(n))
    sizes = [part.stop - part.start for part in cut]
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(most, 3)
    assert cut == parts(n, most) or min(part.stop - part.start for part in parts(n, most)) == 1


def note_photos(seen: list[int], head: nn.Module, given: tuple[torch.Tensor]) -> None:
    seen.append(len(given[0]))


def test_a_part_of_one_photo_does_not_meet_a_batch_norm_over_single_values() -> None:
    """The last maps of photos of 32 px are 1 x 1: of one photo there is nothing to take statistics of."""
    recipe = RECIPE.override({"task_split": "single", "backbone": "mobilenetv3_small_050", "frozen_stages": 0})
    for values in ({}, {"frozen_stages": 2}):
        model_fit = begun(recipe.override(values), 2)
        seen: list[int] = []
        model_fit.model.heads["classes"].register_forward_pre_hook(partial(note_photos, seen))
        inputs, positions = next(iter(model_fit.batches.epoch(0)))
        assert len(positions) == 15
        assert torch.isfinite(model_fit.step(inputs, positions))
        assert sorted(seen) == [2, 2, 2, 2, 2, 2, 3]
        with pytest.raises(RunError, match=r"A batch of one photo .*mobilenetv3_small_050 at 32 px .*batch_size of 3"):
            model_fit.step(inputs[:1], positions[:1])


@pytest.mark.parametrize(
    ("size", "photos", "is_refused"), [(1, 40, True), (2, 41, True), (2, 40, False), (3, 40, False)]
)
def test_batches_of_one_photo_are_refused_before_the_work(size: int, photos: int, is_refused: bool) -> None:
    recipe = RECIPE.override({"task_split": "single", "backbone": "mobilenetv3_small_050", "batch_size": size})
    if not is_refused:
        check_batches(recipe, [photos])
        check_batches(recipe.override({"image_size": 96, "batch_size": 1}), [photos])
        return
    with pytest.raises(CallError, match=r"A batch of one photo .*mobilenetv3_small_050 at 32 px .*batch_size of 3"):
        check_batches(recipe, [photos])


def test_one_photo_at_a_time_goes_through_larger_maps_and_other_norms() -> None:
    for backbone in ("resnet10t", "test_convnext"):
        model_fit = begun(NO_BATCH.override({"backbone": backbone}), 1)
        seen: list[int] = []
        model_fit.model.heads["classes"].register_forward_pre_hook(partial(note_photos, seen))
        inputs, positions = next(iter(model_fit.batches.epoch(0)))
        if backbone == "resnet10t":  # maps of 2 x 2 at the end
            inputs = inputs.repeat_interleave(2, 1).repeat_interleave(2, 2)
        model_fit.step(inputs, positions)
        assert seen == [1] * 15, backbone


def plain_step(model_fit: ModelFit, pixels: torch.Tensor, positions: torch.Tensor, number: int) -> None:
    """A training step without parts, written out once more."""
    images = model_fit.model.normalise(pixels)
    shares = mix(images, model_fit.recipe, torch_seed(model_fit.recipe.seed, model_fit.number, number, MIX_STREAM))
    features = model_fit.model.backbone(images)
    answers = zip(model_fit.head_losses, model_fit.model.logits(features), model_fit.model.ages(features), strict=True)
    loss = torch.stack([head_loss(logits, ages, positions, shares) for head_loss, logits, ages in answers]).sum()
    model_fit.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model_fit.model.parameters(), model_fit.recipe.clip_norm)
    model_fit.optimizer.step()
    if model_fit.average is not None:
        model_fit.average.update(model_fit.model, step=number + 1)


@pytest.mark.parametrize("micro_batch", [0, 16, 99])
@pytest.mark.parametrize("name", ["average", "mixup", "cutmix", "age_regression", "weighted", "soft_f1"])
def test_whole_batches_take_the_plain_step_to_the_bit(name: str, micro_batch: int) -> None:
    weighted = RECIPE.override(
        {"task_split": "single", "class_weights": "balanced", "loss": "cross_entropy", "sampler": "none"}
    )
    recipe = {**CHOICES, "weighted": weighted}[name].override({"frozen_stages": 0})
    plain, in_parts = begun(recipe, 0), begun(recipe, micro_batch)
    for number, batch in zip(range(3), plain.batches.epoch(0), strict=False):
        for model_fit in (plain, in_parts):
            model_fit.model.train()
        torch.manual_seed(number)
        plain_step(plain, *batch, number)
        torch.manual_seed(number)
        in_parts.step(*batch, number)
    assert same_tensors([plain.model.state_dict()], [in_parts.model.state_dict()])
    assert same_tensors([plain.eval_model.state_dict()], [in_parts.eval_model.state_dict()])


def test_a_fit_with_a_micro_batch_of_a_whole_one_has_the_same_curve() -> None:
    recipe = CHOICES["cutmix"]
    curves = [[numbers(result) for result in Fit(recipe, data(), micro_batch=n).epochs()] for n in (0, 16)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("micro_batch", [1, 5, 8])
@pytest.mark.parametrize("name", MEANS)
def test_the_parts_gradients_add_up_to_the_whole_batchs(name: str, micro_batch: int) -> None:
    assert max(differences(NO_BATCH.override(MEANS[name]), micro_batch)) < 1e-5


def test_with_a_frozen_batch_norm_they_do_and_with_a_moving_one_they_do_not() -> None:
    norms = RECIPE.override({"task_split": "single", "head_dropout": 0.0, "clip_norm": 0.0})
    assert differences(norms.override({"frozen_stages": 5}), 5)[0] < 1e-5
    assert differences(norms.override({"frozen_stages": 0}), 5)[0] > 1e-2


def test_soft_f1_is_of_each_part() -> None:
    assert differences(NO_BATCH.override({"loss": "soft_f1"}), 5)[0] > 1e-2


def test_a_batch_of_parts_is_one_step_of_optimizer_average_and_clipping() -> None:
    recipe = NO_BATCH.override({"ema_decay": 0.9, "optimizer": "sgd", "clip_norm": 1e-3})
    whole, in_parts = begun(recipe, 0), begun(recipe, 3)
    for number, batch in zip(range(3), whole.batches.epoch(0), strict=False):
        whole.step(*batch, number)
        in_parts.step(*batch, number)
    for name, tensor in whole.model.state_dict().items():
        torch.testing.assert_close(in_parts.model.state_dict()[name], tensor, rtol=1e-4, atol=1e-7)
    for name, tensor in whole.eval_model.state_dict().items():
        torch.testing.assert_close(in_parts.eval_model.state_dict()[name], tensor, rtol=1e-4, atol=1e-7)
    norm = torch.stack([p.grad.norm() for p in in_parts.model.parameters() if p.grad is not None]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3), "the sum is clipped, not the parts"


def test_no_more_than_a_micro_batch_goes_through_the_model() -> None:
    model_fit = begun(NO_BATCH, 4)
    seen: list[int] = []
    model_fit.model.backbone.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    model_fit.step(*next(iter(model_fit.batches.epoch(0))))
    assert sorted(seen) == [3, 4, 4, 4], "the first of an oversampled epoch's five batches has 15"


def losses() -> Iterator[tuple[str, nn.Module]]:
    weight = torch.tensor([0.2, 1.0, 3.0, 0.5])
    for name, given_weight in (("plain", None), ("weighted", weight)):
        for smoothing in (0.0, 0.1):
            yield f"cross entropy, {name}, {smoothing}", CrossEntropy(given_weight, smoothing)
            yield f"focal, {name}, {smoothing}", FocalLoss(2.0, given_weight, smoothing)
    yield "sum", Sum(CrossEntropy(weight), FocalLoss(1.0), 0.3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize(("name", "loss"), list(losses()))
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 9))
def test_the_parts_losses_add_up(name: str, loss: nn.Module, mixed: bool, seed: int, cut: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(10, 4, generator=generator)
    target = (
        torch.rand(10, 4, generator=generator).softmax(1) if mixed else torch.randint(4, (10,), generator=generator)
    )
    summed = sum(loss(logits[part], target[part], target).item() for part in (slice(0, cut), slice(cut, 10)))
    assert summed == pytest.approx(loss(logits, target).item(), rel=1e-4), name


def test_soft_f1_counts_a_part_by_its_photos_and_ages_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, 4, generator=generator), torch.randint(4, (8,), generator=generator)
    loss = SoftF1()
    expected = loss(logits[:2], target[:2]).item() / 4 + loss(logits[2:], target[2:]).item() * 3 / 4
    assert sum(loss(logits[part], target[part], target).item() for part in (slice(0, 2), slice(2, 8))) == pytest.approx(
        expected
    )
    ages, answers = torch.linspace(18, 60, 8), torch.randn(8, generator=generator)
    summed = age_loss(answers[:3], ages[:3], 8) + age_loss(answers[3:], ages[3:], 8)
    assert summed.item() == pytest.approx(age_loss(answers, ages).item(), rel=1e-5)


def test_in_parts_too_a_fit_goes_on_to_the_bit(tmp_path: Path) -> None:
    recipe = CHOICES["average"]
    unbroken, killed, resumed = (Fit(recipe, data(), micro_batch=5) for _ in range(3))
    results = [numbers(result) for result in unbroken.epochs()]
    next(iter(killed.epochs()))
    killed.save(tmp_path)
    assert resumed.resume(tmp_path)
    assert [numbers(result) for result in resumed.epochs()] == results
    assert results != [numbers(result) for result in Fit(recipe, data()).epochs()]


def test_conditions_tell_the_micro_batch_that_is_used() -> None:
    own = RECIPE.override({"members.age3.batch_size": 24})
    assert (whole_batch(RECIPE), whole_batch(own)) == (16, 24)

    def recorded(recipe: Recipe, micro_batch: int) -> int:
        return Conditions.now(
            recipe, "", device="cpu", threads=1, loader_workers=0, micro_batch=micro_batch
        ).micro_batch

    assert [recorded(RECIPE, n) for n in (0, 4, 16, 64)] == [16, 4, 16, 16]
    assert [recorded(own, n) for n in (0, 20, 64)] == [24, 20, 24]
