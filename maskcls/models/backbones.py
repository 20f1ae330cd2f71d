"""Any timm backbone, with its weights and the first n of its five stages frozen."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn

from maskcls.errors import CallError, RunError, is_out_of_memory
from maskcls.models.stages import stage_of_modules
from maskcls.models.weights import HUB, NONE, check_reachable, find_weights
from maskcls.recipe import N_STAGES, Recipe


class Backbone(nn.Module):
    """A timm model without its classifier, the first stages of which may be frozen.

    Frozen stages have no gradients and stay in eval() when the model is put into train(), so that the statistics of
    BatchNorm, dropout and drop-path stand still.

    Args:
        model: built with `num_classes=0`.
        frozen_stages: 0..5.

    Raises CallError outside 0..5.
    """

    def __init__(self, model: nn.Module, frozen_stages: int) -> None:
        super().__init__()
        if not 0 <= frozen_stages <= N_STAGES:
            raise CallError(f"`0 <= frozen_stages <= {N_STAGES}` must hold, but got {frozen_stages}.")
        self.model = model
        self.frozen_stages = frozen_stages
        # Some heads end in a wider layer than the last stage (MobileNetV3's conv_head): head_hidden_size is its width.
        n_features = getattr(model, "head_hidden_size", None) or model.num_features
        self.n_features: int = n_features  # type: ignore[assignment]
        self.stages = stage_of_modules(model)
        self.frozen_modules = self._modules_within(frozen_stages)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = self.stage_of(name) > frozen_stages  # `create_optimizer` leaves out the others
        self.train(self.training)  # puts the frozen stages into eval()

    def stage_of(self, tensor_name: str) -> int:
        """Stage (1..5) of a parameter or buffer of the timm model by its dotted name."""
        # By the module that owns the tensor: "" is the model itself, as for a transformer's position embedding.
        return self.stages[tensor_name.rpartition(".")[0]]

    def exempt_from_decay(self) -> list[nn.Parameter]:
        """Trainable parameters whose weights timm does not decay: biases, those of norms, and what the model names."""
        # As `pos_embed`; they may be patterns, which timm resolves.
        named: set[str] = getattr(self.model, "no_weight_decay", set)()
        groups = param_groups_weight_decay(self.model, weight_decay=1.0, no_weight_decay_list=named)
        return [parameter for group in groups if not group["weight_decay"] for parameter in group["params"]]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (b, 3, s, s) -> features (b, n_features)."""
        maps = self.model.forward_features(images)  # type: ignore[operator]  # (b, c, h, w) or tokens (b, t, d)
        features: Tensor = self.model.forward_head(maps, pre_logits=True)  # type: ignore[operator]  # (b, n_features)
        return features

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.frozen_modules:
            module.training = False  # not eval(), which would reach children that lie in later stages
        return self

    def _modules_within(self, n_stages: int) -> list[nn.Module]:
        """Modules that lie wholly within the first n stages, without the containers that reach further."""
        last: dict[str, int] = {}  # by module, the last stage that it or anything in it belongs to
        for name, stage in self.stages.items():
            parts = name.split(".") if name else []
            for depth in range(len(parts) + 1):  # the model, each module on the way, the module itself
                ancestor = ".".join(parts[:depth])
                last[ancestor] = max(stage, last.get(ancestor, 0))
        return [module for name, module in self.model.named_modules() if last[name] <= n_stages]


def create_backbone(name: str, *, weights: str, frozen_stages: int, image_size: int) -> Backbone:
    """Build a backbone for square images; random weights are drawn from torch's global generator.

    Args:
        weights: hub, none, or a folder (`models.weights`).
        frozen_stages: how many of its five stages, from the stem on, are frozen.
        image_size: edge of the images, px.

    Raises:
        CallError: timm does not know the model, or it cannot take the size.
        RunError: the weights are out of reach or cannot be read.
        RuntimeError: as torch has it, where the memory does not suffice.
    """
    check_known(name)
    if weights == HUB and not _config(name).has_weights:
        raise CallError(
            f"timm has no weights for {name}. Name a model with a tag (timm.list_pretrained()), or use --weights none."
        )
    check_reachable(name, weights)
    # Plain and windowed transformers are built for one size; timm resamples their position embeddings to it.
    sized: dict[str, Any] = {"img_size": image_size} if _config(name).fixed_input_size else {}
    if weights not in (HUB, NONE):
        # timm then reads this file and does not ask the hub.
        sized["pretrained_cfg_overlay"] = {"file": str(find_weights(name, weights))}
    try:
        model = timm.create_model(name, pretrained=weights != NONE, num_classes=0, **sized)
        if "img_size" in sized:
            _try_out(model, image_size)
    except (AssertionError, ValueError, TypeError) as error:
        raise CallError(f"{name} cannot be built for {image_size} px: {str(error).rstrip('.')}.") from None
    except Exception as error:
        # Short memory, or nothing was read: the weights are not to blame.
        if weights == NONE or is_out_of_memory(error):
            raise
        source = find_weights(name, weights) if weights != HUB else "the hub"
        raise RunError(f"The weights of {name} could not be read from {source}: {error}") from error
    return Backbone(model, frozen_stages)


def _try_out(model: nn.Module, image_size: int) -> None:
    """Run a model built for one size on one black photo: a size that its windows do not divide fails only then."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, image_size, image_size))
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise ValueError(str(error).splitlines()[0]) from None


def check_known(name: str) -> None:
    """Raises CallError, with the nearest names, where timm does not know the model or the tag."""
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        close = difflib.get_close_matches(model, timm.list_models(), n=3)
        raise CallError(
            f"timm does not know the backbone {name!r}. "
            f"{'Close: ' + ', '.join(close) if close else 'See timm.list_models()'}."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")]
    if tag and tag not in tags:
        raise CallError(f"The backbone {model} has no weights tagged {tag!r}. Tags: {', '.join(tags) or 'none'}.")


def check_backbones(recipe: Recipe) -> None:
    """Raises CallError, within seconds, for a backbone that timm does not know, RunError for weights out of reach."""
    for backbone in recipe.backbones:
        check_known(backbone)
        check_reachable(backbone, recipe.weights)


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, (3,) each, of RGB pixels in 0..1 that the backbone's weights were trained with."""
    config = _config(name)
    return tuple(config.mean), tuple(config.std)


def _config(name: str) -> PretrainedCfg:
    """What timm knows about the model's (tagged) weights; timm's defaults where it has no weights."""
    return timm.get_pretrained_cfg(name) or PretrainedCfg()
