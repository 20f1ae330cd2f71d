"""What does a start that is good today bring over the contest project's recipe, and what do its choices bring?

    python -m tune.compare --study start --data DIR --preset fine-tune

The base is fine-tuned behind a frozen stem, as the contest's teams did it; the preset `faces-2026` follows from what
the variants score (docs/anytime.md).
"""

from __future__ import annotations

from tune.compare.studies import Comparison, Study, Variant

STRONG = {
    "task_split": "single",
    "frozen_stages": 1,
    "head": "linear",
    "sampler": "square_root",
    "loss": "cross_entropy",
    "optimizer": "adamw",
    "lr_head": 2e-3,
    "lr_body": 2e-3,
    "weight_decay": 0.02,
    "warmup_epochs": 0.5,
    "clip_norm": 5.0,
}
CONTEST = {
    "frozen_stages": 5,
    "head": "mlp",
    "head_width": 512,
    "head_dropout": 0.5,
    "sampler": "oversample",
    "loss": "focal",
    "optimizer": "adam",
    "lr_head": 1e-3,
    "weight_decay": 0.0,
    "warmup_epochs": 0.0,
    "clip_norm": 0.0,
}
"""The contest project's recipe at the scale `cpu`."""

STUDY = Study(
    "start",
    "What does a start that is good today bring?",
    [
        Comparison(
            "start",
            "Fine-tuning beats a frozen backbone; three heads on one backbone, and nothing frozen, do no harm.",
            "other teams' reports: .7784 fine-tuned against .6951; one model or three heads within .01",
            base=STRONG,
            variants=(
                Variant("contest", CONTEST),
                Variant("shared heads", {"task_split": "shared_heads"}),
                Variant("none frozen", {"frozen_stages": 0}),
            ),
        )
    ],
)
