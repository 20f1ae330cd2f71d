"""How strongly should photos be augmented, if at all?

    python -m tune.search --space augmentation --data DIR --trials 30 --epochs 6

Backbone, frozen stages and learning rates are the preset's. The answer hangs on what is frozen: with a frozen backbone no
augmentation at all won in a prototype (+.034 with a linear head, +.062 with an mlp), so `none` is one of the choices; ask again with
`--preset fine-tune` for backbones that are trained.

The GPU scale draws each strength by itself. The CPU scale has trials for fewer parameters: `augment_geometry` and `augment_colour`,
which are no recipe keys, multiply the contest project's strengths of shift, scale and rotation, and of hue, saturation, value,
brightness and contrast. `augmentation` (none or drawn) is no recipe key either. A pinned augment_* key wins over what they compute.

Bounds. From nothing to two or three times the contest project's strengths (flip .5, shift .0625, scale .1, 15 degrees, brightness and
contrast .1), whose hue, saturation and value did nothing by mistake. Rotation ends at 45 degrees: portraits stand upright.
"""

from typing import Any

from search_spaces import Setting, Space, SpaceError, Suggest

# The contest project's strengths (recipe.py's defaults), which the CPU scale multiplies and the GPU scale draws up to a bound.
CONTEST_GEOMETRY = {"augment_shift": 0.0625, "augment_scale": 0.1, "augment_rotate_degrees": 15.0}
CONTEST_COLOUR = {
    "augment_hue_degrees": 10.0,
    "augment_saturation": 0.2,
    "augment_value": 0.1,
    "augment_brightness": 0.1,
    "augment_contrast": 0.1,
}
CONTEST_NOISE = 0.03
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
CHOICES = ("none", "drawn")


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """None, or flips, a probability, and a strength of each augmentation."""
    choice = trial.suggest_categorical("augmentation", CHOICES)
    if choice == "none":
        return {"augment_flip": 0.0, "augment_probability": 0.0}
    if choice != "drawn":
        raise SpaceError(f"--set augmentation expects {' or '.join(CHOICES)}, but got {choice!r}.")
    return {
        "augment_flip": trial.suggest_categorical("augment_flip", (0.0, 0.5)),
        "augment_probability": trial.suggest_float("augment_probability", 0.1, 1.0),
        **(_scaled(trial) if setting.scale == "cpu" else _each(trial)),
    }


def _scaled(trial: Suggest) -> dict[str, float]:
    geometry = trial.suggest_float("augment_geometry", 0.0, 2.0)
    colour = trial.suggest_float("augment_colour", 0.0, 2.0)
    return {
        **{key: geometry * strength for key, strength in CONTEST_GEOMETRY.items()},
        **{key: colour * strength for key, strength in CONTEST_COLOUR.items()},
        "augment_noise": trial.suggest_float("augment_noise", 0.0, UPPER["augment_noise"]),
    }


def _each(trial: Suggest) -> dict[str, float]:
    return {key: trial.suggest_float(key, 0.0, upper) for key, upper in UPPER.items()}


def points(setting: Setting) -> list[dict[str, Any]]:
    """None; flips alone; twice the contest project's strengths. The project's own are the preset's, trial 0."""
    contest = {**CONTEST_GEOMETRY, **CONTEST_COLOUR, "augment_noise": CONTEST_NOISE}
    if setting.scale == "cpu":
        alone = {"augment_geometry": 0.0, "augment_colour": 0.0, "augment_noise": 0.0}
        twice = {"augment_geometry": 2.0, "augment_colour": 2.0, "augment_noise": 2 * CONTEST_NOISE}
    else:
        alone = dict.fromkeys(contest, 0.0)
        twice = {key: 2 * strength for key, strength in contest.items()}
    drawn = {"augmentation": "drawn", "augment_flip": 0.5, "augment_probability": 0.5}
    return [{"augmentation": "none"}, {**drawn, **alone}, {**drawn, **twice}]


SPACE = Space("augmentation", "How strongly should photos be augmented, if at all?", suggest, points)
