"""Whether two recipes train the same classifier: their values compared, apart from those that decide nothing.

A value decides nothing if no fit reads it beside the recipe's other values, as the width of a linear head; if it only
changes chance, as the seeds; or if it only changes the speed.
"""

from __future__ import annotations

import math
from typing import Any

from maskcls.labels import N_CLASSES
from maskcls.recipe import AUGMENTATION_PREFIX, MEMBERS, N_STAGES, Recipe

_CHANCE_OR_SPEED = ("seed", "augmentation_seed", "compile")
SAME_AS_FRESH_VIEWS = 4
"""So many fixed views of a photo, or more, count as a new one at every draw: in a prototype four scored alike, -.001 +-
.003 (a linear head on frozen stages). Fewer are another recipe."""
_SAME = 1e-9
"""Relative difference up to which two numbers are the same: a product and its factors round differently."""


def differing_keys(one: Recipe, other: Recipe) -> tuple[str, ...]:
    """Return the keys in which two recipes differ for their fits; none if they train the same classifier.

    A key in which only some members of the task split differ comes as `members.<member>.<key>`.
    """
    if one.task_split != other.task_split:  # the members are others, and only what all share can be compared
        return _differing(one.model_copy(update={MEMBERS: {}}), other.model_copy(update={MEMBERS: {}}))
    members = one.split.members
    of_members = {member: _differing(one.of_member(member), other.of_member(member)) for member in members}
    found = dict.fromkeys(key for keys in of_members.values() for key in keys)
    named: list[str] = []
    for key in found:
        where = [member for member, keys in of_members.items() if key in keys]
        named += [key] if len(where) == len(members) else [f"{MEMBERS}.{member}.{key}" for member in where]
    return tuple(named)


def _differing(one: Recipe, other: Recipe) -> tuple[str, ...]:
    mine, theirs = _deciding_values(one), _deciding_values(other)
    return tuple(key for key in mine if not _is_same(mine[key], theirs[key]))


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=_SAME)
    return bool(one == other)


def _deciding_values(recipe: Recipe) -> dict[str, Any]:
    """Return every value by key, with None for those that decide nothing beside the others."""
    unread = {MEMBERS, *_CHANCE_OR_SPEED}
    unread |= {"head_width"} if recipe.head == "linear" else set()
    unread |= {"lr_body"} if recipe.frozen_stages == N_STAGES else set()
    unread |= {"focal_gamma"} if "focal" not in (recipe.loss, recipe.second_loss) else set()
    unread |= {"second_loss_weight"} if recipe.second_loss == "none" else set()
    unread |= {"mix_alpha"} if recipe.mix in ("none", "half_cutmix") else set()
    unread |= {"mix_probability"} if recipe.mix == "none" else set()
    unread |= set() if _can_contradict(recipe) else {"join"}
    values = {**recipe.model_dump(), "ages_left_out": recipe.age_bands, **_augmentation(recipe)}
    return {key: None if key in unread else value for key, value in values.items()}


def _can_contradict(recipe: Recipe) -> bool:
    """Whether the members can say what is none of the 18 classes; if not, both joins decide for the same class."""
    return math.prod(task.n_labels for task in recipe.split.tasks) > N_CLASSES


def _augmentation(recipe: Recipe) -> dict[str, Any]:
    """Return strengths and views as they are applied: without a probability no strength is, nor the reverse."""
    strengths = {f"{AUGMENTATION_PREFIX}{name}": value for name, value in recipe.augmentation.items()}
    flip, probability = strengths.pop("augment_flip"), strengths.pop("augment_probability")
    is_applied = probability > 0 and any(strengths.values())
    few = recipe.views < SAME_AS_FRESH_VIEWS and (is_applied or flip > 0)
    return {
        **(strengths if is_applied else dict.fromkeys(strengths, 0.0)),
        "augment_flip": flip,
        "augment_probability": probability if is_applied else 0.0,
        "views": recipe.views if few else 0,
    }
