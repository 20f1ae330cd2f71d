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

Points. Where several backbones have weights, a search ranks them by their features before it trains any
(docs/anytime.md), and the points follow that order. The starts themselves are `portfolio.json`'s.

Bounds. Photos: the project used 256 px, the winners 380 and 384; a transformer built for 224 px stays there. Head,
frozen stages and learning rates: `search_spaces.freezing`.
"""

from __future__ import annotations

from typing import Any

from search_spaces import Setting, Space, Suggest, asked, weighted
from search_spaces.freezing import body, drawable, head
from search_spaces.portfolio import PROJECT, STARTS, TRANSFORMER

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
FIRST = (
    *("tf_efficientnet_b4.ns_jft_in1k", "convnext_small.in12k_ft_in1k", "tf_efficientnetv2_s.in21k_ft_in1k"),
    *("resnet10t", "mobilenetv3_small_100"),
)
"""Backbones to begin with where none was ranked: the contest's best entry's and newer ones; small quick ones.
"""
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
    """What starts well on the backbones that were ranked first, then what the contest project did.

    The best start is tried on two backbones, the other starts on the first of them. Of backbones that were not ranked,
    the contest's winner and its kin come first.
    """
    if not setting.pretrained and setting.scale == "cpu":
        served = [point for point in _UNTRAINED_POINTS if setting.has_weights(point["backbone"])]
        return drawable(served, setting)
    order = setting.ranked(sorted(weighted(backbones(setting), setting), key=_place))
    tried = [_start(order[0], setting, 0), *(_start(backbone, setting, 0) for backbone in order[1:2])]
    tried += [_start(order[0], setting, n) for n in range(1, len(STARTS[setting.scale]))]
    tried += [dict(point) for point in PROJECT[setting.scale] if setting.has_weights(point["backbone"])]
    once: list[dict[str, Any]] = []  # a transformer has one start
    once += [point for at, point in enumerate(tried) if point not in tried[:at]]
    return [asked(suggest, setting, point) for point in drawable(once, setting)]


def _place(backbone: str) -> int:
    """Where a backbone stands that was not ranked."""
    return FIRST.index(backbone) if backbone in FIRST else len(FIRST)


def _start(backbone: str, setting: Setting, n: int) -> dict[str, Any]:
    """The nth start for a backbone, at the preset's size of photos; of a transformer, always its own."""
    size = {"gpu": 384, "cpu": 112}[setting.scale]
    start = TRANSFORMER if backbone.startswith(_FIXED) else STARTS[setting.scale][n]
    return {"backbone": backbone, "image_size": size, **start}


# On 240 drawn people, in four epochs, these had 0.73 and 0.63 (validation macro F1, one fit each).
_UNTRAINED_POINTS: tuple[dict[str, Any], ...] = tuple(
    {
        "backbone": backbone,
        "image_size": 48,
        "lr_body": 5e-3,
        "weight_decay": 0.0,
        "head": "linear",
        "lr_head": 5e-3,
    }
    for backbone in ("test_efficientnet", "test_resnet")
)


def backbones(setting: Setting) -> tuple[str, ...]:
    """All backbones of the scale, with or without weights here."""
    return (BACKBONES if setting.pretrained else UNTRAINED)[setting.scale]


SPACE = Space("backbones", "Which backbone, how much of it frozen, at what photo size?", suggest, points, backbones)
