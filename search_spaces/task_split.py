"""One model for the 18 classes, or one for each of mask, gender and age?

    python -m tune.search --space task_split --data DIR --trials 16 --epochs 6

A classifier of three members trains three models, so an epoch of it takes about three times as long. Backbone, frozen stages and
photo size are the preset's; `--set frozen_stages=1` asks the same question of fine-tuned backbones.

Bounds. The contest's teams found one 18-class model and three models within .01 of each other, with no general winner, and the
weighted sampler worth .02 or nothing. A sampler balances the task at hand, so it means another thing in each split: classes from 83 to
4,085 photos in one, ages in three with 7 % over 59. Class weights would balance a second time, so they are drawn only without a
sampler, and only for three: over 18 classes they reach 50 to 1. Label smoothing (.016 or worse) is drawn for the 18 classes alone,
where most neighbours differ in one attribute.
"""

from typing import Any

from search_spaces import Setting, Space, Suggest
from search_spaces.freezing import LR_HEAD

SPLITS = ("single", "three")
SAMPLERS = {"gpu": ("none", "oversample", "weighted"), "cpu": ("none", "oversample")}


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """The split, the sampler, the head's learning rate, and what the split has of its own."""
    chosen: dict[str, Any] = {
        "task_split": trial.suggest_categorical("task_split", SPLITS),
        "sampler": trial.suggest_categorical("sampler", SAMPLERS[setting.scale]),
        "lr_head": trial.suggest_float("lr_head", *LR_HEAD[setting.scale], log=True),
    }
    if chosen["task_split"] == "single":
        chosen["label_smoothing"] = trial.suggest_float("label_smoothing", 0.0, 0.2)
    elif chosen["sampler"] == "none":
        chosen["class_weights"] = trial.suggest_categorical("class_weights", ("none", "balanced"))
    return chosen


def points(setting: Setting) -> list[dict[str, Any]]:
    """Each split as the contest project trained it: oversampled."""
    lr_head = 1e-4 if setting.scale == "gpu" else 1e-3
    return [
        {"task_split": "three", "sampler": "oversample", "lr_head": lr_head},
        {"task_split": "single", "sampler": "oversample", "lr_head": lr_head, "label_smoothing": 0.0},
    ]


SPACE = Space("task_split", "One model for 18 classes, or three for mask, gender and age?", suggest, points)
