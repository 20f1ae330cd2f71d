"""Which epoch, and which class by its probabilities: what do the decision rule and the last epoch bring?

    python -m tune.compare --study decision --data DIR --preset fine-tune

Both only evaluate the base's fits differently, so a comparison trains nothing twice.
"""

from __future__ import annotations

from tune.compare.studies import Comparison, Study, Variant

SAMPLERS = ("none", "square_root")
"""A rule and a sampler both say how much a rare class counts, so one is measured under the other."""


def comparison(sampler: str) -> Comparison:
    """The question for one sampler; a study of your own may ask it alone."""
    return Comparison(
        f"sampler {sampler}",
        "Macro F1 is not won by the likeliest class: argmax(log p - tau log prior) is better. With a schedule that "
        "ends at zero, the last epoch is as good as the best one by validation, whose score is too good.",
        "Menon et al., Long-tail learning via logit adjustment, ICLR 2021, for balanced error",
        base={"sampler": sampler},
        variants=(
            Variant("decision rule", treatment="decision rule"),
            Variant("last epoch", treatment="last epoch"),
        ),
    )


STUDY = Study(
    "decision", "What do the decision rule and the last epoch bring?", [comparison(sampler) for sampler in SAMPLERS]
)
