"""All of it at once: which backbone, trained how, for which tasks, with which labels and photos?

    python -m tune.search --space everything --data DIR --trials 300 --epochs 6 --pixel-store-gb 40

The other spaces in one, each part drawn as they draw it: `backbones` (with `freezing`), `imbalance`, `task_split`,
`augmentation` with one strength for geometry and one for colour, at both scales; and what no other space asks: mixed
photos (on the CPU scale), the crop to the face, and a moving average of the weights. `views` follows from the rest
(see `freezing`).

It wants hundreds of trials, so a box with GPUs, or several; with a few dozen the narrower spaces answer more. --set
fixes what is known already: `--set task_split=single` spares the splits that train up to five models. What depends on
a choice is drawn only with it: of the GPU scale's 46 parameters 15 are drawn always, and 15 to 35 in a trial, about 27
on average; of the CPU scale's 35, 15 always, and 15 to 29 in a trial, about 23 on average. Names of one branch are
modelled apart from another's, so each branch needs trials of its own.

Time. An epoch of five models costs about five single ones, and the CPU scale's backbones alone differ fivefold
(`backbones`); `--plan` guesses from the preset. No run on a GPU has been measured. Each photo size, cropped or not, is
decoded once into a store of its own: at the GPU scale six of them, 30 GB for the contest's 18,900 photos, which is
more than --pixel-store-gb allows by default.

Score. None of this space is known yet. Its parts: the contest project's recipe, trial 0, had macro F1 .6951;
fine-tuned, .7784 on the public test photos, .7632 on the private. The fourth cohort's winner, whose ingredients are a
point here, had .8000 and .8007 with three models voting; the third cohort's best single model .7763 (its winner used
Swin-L, which this space has not).

Bounds. Those of the parts; see their modules. Face crop: .713 to .783 on validation, or harmful, as the contest's
teams measured it with other detectors; it is left out where YuNet is not installed. ema_decay: 0.95 and 0.99 average
about 20 and 100 steps; timm's warm-up lets no decay beyond 0.982 in 400 steps or 0.990 in 1,000, and five epochs of
the contest's data have about 1,000, so a greater one would be no other.
"""

from __future__ import annotations

from typing import Any

from search_spaces import Setting, Space, Suggest, asked, augmentation, backbones, imbalance, task_split

FACE_CROPS = ("none", "yunet")
EMA_DECAYS = (0.0, 0.95, 0.99)


def suggest(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """The parts' parameters, then what no other space asks."""
    chosen = {**backbones.suggest(trial, setting), **imbalance.suggest(trial, setting)}
    chosen |= task_split.split(trial, setting, chosen["sampler"])
    chosen |= {**augmentation.photos(trial, each=False), **augmentation.mixing(trial)}
    chosen["face_crop"] = trial.suggest_categorical("face_crop", FACE_CROPS) if setting.finds_faces else "none"
    chosen["ema_decay"] = trial.suggest_categorical("ema_decay", EMA_DECAYS)
    return chosen


_AS_THE_PROJECT = {
    "augmentation": "both",
    "augment_flip": 0.5,
    "augment_probability": 0.5,
    **augmentation.strengths(1.0),
    "mix": "none",
    "face_crop": "none",
    "ema_decay": 0.0,
    "join": "hard",
}
_PROJECT = {**imbalance.PROJECT, **_AS_THE_PROJECT}
_WINNER = {**imbalance.WINNER, **_AS_THE_PROJECT, "mix": "cutmix", "mix_probability": 1.0, "face_crop": "yunet"}


def points(setting: Setting) -> list[dict[str, Any]]:
    """What is known to score, on the backbones that `backbones` tries first.

    The fourth cohort's winner; the same with three heads on one backbone, as rank 2 of the first cohort had them; the
    contest project's recipe fine-tuned (rank 14 of the first cohort); its last step, a frozen model with two advisers.
    """
    bodies = backbones.points(setting)
    trained = [body for body in bodies if "lr_body" in body]
    frozen = [body for body in bodies if "lr_body" not in body]
    tried = [{**body, **_WINNER, "task_split": split} for body in trained[:1] for split in ("single", "shared_heads")]
    tried += [{**body, **_PROJECT, "task_split": "single"} for body in trained[-1:]]
    tried += [{**body, **_PROJECT, "task_split": "advised"} for body in frozen[-1:]]
    return [
        asked(suggest, setting, {**point, **task_split.members(point["sampler"], point["loss"], point["lr_head"])})
        for point in tried
    ]


SPACE = Space(
    "everything",
    "All of it at once: backbone, tasks, labels and photos?",
    suggest,
    points,
    backbones.backbones,
    augmentation.from_recipe,
)
