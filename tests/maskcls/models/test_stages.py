"""Five stages of one member each of eight families: what each holds, and what moves when the first n are frozen."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from maskcls.errors import CallError
from maskcls.models.backbones import Backbone, create_backbone
from maskcls.models.stages import stage_of_modules
from maskcls.recipe import N_STAGES

# Last parameter of each stage and the stages' parameter counts, read off the models' definitions.
# By hand, for instance: DenseNet-121's stem is a 7x7 convolution 3 -> 64 and a norm, 9,408 + 128;
# VGG-11's first stage a 3x3 one with a bias, 1,792 + 128.
FAMILIES: dict[str, tuple[list[str], list[int]]] = {
    "resnet10t": (
        ["bn1", "layer1.0.bn2", "layer2.0.downsample.2", "layer3.0.downsample.2", "layer4.0.downsample.2"],
        [26232, 73984, 230144, 919040, 3673088],
    ),
    "resnext50_32x4d": (
        ["bn1", "layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"],
        [9536, 205824, 1197056, 7022592, 14544896],
    ),
    "densenet121": (
        [
            "features.norm0",
            "features.denseblock1.denselayer6.conv2",
            "features.denseblock2.denselayer12.conv2",
            "features.denseblock3.denselayer24.conv2",
            "features.norm5",
        ],
        [9536, 335040, 952960, 2969856, 2686464],
    ),
    "vgg11_bn": (
        ["features.1", "features.5", "features.12", "features.19", "pre_logits.fc2"],
        [1920, 74112, 886272, 3542016, 124267520],
    ),
    "efficientnet_b0": (
        ["blocks.0.0.bn2", "blocks.1.1.bn3", "blocks.2.1.bn3", "blocks.4.2.bn3", "bn2"],
        [2376, 16714, 46640, 786078, 3155740],
    ),
    "mobilenetv3_small_100": (
        ["bn1", "blocks.0.0.bn2", "blocks.1.1.bn3", "blocks.3.1.bn3", "conv_head"],
        [464, 744, 9280, 180032, 1327336],
    ),
    "convnext_atto": (
        ["stem.1", "stages.0.blocks.1.mlp.fc2", "stages.1.blocks.1.mlp.fc2", "stages.2.blocks.5.mlp.fc2", "head.norm"],
        [2040, 30240, 124640, 1336000, 1881600],
    ),
    "vit_tiny_patch16_224": (
        ["patch_embed.proj", "blocks.2.mlp.fc2", "blocks.5.mlp.fc2", "blocks.8.mlp.fc2", "norm"],
        [185664, 1334592, 1334592, 1334592, 1334976],
    ),
}
SIZE_PX = 64

LARGE = (("vgg11_bn", 0), ("vgg11_bn", 3))
"""Ten seconds each."""


def test_eight_families_are_covered() -> None:
    assert len(FAMILIES) == 8


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_end_where_they_should_and_hold_all_parameters(name: str) -> None:
    with torch.device("meta"):  # no weight has a value, so none is drawn
        model = timm.create_model(name, num_classes=0)
    stages = stage_of_modules(model)
    counts, last = [0] * N_STAGES, [""] * N_STAGES
    for parameter_name, parameter in model.named_parameters():
        module = parameter_name.rpartition(".")[0]
        counts[stages[module] - 1] += parameter.numel()
        last[stages[module] - 1] = module
    assert (last, counts) == FAMILIES[name]
    assert sum(counts) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_stages_run_in_order(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0).eval()
    stages = stage_of_modules(model)
    entered: list[int] = []
    for module_name, module in model.named_modules():
        if next(module.parameters(recurse=False), None) is not None and module_name:
            module.register_forward_pre_hook(lambda *_, stage=stages[module_name]: entered.append(stage))
    with torch.inference_mode():
        model.forward_head(model.forward_features(torch.zeros(1, 3, 224, 224, device="meta")), pre_logits=True)
    assert entered == sorted(entered)
    assert set(entered) == set(range(1, N_STAGES + 1))


@pytest.mark.parametrize(
    ("name", "frozen_stages"),
    [
        pytest.param(
            name,
            frozen_stages,
            marks=[pytest.mark.soak] if frozen_stages != 3 or (name, frozen_stages) in LARGE else [],
        )
        for name in FAMILIES
        for frozen_stages in (0, 3, 5)
    ],
)
def test_what_moves_in_a_training_step(name: str, frozen_stages: int) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, weights="none", frozen_stages=frozen_stages, image_size=SIZE_PX)
    head = nn.Linear(backbone.n_features, 2)
    before = {key: tensor.clone() for key, tensor in backbone.model.state_dict().items()}
    backbone.train()
    optimizer = torch.optim.SGD(
        [*backbone.parameters(), *head.parameters()], lr=1e4
    )  # so that even ConvNeXt's layer scales of 1e-6 show
    features = backbone(torch.randn(4, 3, SIZE_PX, SIZE_PX))
    assert features.shape == (4, backbone.n_features)
    head(features).square().sum().backward()
    optimizer.step()
    moved = {key for key, tensor in backbone.model.state_dict().items() if not torch.equal(tensor, before[key])}
    assert {key for key in moved if backbone.stage_of(key) <= frozen_stages} == set()
    gradients = {
        key
        for key, parameter in backbone.model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    statistics = {key for key in before if key.endswith("running_mean")}
    for key in gradients | statistics:
        assert (key in moved) == (backbone.stage_of(key) > frozen_stages), key
    for stage in range(frozen_stages + 1, N_STAGES + 1):
        assert any(backbone.stage_of(key) == stage for key in moved), f"stage {stage} stands still"


def test_frozen_stages_stay_in_eval_whatever_the_model_is_reported() -> None:
    backbone = create_backbone("efficientnet_b0", weights="none", frozen_stages=2, image_size=SIZE_PX)
    for mode in (True, False, True):
        nn.Sequential(backbone).train(mode)
        leaves = {name: module for name, module in backbone.model.named_modules() if not list(module.children())}
        assert {backbone.stages[name] <= 2 for name, module in leaves.items() if module.training} == (
            {False} if mode else set()
        )


@pytest.mark.parametrize("frozen_stages", [-1, 6])
def test_a_count_of_stages_out_of_range_is_refused(frozen_stages: int) -> None:
    with pytest.raises(CallError, match=f"0 <= frozen_stages <= 5.*got {frozen_stages}"):
        Backbone(timm.create_model("resnet10t", num_classes=0), frozen_stages)
