"""Named starting points of a recipe, and what a machine without a GPU can bear of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maskcls.errors import CallError
from maskcls.models.weights import HUB, NONE
from maskcls.recipe import Recipe, parse_settings

PRESETS: dict[str, dict[str, Any]] = {
    # NAVER Boostcamp AI Tech mask contest, 2021: rank 145 of 224, accuracy 75.05 %, macro F1 0.6951; without its defects:
    # the schedule runs over the epochs that really run, frozen stages stand still, hue limits do something.
    "contest-2021": {
        "task_split": "single",
        "backbone": "resnext101_32x8d.tv_in1k",
        "frozen_stages": 5,
        "head": "mlp",
        "head_width": 4096,
        "head_dropout": 0.5,
        "image_size": 256,
        "sampler": "oversample",
        "loss": "focal",
        "focal_gamma": 2.0,
        "optimizer": "adam",
        "lr_head": 1e-4,
        "schedule": "cosine",
        "epochs": 12,
        "batch_size": 64,
    },
    # Fine-tuning as most of the contest's better entries did it; five epochs were where they peaked.
    "fine-tune": {
        "backbone": "resnet50.a1_in1k",
        "frozen_stages": 1,
        "optimizer": "adamw",
        "lr_head": 1e-3,
        "lr_body": 2e-4,
        "weight_decay": 0.02,
        "image_size": 224,
        "warmup_epochs": 0.5,
        "clip_norm": 5.0,
        "epochs": 5,
    },
}
DEFAULT_PRESET = "contest-2021"

SCALES: dict[str, dict[str, Any]] = {
    "gpu": {},
    # Two cores bear about 200 photos a second of this.
    "cpu": {
        "backbone": "resnet10t",
        "image_size": 112,
        "head_width": 512,
        "lr_head": 1e-3,
        "batch_size": 32,
        "epochs": 6,
    },
}

# What small drawn faces and random weights want of any scale: small photos, more and larger steps.
DEMO = {"image_size": 64, "lr_head": 2e-3, "lr_body": 2e-3, "batch_size": 16, "epochs": 8}


def resolve_scale(scale: str, *, gpu: bool) -> str:
    """`auto` is gpu where there is one, else cpu. Raises CallError on another word, listing those there are."""
    if scale not in ("auto", *SCALES):
        raise CallError(f"There is no scale {scale!r}. Scales: auto, {', '.join(SCALES)}.")
    if scale != "auto":
        return scale
    return "gpu" if gpu else "cpu"


def base_recipe(name: str, scale: str, explicit: Mapping[str, Any], *, demo: bool) -> Recipe:
    """Preset < scale < what demo faces and random weights ask for < explicit values. Random weights are not frozen."""
    asked = {**(DEMO if demo else {}), **({"frozen_stages": 0} if explicit.get("weights") == NONE else {})}
    return preset(name, scale).override({**asked, **explicit})


def preset(name: str, scale: str) -> Recipe:
    """The preset's recipe at a scale (`cpu` or `gpu`; `auto` is taken for cpu). Raises CallError listing the names there are."""
    scale = resolve_scale(scale, gpu=False)
    if name not in PRESETS:
        raise CallError(f"There is no preset {name!r}. Presets: {', '.join(PRESETS)}.")
    return Recipe().override({**PRESETS[name], **SCALES[scale]})


def explicit_values(settings: Iterable[str] | None, data: Path | None, **options: Any) -> dict[str, Any]:
    """Recipe values that a call states: its own options (None: not given) and `--set key=value`, and the weights, which hang on the data.

    Raises CallError where two of them disagree.
    """
    values = parse_settings(settings or ())
    for key, value in options.items():
        if value is None:
            continue
        if values.setdefault(key, value) != value:
            raise CallError(
                f"--{key.replace('_', '-')} says {value}, but --set says {key}={values[key]}. Give it once."
            )
    return {**values, "weights": resolve_weights(values.get("weights"), data)}


def resolve_weights(weights: str | None, data: Path | None) -> str:
    """What `--weights` means: the hub for real data and none for demo faces by default; a folder becomes an absolute path."""
    if weights is None:
        return NONE if data is None else HUB
    if weights in (HUB, NONE):
        return weights
    folder = Path(weights).expanduser().resolve()
    if not folder.is_dir():
        raise CallError(
            f"--weights {weights}: there is no such folder. Expected hub, none, or a folder of .safetensors or .pth files."
        )
    return str(folder)
