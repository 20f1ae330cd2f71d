"""Some classes have fifty times as many photos as others, and ages near 60 look alike: which sampler, loss, boundary?

    python -m tune.search --space imbalance --data DIR --trials 40 --epochs 6

Backbone, frozen stages, task split and learning rates are the preset's; `--set task_split=three` asks it of three
models.

Both scales draw the sampler, class weights where nothing else balances, the loss, whether soft F1 is added to it,
label smoothing, the ages that training leaves out, and the old age group's first year where it leaves none out. The
CPU scale has trials for no more: focal loss's gamma and the second loss's share are the preset's there, and ages are
not regressed. The GPU scale draws these three, too. What is scored always keeps the true classes: cuts and bands are
training's alone.

What does not go together is never drawn together. Class weights and a sampler would each balance: so weights only with
the sampler `none`. A boundary moved to 57 calls people of 57 to 59 old, and a band of 57-59 would delete them again:
so a band goes with the boundary at 60. Soft F1 is only ever the second loss. How photos are mixed is no question of
labels: see `augmentation`.

A trial takes as long as a fit of the preset. What the whole space scores is not known yet.

Bounds. The contest's teams: weighted sampler +.02 or nothing, plain oversampling often overfits, focal loss with
oversampling and augmentation .671 to .694; the age boundary moved to 57 or 58 up to +.09 or nothing (so 55 to 60),
ages 57-59 left out .719 to .736 and .796 to .846 on validation, 27-29 with them in the fourth cohort's winning entry;
label smoothing +.016 or worse (so 0 to 0.2, around the 0.1 of Szegedy et al., CVPR 2016); F1 loss alone can collapse
(.40), with cross entropy or focal loss it is in both winning entries (so a share of 0.1 to 0.8). Focal loss's gamma:
0.5 to 5, its authors' range, around their 2 (Lin et al., ICCV 2017). square_root lies halfway to balance (Mahajan et
al., ECCV 2018). Class weights reach 50 to 1 over the 18 classes (4,085 photos against 83), so they are one choice of
two. The age regression's weights, 0.3 and 1, are a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search_spaces import Setting, Space, Suggest, asked

SAMPLERS = ("none", "oversample", "weighted", "square_root")
LOSSES = ("cross_entropy", "focal")
FOCAL_GAMMA = (0.5, 5.0)
SECOND_LOSSES = ("none", "soft_f1")
SECOND_LOSS_WEIGHT = (0.1, 0.8)
LABEL_SMOOTHING = (0.0, 0.2)
AGES_LEFT_OUT = ("", "57-59", "27-29,57-59")
AGE_CUT = 60  # the contest's
AGE_CUTS = (55, AGE_CUT)
AGE_REGRESSIONS = (0.0, 0.3, 1.0)


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """Sampler or class weights, losses, and what training knows of ages."""
    return {**balance(trial, setting, SAMPLERS), **losses(trial, setting), **ages(trial, setting)}


def balance(trial: Suggest, setting: Setting, samplers: Sequence[str], of: str = "") -> dict[str, Any]:
    """A sampler, and class weights where it leaves the labels as they are.

    Args:
        of: `members.<member>.` for one member's own.
    """
    name = f"{of}sampler"
    weighs = name not in setting.fixed and setting.fixed.get(f"{of}class_weights", "none") != "none"
    sampler = "none" if weighs else trial.suggest_categorical(name, samplers)
    return {name: sampler, **weights(trial, sampler, of)}


def weights(trial: Suggest, sampler: str, of: str = "") -> dict[str, Any]:
    """Class weights, of all or of one member, beside the sampler that feeds them."""
    name = f"{of}class_weights"
    return {name: trial.suggest_categorical(name, ("none", "balanced")) if sampler == "none" else "none"}


def losses(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """The loss, whether soft F1 is added to it, label smoothing."""
    gpu = setting.scale == "gpu"
    chosen: dict[str, Any] = {"loss": trial.suggest_categorical("loss", LOSSES)}
    if gpu and chosen["loss"] == "focal":
        chosen["focal_gamma"] = trial.suggest_float("focal_gamma", *FOCAL_GAMMA)
    chosen["second_loss"] = trial.suggest_categorical("second_loss", SECOND_LOSSES)
    if gpu and chosen["second_loss"] != "none":
        chosen["second_loss_weight"] = trial.suggest_float("second_loss_weight", *SECOND_LOSS_WEIGHT)
    chosen["label_smoothing"] = trial.suggest_float("label_smoothing", *LABEL_SMOOTHING)
    return chosen


def ages(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """A band of ages left out, or the old age group's first year; on the GPU scale a regression of the age beside."""
    moved = setting.fixed.get("age_cut_old", AGE_CUT) != AGE_CUT
    left_out = "" if moved else trial.suggest_categorical("ages_left_out", AGES_LEFT_OUT)
    cut = trial.suggest_int("age_cut_old", *AGE_CUTS) if left_out == "" else AGE_CUT
    chosen = {"ages_left_out": left_out, "age_cut_old": cut}
    if setting.scale == "gpu":
        chosen["age_regression"] = trial.suggest_categorical("age_regression", AGE_REGRESSIONS)
    return chosen


PLAIN: dict[str, Any] = {
    "sampler": "none",
    "class_weights": "none",
    "loss": "cross_entropy",
    "second_loss": "none",
    "label_smoothing": 0.0,
    "ages_left_out": "",
    "age_cut_old": AGE_CUT,
    "age_regression": 0.0,
}
PROJECT = {**PLAIN, "sampler": "oversample", "loss": "focal", "focal_gamma": 2.0}
"""The contest project's."""
WINNER = {
    **PLAIN,
    "sampler": "weighted",
    "second_loss": "soft_f1",
    "second_loss_weight": 0.5,
    "ages_left_out": "27-29,57-59",
}
"""The fourth cohort's first; the share of its F1 loss is not known."""


def points(setting: Setting) -> list[dict[str, Any]]:
    """Nothing done about it; a weighted sampler with the age boundary moved; the fourth cohort's winner; the contest
    project's own choices.
    """
    moved = {**PLAIN, "sampler": "weighted", "age_cut_old": 58}
    return [asked(suggest, setting, point) for point in (PLAIN, moved, WINNER, PROJECT)]


SPACE = Space(
    "imbalance",
    "Which sampler, loss and age boundary, where some classes have fifty times as many photos?",
    suggest,
    points,
)
