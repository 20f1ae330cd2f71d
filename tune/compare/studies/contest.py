"""What the contest project did, and what other teams reported to have changed their scores: is it true here as well?

    python -m tune.compare --study contest --data DIR --preset fine-tune

Every comparison except that of two losses changes one thing. The base is given by the command (preset, scale, --set),
except for what a comparison fixes itself, so that the study runs at any size. Sources are the contest project of 2021
(rank 145 of 224) and teams' published reports, all on the contest's photos with larger backbones. Their figures are
macro F1 on validation people unless they say test or accuracy. The hard join is compared for splits whose members can
contradict each other; where they cannot, as in `three`, it gives the same classes as the soft join.
"""

from __future__ import annotations

from typing import Any

from tune.compare.studies import Comparison, Study, Variant

PROJECT = "contest project, 2021"
TEAMS = "other teams' reports"

# Limits of 0.2 in the units of a recipe: OpenCV's hue has 180 steps for 360 degrees, saturation and value have 255.
_HUE_OF_THE_PROJECT = {"augment_hue_degrees": 0.4, "augment_saturation": 0.2 / 255, "augment_value": 0.2 / 255}
_NO_AUGMENTATION = {"augment_flip": 0.0, "augment_probability": 0.0}


def _values(key: str, *values: Any) -> tuple[Variant, ...]:
    return tuple(Variant(f"{key}={value}", {key: value}) for value in values)


DEFECTS = (
    Comparison(
        "preprocessing",
        "Prediction that squeezes the photo, or normalises it differently from training, costs much.",
        f"{PROJECT}: accuracy of its mask model 93 % -> 99 % when the geometry was mended",
        variants=(
            Variant("squeezed photos", treatment="squeezed photos"),
            Variant("foreign mean and std", treatment="foreign mean and std"),
        ),
    ),
    Comparison(
        "numbering",
        "A joint task of gender and under 30 that is read in another numbering than in training inverts the ages.",
        f"{PROJECT}: found in its code, not measured",
        base={"task_split": "mask_genderage"},
        variants=(Variant("inverted numbering", treatment="inverted numbering"),),
    ),
    Comparison(
        "best epoch",
        "The best epoch by accuracy is not the best by macro F1.",
        f"{PROJECT}: kept by accuracy, not measured",
        variants=(Variant("by accuracy", treatment="best epoch by accuracy"),),
    ),
    Comparison(
        "schedule",
        "A cosine over 50 epochs in a run of 10 to 16 never anneals.",
        f"{PROJECT}: found in its code, not measured",
        base={"schedule": "cosine"},
        variants=(
            Variant("unfinished cosine", treatment="unfinished cosine"),
            Variant("constant", {"schedule": "constant"}),
        ),
    ),
    Comparison(
        "BatchNorm",
        "A frozen backbone in train() lets BatchNorm's statistics move.",
        f"{PROJECT}: found in its code, not measured",
        base={"frozen_stages": 5},
        variants=(Variant("statistics move", treatment="moving BatchNorm"),),
    ),
    Comparison(
        "hue",
        "Limits of 0.2 on a scale of 0..255 change almost no colour; larger ones would have helped.",
        f"{PROJECT}: found in its code, not measured",
        variants=(Variant("limits of 0.2", _HUE_OF_THE_PROJECT),),
    ),
    Comparison(
        "split",
        "Split by photo, the same people are on both sides, and validation is optimistic. Compare it with the score on "
        "new people.",
        f"{TEAMS}: by photo validation .92, test .69; by person .65 and .64",
        variants=(Variant("by photo", treatment="split by photo"),),
    ),
)

CHOICES = (
    Comparison(
        "frozen stages",
        "Fine-tuning beats a frozen backbone; freezing the first one or two stages is best. The contest project: "
        "unfreezing is worse.",
        f"{TEAMS}: ViT frozen .629, tuned .660; TinyViT none .719, stages 0-1 .745, 0-2 .731",
        base={"frozen_stages": 0},
        variants=_values("frozen_stages", 1, 2, 3, 4, 5),
    ),
    Comparison(
        "task split",
        "One 18-class model, three models and three heads on one backbone lie within .01 of each other.",
        f"{TEAMS}; {PROJECT}: five binary models .1402 to .5490, advised by mask and gender better still",
        base={"task_split": "single", "join": "soft"},
        variants=(
            *_values(
                "task_split", "five_binary", "mask_gender_ages", "mask_genderage", "three", "advised", "shared_heads"
            ),
        ),
    ),
    *(
        Comparison(
            f"join of {split}",
            "The contest project's hard rule: one member after the other, advisers first, decides among the classes "
            "that are still possible.",
            f"{PROJECT}: its only rule, not compared",
            base={"task_split": split, "join": "soft"},
            variants=(Variant("hard join", treatment="hard join"),),
        )
        for split in ("five_binary", "mask_gender_ages", "mask_genderage", "advised")
    ),
    Comparison(
        "loss",
        "Label smoothing +.016 or worse; F1 loss alone can collapse, but with cross entropy or focal it is in both "
        "winning entries.",
        f"{TEAMS}: F1 loss alone .40",
        base={"loss": "cross_entropy", "second_loss": "none", "label_smoothing": 0.0, "class_weights": "none"},
        variants=(
            Variant("focal", {"loss": "focal"}),
            Variant("label smoothing .1", {"label_smoothing": 0.1}),
            Variant("soft F1 alone", {"loss": "soft_f1"}),
            Variant("cross entropy + soft F1", {"second_loss": "soft_f1"}),
            Variant("focal + soft F1", {"loss": "focal", "second_loss": "soft_f1"}),
            Variant("balanced class weights", {"class_weights": "balanced"}),
        ),
    ),
    Comparison(
        "sampler",
        "The weighted sampler +.02, or nothing; plain oversampling often overfits.",
        TEAMS,
        base={"sampler": "none"},
        variants=_values("sampler", "oversample", "weighted", "square_root"),
    ),
    Comparison(
        "oversampling, augmented",
        "Oversampling helps together with augmentation.",
        f"{TEAMS}: focal with oversampling and augmentation .671 -> .694",
        base={"sampler": "none", "loss": "focal"},
        variants=(Variant("oversampled", {"sampler": "oversample"}), Variant("not augmented", _NO_AUGMENTATION)),
    ),
    Comparison(
        "oversampling, not augmented",
        "Plain oversampling often overfits.",
        TEAMS,
        base={"sampler": "none", "loss": "focal", **_NO_AUGMENTATION},
        variants=(Variant("oversampled", {"sampler": "oversample"}),),
    ),
    Comparison(
        "corrections",
        "Relabelling the known label errors +.007 to +.035.",
        TEAMS,
        variants=(Variant("labels as they came", treatment="uncorrected labels"),),
    ),
    Comparison(
        "age boundary",
        "The boundary of the old moved to 57 or 58 for training: up to +.09, or nothing; ages 57-59 left out: "
        ".719 -> .736, .796 -> .846.",
        TEAMS,
        base={"age_cut_old": 60, "ages_left_out": ""},
        variants=(
            *_values("age_cut_old", 55, 56, 57, 58, 59),
            *_values("ages_left_out", "57-59", "27-29,57-59"),
        ),
    ),
    Comparison(
        "face crop",
        "A crop to the face: .713 -> .783, or harmful.",
        TEAMS,
        base={"face_crop": "none"},
        variants=_values("face_crop", "haar"),
    ),
    Comparison(
        "image size",
        "Larger photos score better.",
        f"{TEAMS}: winners used 380 px and 384 px",
        variants=_values("image_size", 48, 96, 112),
    ),
    Comparison(
        "mixing",
        "CutMix, of vertical halves too, is in a winning entry.",
        f"{TEAMS}: the fourth cohort's first",
        base={"mix": "none"},
        variants=_values("mix", "mixup", "cutmix", "half_cutmix"),
    ),
    Comparison(
        "averages",
        "A moving average of the weights, and the mean over a photo and its mirror image, +.001 to +.004.",
        f"{TEAMS} (test-time augmentation)",
        base={"ema_decay": 0.0},
        variants=(
            Variant("ema_decay=0.99", {"ema_decay": 0.99}),
            Variant("test-time flip", treatment="test-time flip"),
        ),
    ),
    Comparison(
        "age regression",
        "Age is ordinal: regressing it beside the classes helps.",
        "nobody measured it; our own question",
        base={"age_regression": 0.0},
        variants=_values("age_regression", 0.5),
    ),
)

STUDY = Study("contest", "What did the contest project's choices and defects do to the score?", (*DEFECTS, *CHOICES))
