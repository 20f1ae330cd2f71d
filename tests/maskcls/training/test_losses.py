"""Each loss against its formula, written out here once more with numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from maskcls.recipe import Recipe
from maskcls.training.losses import FocalLoss, balanced_weights, create_loss

B, K = 6, 4


def drawn(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(B, K, generator=generator) * 3,
        torch.randint(K, (B,), generator=generator),
        torch.rand(K, generator=generator) + 0.1,
    )


def focal_reference(logits: np.ndarray, labels: np.ndarray, gamma: float, weight: np.ndarray, smoothing: float) -> float:
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
    expected = focal_reference(logits.numpy(), labels.numpy(), gamma, weight.numpy() if weighted else np.ones(K), smoothing)
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


@pytest.mark.parametrize("class_weights", ["none", "balanced"])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_a_recipes_loss(loss: str, class_weights: str) -> None:
    recipe = Recipe().override({"loss": loss, "class_weights": class_weights, "focal_gamma": 1.5, "label_smoothing": 0.1})
    logits, labels, _ = drawn(3)
    weight = balanced_weights(labels, K).numpy() if class_weights == "balanced" else np.ones(K)
    expected = focal_reference(logits.numpy(), labels.numpy(), 1.5 if loss == "focal" else 0.0, weight, 0.1)
    assert create_loss(recipe, labels, K)(logits, labels).item() == pytest.approx(expected, rel=1e-4)
