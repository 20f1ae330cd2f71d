"""Recipe: every hyperparameter of one fit, typed, checked and immutable, with JSON both ways and a digest.

The split of the people is not here: it belongs to the data. Presets and scales are overrides of the defaults below;
precedence is preset < scale < space < explicit options.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from maskcls.errors import CallError
from maskcls.labels import AGE_CUTS, AgeBands, parse_age_bands
from maskcls.task_split import TASK_SPLITS, TaskSplit, task_split
from maskcls.tasks import Task
from maskcls.text import meant

N_STAGES = 5
AUGMENTATION_PREFIX = "augment_"
MEMBERS = "members"

_FIT_KEYS = frozenset(
    (
        "task_split",
        "join",
        MEMBERS,
        "weights",
        "image_size",
        "face_crop",
        "precision",
        "epochs",
        "epoch_photos",
        "seed",
        "augmentation_seed",
    )
)
"""What a member shares with the others: the split, the preprocessing, the epochs, the seeds."""
_HEAD_KEYS = frozenset(
    (
        "head",
        "head_width",
        "head_dropout",
        "lr_head",
        "age_regression",
        "loss",
        "second_loss",
        "second_loss_weight",
        "focal_gamma",
        "label_smoothing",
        "class_weights",
        "loss_weight",
    )
)
"""Values that a head of a shared backbone may have for itself."""

_LATER = {"epoch_photos": 0}
"""Keys that recipes did not always have, and what those without them did."""

LossName = Literal["cross_entropy", "focal", "soft_f1"]


class Recipe(BaseModel):
    """The hyperparameters of one fit. Unknown keys and wrong types are refused.

    Wherever values are given, `members.<member>.<key>` is a key, too: a value for that member alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # What is learned
    task_split: str = Field("single", description="the tasks that the classifier is cut into")
    join: Literal["soft", "hard"] = Field(
        "soft", description="soft: the members' probabilities multiply; hard: the contest project's"
    )
    members: dict[str, dict[str, Any]] = Field({}, description="values of single members")
    backbone: str = Field("resnext101_32x8d.tv_in1k", description="timm model name, with or without the weights' tag")
    weights: str = Field("hub", description="hub, none, or a folder of files named after the backbones")
    frozen_stages: int = Field(
        5, ge=0, le=N_STAGES, description="how many of the backbone's five stages do not change, stem first"
    )
    head: Literal["linear", "mlp"] = Field("linear", description="mlp: linear to head_width, ReLU, dropout, linear")
    head_width: int = Field(4096, ge=1, description="hidden units of the mlp head")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head's last layer")
    image_size: int = Field(256, ge=32, le=2048, description="edge of the square that the model sees, px")
    face_crop: Literal["none", "yunet", "haar"] = Field(
        "none",
        description="yunet: photos are cut to the face (pip install 'maskcls[face]'); haar: as versions before did",
    )
    age_regression: float = Field(
        0.0, ge=0, description="weight of a regression of the age beside the labels that depend on it; 0: none"
    )

    # What it learns from
    sampler: Literal["none", "oversample", "weighted", "square_root"] = Field(
        "none",
        description=(
            "oversample: every label to the largest; weighted: labels equally often; square_root: halfway to that"
        ),
    )
    age_cut_young: int = Field(AGE_CUTS[0], ge=1, description="first year of the middle age group, in training alone")
    age_cut_old: int = Field(AGE_CUTS[1], ge=2, description="first year of the old age group, in training alone")
    ages_left_out: str = Field("", description="ages that training leaves out, as in 57-59 or 27-29,57-59")
    mix: Literal["none", "mixup", "cutmix", "half_cutmix"] = Field(
        "none", description="half_cutmix: left half of one, right of another"
    )
    mix_alpha: float = Field(
        0.4, gt=0, description="both parameters of the Beta distribution that mixup's and cutmix's shares come from"
    )
    mix_probability: float = Field(1.0, ge=0, le=1, description="share of the batches that are mixed")

    # Losses
    loss: LossName = Field("cross_entropy", description="soft_f1: 1 - the mean of the labels' soft F1 in the batch")
    second_loss: Literal["none", "cross_entropy", "focal", "soft_f1"] = Field(
        "none", description="a loss to add to the first"
    )
    second_loss_weight: float = Field(
        0.5, ge=0, le=1, description="the second loss's share of the sum; the first has the rest"
    )
    focal_gamma: float = Field(2.0, ge=0, description="focal loss's exponent; 0 is cross entropy")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: n / (k * count of the label)")
    loss_weight: float = Field(1.0, gt=0, description="weight of a head's loss beside the others' of a shared backbone")

    # Optimisation
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="sgd: Nesterov momentum 0.9")
    lr_head: float = Field(1e-3, gt=0, description="learning rate of the head")
    lr_body: float = Field(1e-4, gt=0, description="learning rate of the stages that are not frozen")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine: to zero over the epochs that are trained"
    )
    warmup_epochs: float = Field(0.0, ge=0, description="linear, from zero")
    epochs: int = Field(5, ge=1)
    epoch_photos: int = Field(
        0, ge=0, description="photos that an epoch draws, if there are more to train on; 0: as many as there are"
    )
    batch_size: int = Field(64, ge=1)
    clip_norm: float = Field(0.0, ge=0, description="gradients are clipped to this norm; 0: not")
    ema_decay: float = Field(
        0.0, ge=0, lt=1, description="of the moving average of the weights, which is then evaluated and kept; 0: none"
    )
    compile: bool = Field(
        False, description="torch.compile where nothing is frozen; took 42 s on two cores and gained nothing there"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the device is faster in it"
    )

    # Augmentation; a strength of 0 leaves it out
    augment_flip: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    augment_probability: float = Field(0.5, ge=0, le=1, description="probability of each of the others")
    augment_shift: float = Field(0.0625, ge=0, le=0.5, description="up to this share of the edge")
    augment_scale: float = Field(0.1, ge=0, le=0.9, description="up to this share larger or smaller")
    augment_rotate_degrees: float = Field(15.0, ge=0, le=180)
    augment_hue_degrees: float = Field(10.0, ge=0, le=180, description="up to this turn of the colour circle")
    augment_saturation: float = Field(0.2, ge=0, le=1, description="up to this share of the full range")
    augment_value: float = Field(0.1, ge=0, le=1, description="up to this share of the full range")
    augment_brightness: float = Field(0.1, ge=0, le=1)
    augment_contrast: float = Field(0.1, ge=0, le=1)
    augment_noise: float = Field(0.03, ge=0, le=1, description="standard deviation up to this share of the full range")
    views: int = Field(0, ge=0, description="different augmentations of one photo; 0: every draw a new one")

    # Where its randomness comes from
    seed: int = Field(0, ge=0, description="initialisation, order, dropout")
    augmentation_seed: int = Field(0, ge=0)

    @field_validator("task_split")
    @classmethod
    def _known_split(cls, value: str) -> str:
        try:
            task_split(value)
        except CallError as error:
            raise ValueError(str(error)) from None
        return value

    @field_validator("ages_left_out", mode="before")
    @classmethod
    def _known_ages(cls, value: Any) -> Any:
        value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, str):
            try:
                parse_age_bands(value)
            except CallError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.age_cut_young >= self.age_cut_old:
            raise ValueError(
                f"`age_cut_young < age_cut_old` must hold, but got {self.age_cut_young} and {self.age_cut_old}."
            )
        if self.members:
            object.__setattr__(self, MEMBERS, _checked_members(self))  # as their values are in every other field
        return self

    def override(self, values: Mapping[str, Any]) -> Self:
        """Return this recipe with some values changed. Raises CallError naming each wrong key or value."""
        return type(self).checked({**self.model_dump(), **_nested(values, self.members)})

    def of_member(self, member: str) -> Self:
        """Return the recipe for that member of the split: its own values in place of the common ones."""
        return self.model_copy(update={**self.members.get(member, {}), MEMBERS: {}}) if self.members else self

    def of_model(self, tasks: Sequence[Task]) -> Self:
        """Return the recipe for a model of these tasks: a model of one member takes that member's own values."""
        return self.of_member(tasks[0].name) if len(tasks) == 1 else self

    def flat(self) -> dict[str, Any]:
        """Return every value by its key, and by `members.<member>.<key>` each member's, own or common."""
        of_members = {member: self.of_member(member) for member in self.split.members}
        own = {
            f"{MEMBERS}.{member}.{key}": getattr(values, key)
            for member, values in of_members.items()
            for key in Recipe.model_fields
        }
        return {**self.model_dump(), **own}

    @property
    def split(self) -> TaskSplit:
        """The task split that `task_split` names."""
        return task_split(self.task_split)

    @property
    def backbones(self) -> tuple[str, ...]:
        """The backbones of the models, each once."""
        return tuple(dict.fromkeys(self.of_model(tasks).backbone for tasks in self.split.models))

    @property
    def age_bands(self) -> AgeBands:
        """First and last year of each band of ages that training leaves out."""
        return parse_age_bands(self.ages_left_out)

    def to_json(self) -> str:
        """Return the values as JSON, keys in the order of declaration; `from_json` gives an equal recipe."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Raises CallError naming each wrong key or value."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CallError(f"A recipe must be JSON: {error}.") from None
        if not isinstance(values, dict):
            raise CallError(f"A recipe must be a JSON object, but got {type(values).__name__}.")
        return cls.checked(values)

    @property
    def digest(self) -> str:
        """12 hex digits, the same in every process, for recipes of equal values."""
        return digest_of(self.model_dump())

    def drawn_of(self, photos: int) -> int:
        """How many photos an epoch draws where so many are trained on."""
        return min(self.epoch_photos or photos, photos)

    @property
    def augmentation(self) -> dict[str, float]:
        """The augmentations' strengths, named without their prefix."""
        return {
            name.removeprefix(AUGMENTATION_PREFIX): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith(AUGMENTATION_PREFIX)
        }

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Return the recipe of these values. Raises CallError naming each wrong key or value."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise CallError("\n".join(_explain(problem) for problem in error.errors())) from None


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the digest of a recipe that is written as these values, which may be those of an earlier version."""
    return hashlib.sha256(canonical_of(values).encode()).hexdigest()[:12]


def canonical_of(values: Mapping[str, Any]) -> str:
    """Return the same text for recipes of equal values, whether an earlier version wrote them or this one.

    By it, and by its digest, the fits and trials of earlier runs are known.
    """
    return json.dumps(without_later(values), sort_keys=True, separators=(",", ":"))


def without_later(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values without the keys that recipes did not always have, where they change nothing."""
    return {key: value for key, value in values.items() if key not in _LATER or value != _LATER[key]}


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"A recipe has no key {key!r}. {_meant(key, Recipe.model_fields)}"
    rule = problem["msg"].removeprefix("Value error, ").rstrip(".?")
    return f"{key}: {rule}, but got {problem['input']!r}." if key else problem["msg"].removeprefix("Value error, ")


def _meant(key: str, keys: Iterable[str]) -> str:
    return meant(key, keys) or f"There are: {', '.join(keys)}."


def _checked_members(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the members' own values, typed as in a recipe (`1` for a float becomes `1.0`).

    Raises ValueError naming each that is wrong.
    """
    problems: list[str] = []
    checked: dict[str, dict[str, Any]] = {}
    split = recipe.split
    allowed = sorted(_HEAD_KEYS if split.shared else Recipe.model_fields.keys() - _FIT_KEYS)
    for member, values in recipe.members.items():
        if member not in split.members:
            problems.append(_no_such_member(member, split))
            continue
        problems += [_not_its_own(member, key, allowed, split) for key in values if key not in allowed]
        own = {key: value for key, value in values.items() if key in allowed}
        try:
            whole = Recipe.model_validate({**recipe.model_dump(), MEMBERS: {}, **own})
        except ValidationError as error:
            problems += [
                f"{MEMBERS}.{member}{'.' if problem['loc'] else ': '}{_explain(problem)}" for problem in error.errors()
            ]
        else:
            checked[member] = {key: getattr(whole, key) for key in own}
    if problems:
        raise ValueError("\n".join(problems))
    return checked


def _no_such_member(member: str, split: TaskSplit) -> str:
    others = [name for name, other in TASK_SPLITS.items() if member in other.members]
    there = f" It is one of {', '.join(others)}: --set task_split={others[0]}." if others else ""
    return (
        f"{MEMBERS}.{member}: task split {split.name} has no such member. Members: {', '.join(split.members)}.{there}"
    )


def _not_its_own(member: str, key: str, allowed: Sequence[str], split: TaskSplit) -> str:
    if key not in Recipe.model_fields:
        return f"{MEMBERS}.{member}.{key}: a recipe has no key {key!r}. {_meant(key, allowed)}"
    kind = "A head of a shared backbone" if split.shared else "A member"
    return f"{MEMBERS}.{member}.{key}: the members share this one. {kind} may have its own {', '.join(allowed)}."


def _nested(values: Mapping[str, Any], before: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Move values by `members.<member>.<key>` into `members`.

    They go over the members given there whole, or else over those that the recipe had before.
    """
    given = values.get(MEMBERS, before)
    dotted = [(key, value) for key, value in values.items() if key.startswith(f"{MEMBERS}.") and key.count(".") > 1]
    if not isinstance(given, Mapping) or not all(isinstance(own, Mapping) for own in given.values()):
        return dict(values)  # the recipe will say what is wrong
    members = {member: dict(own) for member, own in given.items()}
    for key, value in dotted:
        _, member, own = key.split(".", 2)
        members.setdefault(member, {})[own] = value
    plain = {key: value for key, value in values.items() if key not in dict(dotted)}
    return {**plain, MEMBERS: members}


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Read `--set key=value` texts as overrides, numbers as numbers.

    Raises CallError without `=`, or on a key given twice.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise CallError(f"--set expects key=value, as in --set epochs=6, but got {setting!r}.")
        if key.strip() in values:
            raise CallError(f"--set {key.strip()} is given twice.")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text.strip()
    return values
