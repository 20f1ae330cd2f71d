"""Each loss against its formula, written out here once more with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from maskcls.recipe import Recipe
from maskcls.training.losses import CrossEntropy, FocalLoss, SoftF1, age_loss, balanced_weights, create_loss, shares_of

B, K = 6, 4


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(B, K, generator=generator) * 3,
        torch.randint(K, (B,), generator=generator),
        torch.rand(K, generator=generator) + 0.1,
    )


def focal_reference(
    logits: np.ndarray, labels: np.ndarray, gamma: float, weight: np.ndarray, smoothing: float
) -> float:
    """Lin et al. 2017, equation 5, photo by photo, label by label."""
    total = 0.0
    for row, label in zip(logits.astype(float), labels, strict=True):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        target = np.full(K, smoothing / K)
        target[label] += 1 - smoothing
        total += sum(-target[k] * weight[k] * (1 - p[k]) ** gamma * np.log(p[k]) for k in range(K))
    return total / weight[labels].sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
@given(seed=st.integers(0, 2**31))
def test_focal_loss_is_its_formula(seed: int, gamma: float, weighted: bool, smoothing: float) -> None:
    logits, labels, weight = drawn(seed)
    loss = FocalLoss(gamma, weight if weighted else None, smoothing)(logits, labels).item()
    expected = focal_reference(
        logits.numpy(), labels.numpy(), gamma, weight.numpy() if weighted else np.ones(K), smoothing
    )
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@given(seed=st.integers(0, 2**31))
def test_focal_loss_without_focus_is_cross_entropy(seed: int, smoothing: float) -> None:
    logits, labels, weight = drawn(seed)
    expected = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing).item()
    assert FocalLoss(0.0, weight, smoothing)(logits, labels).item() == pytest.approx(expected, rel=1e-4)


def test_focus_lets_easy_photos_count_less() -> None:
    easy, hard = torch.tensor([[4.0, 0, 0, 0]]), torch.tensor([[0.0, 4, 0, 0]])
    label = torch.tensor([0])

    def ratio(gamma: float) -> float:
        return (FocalLoss(gamma)(hard, label) / FocalLoss(gamma)(easy, label)).item()

    assert ratio(0) < ratio(1) < ratio(2)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_stay_finite_where_a_photo_is_certain(gamma: float, label: int) -> None:
    logits = torch.tensor([[80.0, -80, 0, 0]], requires_grad=True)
    FocalLoss(gamma)(logits, torch.tensor([label])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    np.testing.assert_allclose(balanced_weights(labels, 3).numpy(), expected, rtol=1e-6)
    assert balanced_weights(labels, 4)[3] == 6 / 4  # nobody has it


def soft_f1_reference(logits: np.ndarray, shares: np.ndarray, weight: np.ndarray, smoothing: float) -> float:
    """1 - the weighted mean over the labels that the batch has of 2 tp / (2 tp + fp + fn), counted photo by photo."""
    p = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    y = (1 - smoothing) * shares + smoothing / K
    total = 0.0
    present = [k for k in range(K) if shares[:, k].sum() > 0]
    for k in present:
        tp = sum(p[i, k] * y[i, k] for i in range(B))
        fp = sum(p[i, k] * (1 - y[i, k]) for i in range(B))
        fn = sum((1 - p[i, k]) * y[i, k] for i in range(B))
        total += weight[k] * 2 * tp / (2 * tp + fp + fn)
    return 1 - total / weight[present].sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@given(seed=st.integers(0, 2**31))
def test_soft_f1_is_its_formula(seed: int, weighted: bool, smoothing: float) -> None:
    logits, labels, weight = drawn(seed)
    weight = weight if weighted else torch.ones(K)
    expected = soft_f1_reference(logits.numpy(), np.eye(K)[labels.numpy()], weight.numpy(), smoothing)
    assert SoftF1(weight if weighted else None, smoothing)(logits, labels).item() == pytest.approx(expected, rel=1e-4)


def test_soft_f1_of_certain_answers_is_the_f1() -> None:
    from sklearn.metrics import f1_score

    truth, predictions = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 0])
    logits = 100.0 * torch.nn.functional.one_hot(predictions, 3)
    assert SoftF1()(logits, truth).item() == pytest.approx(1 - f1_score(truth, predictions, average="macro"), abs=1e-6)


LOSSES = ("cross_entropy", "focal", "soft_f1")


def test_the_recipes_losses_are_these() -> None:
    keys = Recipe.model_json_schema()["properties"]
    assert tuple(keys["loss"]["enum"]) == LOSSES
    assert tuple(keys["second_loss"]["enum"]) == ("none", *LOSSES)


@pytest.mark.parametrize("key", ["loss", "second_loss"])
def test_an_unknown_loss_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="There is no loss 'hinge'"):
        create_loss(Recipe().model_copy(update={key: "hinge"}), torch.arange(K), K)


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("second", ["none", *LOSSES])
@pytest.mark.parametrize("loss", LOSSES)
class TestEveryLoss:
    """Each loss, alone and in a sum with each, with and without weights: 24 recipes."""

    def recipe(self, loss: str, second: str, class_weights: str) -> Recipe:
        chosen = {"loss": loss, "second_loss": second, "second_loss_weight": 0.3, "class_weights": class_weights}
        return Recipe().override({**chosen, "focal_gamma": 1.5, "label_smoothing": 0.1})

    def test_it_is_the_sum_of_its_formulas(self, loss: str, second: str, class_weights: str) -> None:
        logits, labels, _ = drawn(3)
        weight = balanced_weights(labels, K).numpy() if class_weights == "balanced" else np.ones(K)
        references = {
            "cross_entropy": lambda: focal_reference(logits.numpy(), labels.numpy(), 0.0, weight, 0.1),
            "focal": lambda: focal_reference(logits.numpy(), labels.numpy(), 1.5, weight, 0.1),
            "soft_f1": lambda: soft_f1_reference(logits.numpy(), np.eye(K)[labels.numpy()], weight, 0.1),
        }
        expected = references[loss]() if second == "none" else 0.7 * references[loss]() + 0.3 * references[second]()
        assert create_loss(self.recipe(loss, second, class_weights), labels, K)(logits, labels).item() == pytest.approx(
            expected, rel=1e-4
        )

    def test_shares_that_are_whole_labels_give_the_same(self, loss: str, second: str, class_weights: str) -> None:
        logits, labels, _ = drawn(5)
        loss_of_recipe = create_loss(self.recipe(loss, second, class_weights), labels, K)
        assert loss_of_recipe(logits, shares_of(labels, K)).item() == pytest.approx(
            loss_of_recipe(logits, labels).item(), rel=1e-5
        )

    def test_better_answers_cost_less_and_gradients_are_finite(
        self, loss: str, second: str, class_weights: str
    ) -> None:
        _, labels, _ = drawn(3)
        loss_of_recipe = create_loss(self.recipe(loss, second, class_weights), labels, K)
        strength = torch.tensor([0.0, 1.0, 2.0], requires_grad=True)
        costs = torch.stack([loss_of_recipe(s * F.one_hot(labels, K), labels) for s in strength])
        assert costs[0] > costs[1] > costs[2]
        costs.sum().backward()
        assert strength.grad is not None
        assert torch.isfinite(strength.grad).all()


@given(seed=st.integers(0, 2**31))
def test_cross_entropy_of_shares_weighs_as_labels_do(seed: int) -> None:
    """A batch whose photos are halves of two labels costs what the two labels cost, weight for weight."""
    logits, labels, weight = drawn(seed)
    other = labels.flip(0)
    shares = 0.5 * shares_of(labels, K) + 0.5 * shares_of(other, K)
    both = torch.cat([labels, other])
    expected = F.cross_entropy(logits.repeat(2, 1), both, weight).item()
    assert CrossEntropy(weight)(logits, shares).item() == pytest.approx(expected, rel=1e-4)


def test_the_age_loss_is_in_spans_of_twenty_years() -> None:
    """Answers of 0 mean 40 years: 50 is half a span off (squared, halved), 80 two spans (beyond one, linear)."""
    assert age_loss(torch.zeros(1), torch.tensor([50])).item() == pytest.approx(0.5 * 0.5**2)
    assert age_loss(torch.zeros(1), torch.tensor([80])).item() == pytest.approx(2 - 0.5)
