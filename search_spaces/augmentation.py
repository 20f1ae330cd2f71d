"""How strongly should photos be augmented, if at all?

    python -m tune.search --space augmentation --data DIR --trials 30 --epochs 6

Backbone, frozen stages and learning rates are the preset's. The answer depends on what is frozen: with a frozen
backbone no augmentation at all won in a prototype (+.034 with a linear head, +.062 with an mlp), so `none` is one of
the choices; ask again with `--preset contest-2021` for a backbone that is frozen.

`augmentation` says which kinds there are: none, geometry, colour, or both. The GPU scale draws each strength of a kind
by itself. The CPU scale has trials for fewer parameters: `augment_geometry` and `augment_colour` multiply the contest
project's strengths of shift, scale and rotation, and of hue, saturation, value, brightness and contrast. These three
are no recipe keys, so `from_recipe` finds them; a pinned augment_* key wins over what they compute.

The GPU scale also asks whether photos are mixed with one another. That changes what a photo shows, and its label only
follows from it, so it stands here and not in `imbalance`; on the CPU scale `everything` asks it.

Bounds. From nothing to two or three times the contest project's strengths (flip .5, shift .0625, scale .1, 15 degrees,
brightness and contrast .1), whose hue, saturation and value did nothing by mistake. Rotation ends at 45 degrees:
portraits stand upright. MixUp's alpha: 0.1 to 0.4, where its authors' gain on ImageNet lay; large ones underfit (Zhang
et al., ICLR 2018). CutMix's: 1, and half of the batches or all of them, its authors' settings for CIFAR and for
ImageNet (Yun et al., ICCV 2019); the winner of the contest's fourth cohort used it. half_cutmix has no alpha: it
always joins halves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from search_spaces import Setting, Space, SpaceError, Suggest, asked

# Strengths: the contest project's (recipe.py's defaults), which the CPU scale multiplies, and the GPU scale's upper
# bounds.
CONTEST = {
    "geometry": {"augment_shift": 0.0625, "augment_scale": 0.1, "augment_rotate_degrees": 15.0},
    "colour": {
        "augment_hue_degrees": 10.0,
        "augment_saturation": 0.2,
        "augment_value": 0.1,
        "augment_brightness": 0.1,
        "augment_contrast": 0.1,
        "augment_noise": 0.03,
    },
}
UPPER = {
    "augment_shift": 0.2,
    "augment_scale": 0.3,
    "augment_rotate_degrees": 45.0,
    "augment_hue_degrees": 30.0,
    "augment_saturation": 0.5,
    "augment_value": 0.3,
    "augment_brightness": 0.3,
    "augment_contrast": 0.3,
    "augment_noise": 0.1,
}
CHOICES = ("none", "geometry", "colour", "both")
TIMES = 2.0
MIXES = ("none", "mixup", "cutmix", "half_cutmix")
MIXUP_ALPHA = (0.1, 0.4)
CUTMIX_ALPHA = 1.0
MIX_PROBABILITIES = (0.5, 1.0)


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """How each photo is augmented, and on the GPU scale whether photos are mixed."""
    gpu = setting.scale == "gpu"
    return {**photos(trial, each=gpu), **(mixing(trial) if gpu else {})}


def photos(trial: Suggest, *, each: bool) -> dict[str, Any]:
    """Draw no augmentation, or flips, a probability, and the strengths of the chosen kinds.

    `each`: one strength for each augmentation, else one for each kind.
    """
    choice = trial.suggest_categorical("augmentation", CHOICES)
    if choice not in CHOICES:
        raise SpaceError(f"--set augmentation expects one of {', '.join(CHOICES)}, but got {choice!r}.")
    chosen: dict[str, Any] = {key: 0.0 for strengths in CONTEST.values() for key in strengths}
    if choice == "none":
        return {"augment_flip": 0.0, "augment_probability": 0.0, **chosen}
    chosen["augment_flip"] = trial.suggest_categorical("augment_flip", (0.0, 0.5))
    chosen["augment_probability"] = trial.suggest_float("augment_probability", 0.1, 1.0)
    for kind in CONTEST:
        if choice in (kind, "both"):
            chosen |= _each(trial, kind) if each else _multiplied(trial, kind)
    return chosen


def mixing(trial: Suggest) -> dict[str, Any]:
    """How photos are mixed with one another, if at all, in how many of the batches, and MixUp's alpha."""
    chosen: dict[str, Any] = {"mix": trial.suggest_categorical("mix", MIXES)}
    if chosen["mix"] == "none":
        return chosen
    chosen["mix_probability"] = trial.suggest_categorical("mix_probability", MIX_PROBABILITIES)
    if chosen["mix"] == "mixup":
        chosen["mix_alpha"] = trial.suggest_float("mix_alpha", *MIXUP_ALPHA)
    elif chosen["mix"] == "cutmix":
        chosen["mix_alpha"] = CUTMIX_ALPHA
    return chosen


def _multiplied(trial: Suggest, kind: str) -> dict[str, float]:
    times = trial.suggest_float(f"augment_{kind}", 0.0, TIMES)
    return {key: times * strength for key, strength in CONTEST[kind].items()}


def _each(trial: Suggest, kind: str) -> dict[str, float]:
    return {key: trial.suggest_float(key, 0.0, UPPER[key]) for key in CONTEST[kind]}


def from_recipe(recipe: Mapping[str, Any], setting: Setting) -> dict[str, Any]:
    """Find `augmentation`, and the CPU scale's `augment_geometry` and `augment_colour`, in a recipe's strengths.

    A multiplier is left out if the strengths of its kind are not one multiple of the contest project's. Pinned
    strengths are passed over, because they say nothing about what a trial drew.
    """
    free = {key: value for key, value in recipe.items() if key not in setting.fixed}
    found: dict[str, Any] = {}
    kinds = []
    for kind, strengths in CONTEST.items():
        times = [free[key] / strength for key, strength in strengths.items() if key in free]
        if times and math.isclose(min(times), max(times), rel_tol=1e-9):
            found[f"augment_{kind}"] = times[0]
        if any(times):
            kinds.append(kind)
    if len(kinds) == len(CONTEST):
        return {**found, "augmentation": "both"}
    # Without any strength, a chance to flip is still an augmentation; a kind multiplied by 0 makes it.
    without = "geometry" if free.get("augment_flip") or free.get("augment_probability") else "none"
    return {**found, "augmentation": kinds[0] if kinds else without}


def points(setting: Setting) -> list[dict[str, Any]]:
    """None; geometry as the contest project had it; twice its strengths; its own strengths with CutMix.

    The project's own strengths alone are the preset's.
    """
    drawn = {"augment_flip": 0.5, "augment_probability": 0.5, "mix": "none"}
    tried: list[dict[str, Any]] = [
        {"augmentation": "none", "mix": "none"},
        {"augmentation": "geometry", **drawn, **strengths(1.0)},
        {"augmentation": "both", **drawn, **strengths(TIMES)},
    ]
    if setting.scale == "gpu":
        tried.append({"augmentation": "both", **drawn, **strengths(1.0), "mix": "cutmix", "mix_probability": 1.0})
    return [asked(suggest, setting, point) for point in tried]


def strengths(times: float) -> dict[str, float]:
    """So many times the contest project's, under the names that any scale draws."""
    each = {key: times * strength for kind in CONTEST.values() for key, strength in kind.items()}
    return {f"augment_{kind}": times for kind in CONTEST} | each


SPACE = Space(
    "augmentation", "How strongly should photos be augmented, if at all?", suggest, points, from_recipe=from_recipe
)
