"""Named starting points of a recipe, and what a machine without a GPU can do of them in reasonable time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from maskcls.errors import CallError
from maskcls.files import expanded
from maskcls.models.weights import HUB, NONE
from maskcls.recipe import N_STAGES, Recipe, parse_settings

PRESETS: dict[str, dict[str, Any]] = {
    # NAVER Boostcamp AI Tech mask contest, 2021: rank 145 of 224, accuracy 75.05 %, macro F1 0.6951. Its defects are
    # not repeated: the schedule covers the epochs that are trained, frozen stages do not change, hue is augmented.
    # The project trained 12 of its own epochs (10 to 16), each of which drew every class as often as the largest one:
    # of the contest's photos 18 * 4,085 draws for 18,900 photos, 3.89 per photo. An epoch here is one draw per photo,
    # so as many draws are 12 * 3.89 = 47 epochs, whatever the photos: on others, whose classes differ in size in
    # another way, the project's own epochs would have been longer or shorter. The scale `cpu` trains far less.
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
        "epochs": 47,
        "batch_size": 64,
    },
    # Fine-tuning, as in most of the contest's better entries, which had their best epoch at about five.
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
    # What is known to be good by 2026, argued choice by choice in docs/anytime.md. Its backbone and photos at the scale
    # `gpu` are those of the contest's best entry (fourth cohort, rank 1: .8007), three heads on one backbone those of
    # the first cohort's second.
    "faces-2026": {
        "task_split": "shared_heads",
        "backbone": "tf_efficientnet_b4.ns_jft_in1k",
        "frozen_stages": 0,
        "sampler": "square_root",
        "optimizer": "adamw",
        "lr_head": 1e-3,
        "lr_body": 2e-4,
        "weight_decay": 0.02,
        "image_size": 384,
        "warmup_epochs": 0.5,
        "clip_norm": 5.0,
        "epochs": 5,
        "batch_size": 32,
    },
}
VIEWS = 4
"""Fixed views of a photo where frozen features are kept."""
CONTEST_PRESET = "contest-2021"
"""What a comparison has as its base where nothing else is said."""
DEFAULT_PRESET = "faces-2026"

SCALES: dict[str, dict[str, Any]] = {
    "gpu": {},
    # Two cores train about 200 photos per second of this.
    "cpu": {
        "backbone": "resnet10t",
        "image_size": 112,
        "head_width": 512,
        "lr_head": 1e-3,
        "batch_size": 32,
        "epochs": 6,
    },
}

# What a preset has instead of its scale's values, and of DEMO's under `demo`. A small network that is fine-tuned for a
# few epochs takes ten times larger steps in its body: of 208 recipes of MobileNetV3-small those with 2e-3 scored .29 in
# the mean, those with 2e-4 .18 (docs/luck.md, table `stages`).
OWN_VALUES: dict[str, dict[str, dict[str, Any]]] = {
    "faces-2026": {"cpu": {"lr_head": 2e-3, "lr_body": 2e-3}, "demo": {"lr_head": 5e-3, "lr_body": 5e-3}},
}

# Small drawn faces and random weights need small photos, and more and larger steps, at any scale.
DEMO: dict[str, Any] = {"image_size": 48, "lr_head": 1e-3, "lr_body": 1e-3, "batch_size": 16, "epochs": 4}
# From random weights and without a GPU also a network of 0.4 million weights: one core trains it on about 350 of these
# photos per second.
DEMO_UNTRAINED: dict[str, dict[str, Any]] = {"gpu": {}, "cpu": {"backbone": "test_resnet"}}


def resolve_scale(scale: str, *, gpu: bool) -> str:
    """Return `cpu` or `gpu`; `auto` is gpu if there is one. Raises CallError on another word, listing the scales."""
    if scale not in ("auto", *SCALES):
        raise CallError(f"There is no scale {scale!r}. Scales: auto, {', '.join(SCALES)}.")
    if scale != "auto":
        return scale
    return "gpu" if gpu else "cpu"


def fixed_views(recipe: Recipe, *, shared: bool) -> int:
    """How many views a photo has if nobody says so: VIEWS where their frozen features are kept and pay, else 0.

    They pay where the whole backbone of every model is frozen: a photo's features are one vector, which any store has
    room for, and an epoch of them costs next to nothing. Behind fewer stages they are maps, which at larger photos no
    store holds. They cannot be kept where photos are mixed first, and there is but one view without augmentation.

    Args:
        shared: whether other fits draw the same views; if not, they pay only if the fit itself draws them repeatedly.
    """
    models = [recipe.of_model(tasks) for tasks in recipe.split.models]
    kept = all(model.frozen_stages == N_STAGES and model.mix == "none" for model in models)
    others = [strength for name, strength in recipe.augmentation.items() if name not in ("flip", "probability")]
    augmented = recipe.augment_flip > 0 or (recipe.augment_probability > 0 and any(others))
    return VIEWS if kept and augmented and (shared or recipe.epochs > VIEWS) else 0


def base_recipe(name: str, scale: str, explicit: Mapping[str, Any], *, demo: bool) -> Recipe:
    """Return the recipe that a call starts from; random weights are not frozen.

    Precedence: preset < scale < what demo faces and random weights need < explicit values.
    """
    asked = {**DEMO, **OWN_VALUES.get(name, {}).get("demo", {})} if demo else {}
    if explicit.get("weights") == NONE:
        asked |= {"frozen_stages": 0, **(DEMO_UNTRAINED[scale] if demo else {})}
    return preset(name, scale).override({**asked, **explicit})


def preset(name: str, scale: str) -> Recipe:
    """Return the preset's recipe at a scale, `cpu` or `gpu`; `auto` counts as cpu.

    Raises CallError for an unknown name, listing the presets.
    """
    scale = resolve_scale(scale, gpu=False)
    if name not in PRESETS:
        raise CallError(f"There is no preset {name!r}. Presets: {', '.join(PRESETS)}.")
    return Recipe().override({**PRESETS[name], **SCALES[scale], **OWN_VALUES.get(name, {}).get(scale, {})})


def explicit_values(settings: Iterable[str] | None, data: Path | None, **options: Any) -> dict[str, Any]:
    """Return the recipe values that a call states, by its own options and by `--set key=value`, and its weights.

    Args:
        data: the folder of photos, or None for demo faces, on which the default of the weights depends.
        options: recipe values by key; None: not given.

    Raises CallError where an option and a --set disagree.
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
    """Return what `--weights` means: `hub`, `none`, or a folder as an absolute path.

    The default is hub for real data and none for demo faces.
    """
    if weights is None:
        return NONE if data is None else HUB
    if weights in (HUB, NONE):
        return weights
    folder = expanded(weights).resolve()
    if not folder.is_dir():
        raise CallError(
            f"--weights {weights}: there is no such folder. "
            "Expected hub, none, or a folder of .safetensors or .pth files."
        )
    return str(folder)
