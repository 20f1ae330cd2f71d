"""Which values make two recipes different fits, and which decide nothing."""

from __future__ import annotations

from typing import Any

import pytest

from maskcls.recipe import Recipe
from maskcls.training.equivalence import SAME_AS_FRESH_VIEWS, differing_keys
from maskcls.training.presets import preset

NOT_AUGMENTED = {"augment_flip": 0.0, "augment_probability": 0.0}
FINE_TUNED = preset("fine-tune", "cpu")


@pytest.mark.parametrize(
    ("beside", "values"),
    [
        ({}, {"seed": 7, "augmentation_seed": 7, "compile": True}),
        ({"head": "linear"}, {"head_width": 8}),
        ({"frozen_stages": 5}, {"lr_body": 0.5}),
        ({"loss": "cross_entropy"}, {"focal_gamma": 0.5}),
        ({"second_loss": "none"}, {"second_loss_weight": 0.1}),
        ({"mix": "none"}, {"mix_alpha": 0.1, "mix_probability": 0.5}),
        ({"mix": "half_cutmix"}, {"mix_alpha": 0.1}),
        ({"task_split": "three"}, {"join": "hard"}),
        ({"ages_left_out": "57-59"}, {"ages_left_out": " 57-59"}),
        (NOT_AUGMENTED, {"augment_rotate_degrees": 45.0, "views": 1}),
        ({"views": 0}, {"views": SAME_AS_FRESH_VIEWS}),
        ({"lr_head": 0.3}, {"lr_head": 0.1 * 3}),
        ({"task_split": "three"}, {"members.age3.lr_head": FINE_TUNED.lr_head}),
    ],
)
def test_what_decides_nothing_is_passed_over(beside: dict[str, Any], values: dict[str, Any]) -> None:
    one = FINE_TUNED.override(beside)
    other = one.override(values)
    assert other != one or values == {}
    assert differing_keys(one, other) == differing_keys(other, one) == ()


@pytest.mark.parametrize(
    ("beside", "values", "differing"),
    [
        ({}, {"backbone": "resnet18", "image_size": 64}, ("backbone", "image_size")),
        ({"head": "mlp"}, {"head_width": 8}, ("head_width",)),
        ({"frozen_stages": 4}, {"lr_body": 0.5}, ("lr_body",)),
        ({"second_loss": "focal"}, {"focal_gamma": 0.5}, ("focal_gamma",)),
        ({"mix": "mixup"}, {"mix_alpha": 0.1}, ("mix_alpha",)),
        ({"task_split": "five_binary"}, {"join": "hard"}, ("join",)),
        ({}, {"views": 1}, ("views",)),
        ({}, {"augment_hue_degrees": 11.0}, ("augment_hue_degrees",)),
        ({}, {"augment_probability": 0.4}, ("augment_probability",)),
        ({"task_split": "three"}, {"members.age3.lr_head": 0.5}, ("members.age3.lr_head",)),
        ({}, {"task_split": "three", "sampler": "weighted"}, ("task_split", "sampler")),
    ],
)
def test_what_decides_is_named(beside: dict[str, Any], values: dict[str, Any], differing: tuple[str, ...]) -> None:
    one = FINE_TUNED.override(beside)
    assert differing_keys(one, one.override(values)) == differing


def test_a_value_of_all_members_is_the_same_as_each_members_own() -> None:
    common = FINE_TUNED.override({"task_split": "three", "sampler": "weighted"})
    own = {f"members.{member}.sampler": "weighted" for member in common.split.members}
    assert differing_keys(common, FINE_TUNED.override({"task_split": "three", **own})) == ()
    assert differing_keys(common, FINE_TUNED.override({"task_split": "three"})) == ("sampler",)


def test_every_other_key_decides() -> None:
    """A key that is new to recipes decides, unless it is listed above."""
    base = Recipe(**{**FINE_TUNED.model_dump(), "head": "mlp", "loss": "focal", "second_loss": "soft_f1"}).override(
        {"mix": "mixup", "task_split": "five_binary", "frozen_stages": 0}
    )
    texts = {
        "task_split": "three",
        "backbone": "resnet18",
        "weights": "none",
        "ages_left_out": "57-59",
        "mix": "cutmix",
    }
    texts |= {"head": "linear", "face_crop": "haar", "sampler": "weighted", "second_loss": "none", "join": "hard"}
    texts |= {"loss": "cross_entropy", "class_weights": "balanced", "optimizer": "sgd", "schedule": "constant"}
    texts |= {"precision": "float32"}
    for key, value in base.model_dump().items():
        if key in ("seed", "augmentation_seed", "compile", "members"):
            continue
        changed = texts[key] if isinstance(value, str) else value + 1 if isinstance(value, int) else value / 2 + 0.013
        assert key in differing_keys(base, base.override({key: changed})), key
