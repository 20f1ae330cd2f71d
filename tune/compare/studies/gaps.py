"""What do photos bring whose age is not known, to a classifier that needs the age?

    python -m tune.compare --study gaps --data DIR --preset fine-tune

In each repeat half of the training people lose their age. The base leaves their photos out; the variants train with
them the tasks that need no age, or, for reference, keep the ages of all.
"""

from __future__ import annotations

from tune.compare.studies import Comparison, Study, Variant

TASK_SPLITS = ("three", "shared_heads")
"""The same three tasks, by models of their own and by heads on one backbone; two of them need no age."""


def comparison(task_split: str) -> Comparison:
    """The question for one task split; a study of your own may ask it alone."""
    return Comparison(
        task_split,
        "Training on photos of people of unknown age, in the tasks that need no age, is better than leaving them out.",
        "what separate models of mask, gender and age are said to be good for; the contest project could not try it",
        base={"task_split": task_split},
        variants=(
            Variant("unknown ages are trained with", treatment="unknown ages"),
            Variant("all ages are known", treatment="all ages"),
        ),
        treatment="unknown ages left out",
    )


STUDY = Study("gaps", "What do photos of unknown age bring?", [comparison(task_split) for task_split in TASK_SPLITS])
