"""Recipe: every hyperparameter of one fit. Frozen, typed, checked, JSON both ways, with a digest.

The split of the people is not here: it belongs to the data. Presets and scales are overrides of the
defaults below; precedence is preset < scale < space < explicit options.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from maskcls.errors import CallError
from maskcls.task_split import task_split

N_STAGES = 5
AUGMENTATION_PREFIX = "augment_"


class Recipe(BaseModel):
    """The hyperparameters of one fit. Unknown keys and wrong types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # What is learnt
    task_split: str = Field("single", description="the tasks that the classifier is cut into")
    backbone: str = Field("resnext101_32x8d.tv_in1k", description="timm model name, with or without the weights' tag")
    weights: str = Field("hub", description="hub, none, or a folder of files named after the backbones")
    frozen_stages: int = Field(5, ge=0, le=N_STAGES, description="how many of the backbone's five stages stand still, stem first")
    head: Literal["linear", "mlp"] = Field("linear", description="mlp: linear to head_width, ReLU, dropout, linear")
    head_width: int = Field(4096, ge=1, description="hidden units of the mlp head")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the head's last layer")
    image_size: int = Field(256, ge=32, le=2048, description="edge of the square that the model sees, px")

    # What it learns from
    sampler: Literal["none", "oversample", "weighted"] = Field("none", description="oversample: every class of the task to the largest")
    loss: Literal["cross_entropy", "focal"] = Field("cross_entropy")
    focal_gamma: float = Field(2.0, ge=0, description="focal loss's exponent; 0 is cross entropy")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = Field("none", description="balanced: n / (k * count of the label)")

    # How it learns
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adamw", description="sgd: Nesterov momentum 0.9")
    lr_head: float = Field(1e-3, gt=0, description="learning rate of the head")
    lr_body: float = Field(1e-4, gt=0, description="learning rate of the stages that are not frozen")
    weight_decay: float = Field(0.0, ge=0)
    schedule: Literal["cosine", "constant"] = Field("cosine", description="cosine: to zero over the epochs that really run")
    warmup_epochs: float = Field(0.0, ge=0, description="linear, from zero")
    epochs: int = Field(5, ge=1)
    batch_size: int = Field(64, ge=1)
    clip_norm: float = Field(0.0, ge=0, description="gradients are clipped to this norm; 0: not")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="auto: bfloat16 where the device has it")

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

    def override(self, values: Mapping[str, Any]) -> Self:
        """This recipe with some values changed. Raises CallError naming each wrong key or value."""
        return type(self)._checked({**self.model_dump(), **values})

    def to_json(self) -> str:
        """Keys in the order of declaration; `from_json` gives an equal recipe."""
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Raises CallError naming each wrong key or value."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CallError(f"A recipe must be JSON: {error}.") from None
        if not isinstance(values, dict):
            raise CallError(f"A recipe must be a JSON object, but got {type(values).__name__}.")
        return cls._checked(values)

    @property
    def digest(self) -> str:
        """12 hex digits, the same in every process, for recipes of equal values."""
        canonical = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:12]

    @property
    def augmentation(self) -> dict[str, float]:
        """The augmentations' strengths, named without their prefix."""
        return {
            name.removeprefix(AUGMENTATION_PREFIX): getattr(self, name)
            for name in type(self).model_fields
            if name.startswith(AUGMENTATION_PREFIX)
        }

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> Self:
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise CallError("\n".join(_explain(problem) for problem in error.errors())) from None


def _explain(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        close = get_close_matches(key, Recipe.model_fields, n=1)
        meant = f"Did you mean {close[0]}?" if close else f"Keys: {', '.join(Recipe.model_fields)}."
        return f"A recipe has no key {key!r}. {meant}"
    rule = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{key}: {rule}, but got {problem['input']!r}."


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`--set key=value` texts -> overrides, numbers read as numbers. Raises CallError without `=` or on a key given twice."""
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
