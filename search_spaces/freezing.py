"""How much of the backbone should stand still, and what head and learning rates go with that?

    python -m tune.search --space freezing --data DIR --trials 12 --epochs 6

The backbone, the sampler, the loss and the photos' size are the preset's. Frozen stages stand still altogether,
BatchNorm statistics included, so there is nothing to choose about them.

Views. With all five stages frozen a photo has four views, here and in every other space, so that its features are
computed once for all trials and kept; behind fewer stages every draw is a new view. --set views=N says otherwise.

Bounds. Stages: the contest's teams scored best with the first one or two frozen (TinyViT on validation: none .719, 0-1
.745, 0-2 .731), fine-tuning beat a frozen backbone (.660 against .629; .7763 against .6951 for the contest project's
own recipe), and that project found unfreezing everything worse at its learning rate: so 0 to 5, all of them. Head:
linear, or the contest project's mlp of 4096 units. Learning rates: a factor of ten or more to both sides of the usual
ones for Adam: the project's 1e-4 for a head, a tenth of it for the lowest body. The CPU scale's backbones are smaller,
take larger steps, and peak within six epochs only with them: of 208 recipes of MobileNetV3-small (docs/luck.md, table
`stages`) those with 6e-3 for the body scored best (.31 in the mean) and those with 2e-4 worst (.18), so 2e-4 to 1e-2.
Weight decay of what is trained: none, the presets' 0.02, or 0.1, between which lie the 0.05 of Swin and ConvNeXt.

Points. The CPU scale's are `portfolio.json`'s, which says how they were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces import Setting, Space, Suggest
from search_spaces.portfolio import STARTS

LR_HEAD = {"gpu": (3e-5, 1e-2), "cpu": (5e-4, 2e-2)}
LR_BODY = {"gpu": (1e-5, 1e-3), "cpu": (2e-4, 1e-2)}
WEIGHT_DECAYS = (0.0, 0.02, 0.1)
HEAD_WIDTHS = {"gpu": (512, 1024, 2048, 4096), "cpu": (128, 256, 512)}
N_STAGES = 5


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Frozen stages, head, and the learning rates of what is trained."""
    return {**body(trial, setting), **head(trial, setting)}


def body(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Frozen stages; where some are trained, their learning rate and the weight decay, with the warm-up and clipping
    that fine-tuning wants.

    Random weights are all trained: there is nothing in them to keep.
    """
    frozen_stages = trial.suggest_int("frozen_stages", 0, N_STAGES) if setting.pretrained else 0
    if frozen_stages == N_STAGES:
        return {"frozen_stages": frozen_stages}
    lr_body = trial.suggest_float("lr_body", *LR_BODY[setting.scale], log=True)
    weight_decay = trial.suggest_categorical("weight_decay", WEIGHT_DECAYS)
    trained = {"lr_body": lr_body, "weight_decay": weight_decay, "warmup_epochs": 0.5, "clip_norm": 5.0}
    return {"frozen_stages": frozen_stages, **trained}


def head(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """The head and its learning rate; an mlp also has a width and a dropout."""
    chosen: dict[str, Any] = {
        "head": trial.suggest_categorical("head", ("linear", "mlp")),
        "lr_head": trial.suggest_float("lr_head", *LR_HEAD[setting.scale], log=True),
    }
    if chosen["head"] == "mlp":
        chosen["head_width"] = trial.suggest_categorical("head_width", HEAD_WIDTHS[setting.scale])
        chosen["head_dropout"] = trial.suggest_float("head_dropout", 0.0, 0.7)
    return chosen


def points(setting: Setting) -> list[dict[str, Any]]:
    """What starts well, then at the GPU scale a frozen backbone with a plain head."""
    tried: list[Mapping[str, Any]] = [*STARTS[setting.scale]]
    if setting.scale == "gpu":
        tried.append({"frozen_stages": N_STAGES, "head": "linear", "lr_head": 1e-3})
    return drawable(tried, setting)


def drawable(tried: Sequence[Mapping[str, Any]], setting: Setting) -> list[dict[str, Any]]:
    """Return the points as `body` can draw them.

    Of random weights these are only the points that train them, without their frozen stages, which are not asked for.
    """
    if setting.pretrained:
        return [dict(point) for point in tried]
    trained = [point for point in tried if "lr_body" in point]
    unlike = {tuple(sorted(_without(point).items())): _without(point) for point in trained}
    return list(unlike.values())


def _without(point: Mapping[str, Any]) -> dict[str, Any]:
    """The point without its frozen stages."""
    return {name: value for name, value in point.items() if name != "frozen_stages"}


SPACE = Space("freezing", "How many stages stand still, with which head and learning rates?", suggest, points)
