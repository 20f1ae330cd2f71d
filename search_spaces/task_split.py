"""One model for the 18 classes, one backbone with three heads, or a model for each part of the answer?

    python -m tune.search --space task_split --data DIR --trials 40 --epochs 6

All seven splits, at both scales: single; shared_heads (one backbone, heads for mask, gender and age); three;
mask_genderage; advised (single with two advisers); mask_gender_ages; five_binary. They train 1, 1, 3, 3, 3, 4 and 5
models, and an epoch costs about so many times a single one's, on two cores as on a GPU: so the known points begin with
the cheap ones, and `--set task_split=three` looks into one alone. Backbone, frozen stages and photo size are the
preset's; `--set frozen_stages=5` asks the same of a frozen backbone.

Sampler, class weights and the head's learning rate are drawn for all members. A split has of its own:

- the join, where its members can contradict each other, as `under 30` and `over 59` can. Of mask, gender and age
  group, each of the 18 combinations is a class, so in `three` and `shared_heads` the soft and the hard join decide
  alike, and there is nothing to draw.
- `members.<member>.<key>`: values of those members that tell the age, which is where the classes are lost (in a first
  search on real faces F1 of mask was 1.00, gender .95, age group .55). Mask and gender go with the values of all.
  `over_59`, `age3` and advised's `classes` may have a sampler, or class weights, of their own; a head of the shared
  backbone has its weight beside the other heads instead of a sampler, for one feeds them all. The GPU scale also draws
  their loss and learning rate; `under_30` and `gender_under_30`, whose labels are nearly even, have the rate alone.
- label smoothing for `single`: over 18 classes most neighbours differ in one attribute.

The CPU scale has fewer samplers and fewer of the members' own values: two cores manage a few dozen trials.

Bounds. The contest's teams found one 18-class model, three models and three heads within .01 of each other, with no
general winner, and the weighted sampler worth .02 or nothing. A sampler balances the task at hand, so it means another
thing in each split: classes from 83 to 4,085 photos in one, ages in three with 7 % over 59. Class weights would
balance a second time, so they are drawn only without a sampler. Label smoothing: .016 or worse. Learning rates:
`search_spaces.freezing`. The age head's weight, half to four times the others', is a guess to both sides of even.
"""

from __future__ import annotations

from typing import Any

from search_spaces import Setting, Space, Suggest, asked
from search_spaces.freezing import LR_HEAD
from search_spaces.imbalance import LABEL_SMOOTHING, LOSSES, balance, weights

SPLITS = ("single", "shared_heads", "three", "mask_genderage", "advised", "mask_gender_ages", "five_binary")
"""By the models that they train."""
CONTRADICTING = ("mask_genderage", "advised", "mask_gender_ages", "five_binary")
"""Splits whose members can say what no class is."""
JOINS = ("soft", "hard")
AGE_MEMBERS: dict[str, tuple[str, ...]] = {
    "single": (),
    "shared_heads": ("age3",),
    "three": ("age3",),
    "mask_genderage": ("gender_under_30", "over_59"),
    "advised": ("classes",),
    "mask_gender_ages": ("under_30", "over_59"),
    "five_binary": ("under_30", "over_59"),
}
"""Members that tell the age."""
EVEN = ("under_30", "gender_under_30")
"""Those whose rarest label has at least half as many photos as the commonest."""
SAMPLERS = {"gpu": ("none", "oversample", "weighted", "square_root"), "cpu": ("none", "oversample", "square_root")}
LOSS_WEIGHT = (0.5, 4.0)


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """The sampler and the head's learning rate of all members, the split, and what it has of its own."""
    chosen = balance(trial, setting, SAMPLERS[setting.scale])
    chosen["lr_head"] = trial.suggest_float("lr_head", *LR_HEAD[setting.scale], log=True)
    chosen |= split(trial, setting, chosen["sampler"])
    if chosen["task_split"] == "single":
        chosen["label_smoothing"] = trial.suggest_float("label_smoothing", *LABEL_SMOOTHING)
    return chosen


def split(trial: Suggest, setting: Setting, sampler: str) -> dict[str, Any]:
    """The split, its join, and its members' own values. `sampler` is the one of all members."""
    chosen: dict[str, Any] = {"task_split": trial.suggest_categorical("task_split", SPLITS)}
    if chosen["task_split"] in CONTRADICTING:
        chosen["join"] = trial.suggest_categorical("join", JOINS)
    for member in AGE_MEMBERS.get(chosen["task_split"], ()):
        chosen |= _own(trial, setting, member, sampler if chosen["task_split"] == "shared_heads" else None)
    return chosen


def _own(trial: Suggest, setting: Setting, member: str, shared_sampler: str | None) -> dict[str, Any]:
    """A member's own values. `shared_sampler`: the one that feeds it, where it is a head of a shared backbone."""
    of = f"members.{member}."
    gpu = setting.scale == "gpu"
    chosen: dict[str, Any] = {}
    if gpu:
        chosen[f"{of}lr_head"] = trial.suggest_float(f"{of}lr_head", *LR_HEAD[setting.scale], log=True)
    if member in EVEN:
        return chosen
    if gpu:
        chosen[f"{of}loss"] = trial.suggest_categorical(f"{of}loss", LOSSES)
    if shared_sampler is None:
        return {**chosen, **balance(trial, setting, SAMPLERS[setting.scale], of)}
    chosen[f"{of}loss_weight"] = trial.suggest_float(f"{of}loss_weight", *LOSS_WEIGHT, log=True)
    return {**chosen, **weights(trial, shared_sampler, of)}


def points(setting: Setting) -> list[dict[str, Any]]:
    """Each split as the contest project trained its own, the cheap ones first.

    That is oversampled, with focal loss and the hard join.
    """
    lr_head = 1e-4 if setting.scale == "gpu" else 1e-3
    drawn = {
        "sampler": "oversample",
        "lr_head": lr_head,
        "join": "hard",
        "label_smoothing": 0.0,
        **members("oversample", "focal", lr_head),
    }
    return [asked(suggest, setting, {"task_split": name, **drawn}) for name in SPLITS]


def members(sampler: str, loss: str, lr_head: float) -> dict[str, Any]:
    """Own values for a point, of all members that may have some: the same as the others'."""
    own = {"sampler": sampler, "class_weights": "none", "loss": loss, "lr_head": lr_head, "loss_weight": 1.0}
    names = dict.fromkeys(member for members_of in AGE_MEMBERS.values() for member in members_of)
    return {f"members.{member}.{key}": value for member in names for key, value in own.items()}


SPACE = Space("task_split", "One model for 18 classes, three heads, or a model for each part?", suggest, points)
