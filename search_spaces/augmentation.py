"""How strongly should photos be augmented, if at all?

    python -m tune.search --space augmentation --data DIR --trials 30 --epochs 6

Backbone, frozen stages and learning rates are the preset's. The answer hangs on what is frozen: with a frozen backbone no
augmentation at all won in a prototype (+.034 with a linear head, +.062 with an mlp), so `none` is one of the choices; ask again with
`--preset fine-tune` for backbones that are trained.

`augmentation` says which kinds there are: none, geometry, colour, or both. The GPU scale draws each strength of a kind by itself. The
CPU scale has trials for fewer parameters: `augment_geometry` and `augment_colour` multiply the contest project's strengths of shift,
scale and rotation, and of hue, saturation, value, brightness and contrast. These three are no recipe keys; a pinned augment_* key
wins over what they compute.

Bounds. From nothing to two or three times the contest project's strengths (flip .5, shift .0625, scale .1, 15 degrees, brightness and
contrast .1), whose hue, saturation and value did nothing by mistake. Rotation ends at 45 degrees: portraits stand upright.
"""

from typing import Any

from search_spaces import Setting, Space, SpaceError, Suggest

# Strengths: the contest project's (recipe.py's defaults), which the CPU scale multiplies, and the upper bounds of the GPU scale.
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


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """None, or flips, a probability, and the strengths of the kinds of augmentation that there are."""
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
            chosen |= _multiplied(trial, kind) if setting.scale == "cpu" else _each(trial, kind)
    return chosen


def _multiplied(trial: Suggest, kind: str) -> dict[str, float]:
    times = trial.suggest_float(f"augment_{kind}", 0.0, TIMES)
    return {key: times * strength for key, strength in CONTEST[kind].items()}


def _each(trial: Suggest, kind: str) -> dict[str, float]:
    return {key: trial.suggest_float(key, 0.0, UPPER[key]) for key in CONTEST[kind]}


def points(setting: Setting) -> list[dict[str, Any]]:
    """None; geometry as the contest project had it; twice its strengths. Its own are the preset's, trial 0."""
    drawn = {"augment_flip": 0.5, "augment_probability": 0.5}
    geometry, twice = _strengths(setting, ("geometry",), 1.0), _strengths(setting, ("geometry", "colour"), TIMES)
    return [{"augmentation": "none"}, {"augmentation": "geometry", **drawn, **geometry}, {"augmentation": "both", **drawn, **twice}]


def _strengths(setting: Setting, kinds: tuple[str, ...], times: float) -> dict[str, float]:
    if setting.scale == "cpu":
        return {f"augment_{kind}": times for kind in kinds}
    return {key: times * strength for kind in kinds for key, strength in CONTEST[kind].items()}


SPACE = Space("augmentation", "How strongly should photos be augmented, if at all?", suggest, points)
