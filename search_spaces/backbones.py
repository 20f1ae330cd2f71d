"""Which backbone, how much of it frozen, at what photo size, with which head and learning rates?

    python -m tune.search --space backbones --data DIR --trials 40 --epochs 6

The GPU scale holds the families of the contest project (EfficientNet-B0, B5, B7, ResNeXt-101 32x8d, with ResNet,
DenseNet and VGG beside them), the contest's winners' EfficientNet-B4, and newer backbones of like cost. The CPU scale
holds small backbones that train at 40 to 200 photos a second on one core at 112 px (measured, one thread on a busy
machine: MobileNetV3 207, LCNet 158, ConvNeXt atto 107, GhostNet 92, ResNet-10t 65, ResNet-18 46, EfficientNet-lite0
38). Random weights (--weights none, which is the default on drawn faces) need many steps: for these the CPU scale holds
timm's smallest networks, of 0.1 to 0.4 million weights, and photos of 32 to 64 px.

Licences. Only weights that may be used commercially as timm's own configuration states it: Apache, BSD, MIT. So
ResNeXt comes with torchvision's weights, not with Facebook's (CC-BY-NC), ConvNeXt with the in12k ones, and ConvNeXt V2
not at all.

Bounds. Photos: the project used 256 px, the winners 380 and 384; a transformer built for 224 px stays there. Head,
frozen stages and learning rates: `search_spaces.freezing`.
"""

from __future__ import annotations

from typing import Any

from search_spaces import Setting, Space, Suggest, weighted
from search_spaces.freezing import body, drawable, head

BACKBONES = {
    "gpu": (
        "resnext101_32x8d.tv_in1k",
        "efficientnet_b0.ra_in1k",
        "efficientnet_b5.sw_in12k_ft_in1k",
        "tf_efficientnet_b7.ns_jft_in1k",
        "resnet50.a1_in1k",
        "densenet121.tv_in1k",
        "vgg16_bn.tv_in1k",
        "tf_efficientnet_b4.ns_jft_in1k",
        "tf_efficientnetv2_s.in21k_ft_in1k",
        "convnext_tiny.in12k_ft_in1k",
        "convnext_small.in12k_ft_in1k",
        "swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
        "tiny_vit_21m_224.dist_in22k_ft_in1k",
        "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    ),
    # Without tags: each model's default weights, and the files of a small folder of weights are named so.
    "cpu": (
        "resnet10t",
        "mobilenetv3_small_100",
        "lcnet_100",
        "ghostnet_100",
        "convnext_atto",
        "efficientnet_lite0",
        "resnet18",
    ),
}
# Random weights need many steps: timm's test models are the smallest networks of their families.
UNTRAINED = {
    "gpu": BACKBONES["gpu"],
    "cpu": ("test_resnet", "test_byobnet", "test_efficientnet", "test_convnext"),
}
IMAGE_SIZES = {"gpu": (224, 256, 384), "cpu": (96, 112, 128)}
UNTRAINED_SIZES = {"gpu": IMAGE_SIZES["gpu"], "cpu": (32, 48, 64)}
# Windows and position embeddings are laid out for this size; another one has to be resampled.
FIXED_SIZE = 224
_FIXED = ("vit_", "swin_", "tiny_vit_")


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """A backbone that has weights here, the size of its photos, frozen stages, head, learning rates."""
    backbone = trial.suggest_categorical("backbone", weighted(backbones(setting), setting))
    fixed = str(backbone).startswith(_FIXED)
    image_size = FIXED_SIZE if fixed else trial.suggest_categorical("image_size", sizes(setting))
    return {"backbone": backbone, "image_size": image_size, **body(trial, setting), **head(trial, setting)}


def sizes(setting: Setting) -> tuple[int, ...]:
    """Edges of the photos, px."""
    return (IMAGE_SIZES if setting.pretrained else UNTRAINED_SIZES)[setting.scale]


def points(setting: Setting) -> list[dict[str, Any]]:
    """The contest project's own choices, in the order of its steps, then what scored better than they did."""
    tried = _GPU_POINTS if setting.scale == "gpu" else _CPU_POINTS if setting.pretrained else _UNTRAINED_POINTS
    served = [point for point in tried if setting.has_weights(point["backbone"])]
    fitting = [{**point, "image_size": min(point["image_size"], max(sizes(setting)))} for point in served]
    return drawable(fitting, setting)


_PROJECT = {
    "image_size": 256,
    "frozen_stages": 5,
    "head": "mlp",
    "lr_head": 1e-4,
    "head_width": 4096,
    "head_dropout": 0.5,
}
_GPU_POINTS: tuple[dict[str, Any], ...] = (
    {"backbone": "efficientnet_b0.ra_in1k", **_PROJECT},
    {"backbone": "efficientnet_b5.sw_in12k_ft_in1k", **_PROJECT},
    {"backbone": "tf_efficientnet_b7.ns_jft_in1k", **_PROJECT},
    {"backbone": "resnext101_32x8d.tv_in1k", **_PROJECT},
    # Rank 14 of 220: the project's recipe, but fine-tuned: macro F1 .7784 against .6951.
    {"backbone": "resnext101_32x8d.tv_in1k", **_PROJECT, "frozen_stages": 0, "lr_body": 1e-4},
    # Rank 1 of the fourth cohort fine-tuned this backbone at 380 px: .8000.
    {
        "backbone": "tf_efficientnet_b4.ns_jft_in1k",
        "image_size": 384,
        "frozen_stages": 0,
        "lr_body": 1e-4,
        "head": "linear",
        "lr_head": 1e-3,
    },
)
_SMALL = {"image_size": 112, "frozen_stages": 1, "lr_body": 1e-3, "head": "linear", "lr_head": 2e-3}
_CPU_POINTS: tuple[dict[str, Any], ...] = (
    # The project's first step at this scale: a frozen EfficientNet; then fine-tuning, which beat freezing all.
    {
        "backbone": "efficientnet_lite0",
        "image_size": 112,
        "frozen_stages": 5,
        "head": "mlp",
        "lr_head": 1e-3,
        "head_width": 512,
        "head_dropout": 0.5,
    },
    {"backbone": "resnet10t", **_SMALL},
    {"backbone": "mobilenetv3_small_100", **_SMALL},
)
# On 240 drawn people, in four epochs, these had 0.73 and 0.63 (validation macro F1, one fit each).
_UNTRAINED_POINTS: tuple[dict[str, Any], ...] = tuple(
    {"backbone": backbone, "image_size": 48, "lr_body": 5e-3, "head": "linear", "lr_head": 5e-3}
    for backbone in ("test_efficientnet", "test_resnet")
)


def backbones(setting: Setting) -> tuple[str, ...]:
    """All backbones of the scale, with or without weights here."""
    return (BACKBONES if setting.pretrained else UNTRAINED)[setting.scale]


SPACE = Space("backbones", "Which backbone, how much of it frozen, at what photo size?", suggest, points, backbones)
