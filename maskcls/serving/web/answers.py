"""What the service answers, as models from which OpenAPI describes it."""

from __future__ import annotations

import base64
from typing import Any

import cv2
from pydantic import BaseModel, Field

from maskcls.labels import AGES, CLASS_NAMES, GENDERS, MASKS, decode
from maskcls.serving.bundle import Bundle
from maskcls.serving.rows import row_of
from maskcls.serving.web.limits import FORMATS, Limits
from maskcls.serving.web.service import Explained, Predicted


class Prediction(BaseModel):
    """What a classifier says of a photo."""

    sure: bool = Field(
        description='False: the answer is "not sure", because the class that would be named has too low a probability '
        "for the service's limit; class, mask, gender and age_group are null."
    )
    class_: int | None = Field(
        alias="class",
        ge=0,
        le=17,
        description="One of the 18 classes, by the bundle's decision rule (/v1/model). It need not be the likeliest "
        "one, for a rare class counts as much as a frequent one.",
    )
    probability: float = Field(description="Of the class that is named, or would be if it were sure, 0 to 1.")
    mask: str | None = Field(description=f"The class's mask state: {', '.join(MASKS)}.")
    gender: str | None = Field(description=f"The class's gender: {', '.join(GENDERS)}.")
    age_group: str | None = Field(description=f"The class's age group: {', '.join(AGES)}.")
    marginals: dict[str, dict[str, float]] = Field(
        description="For each of mask, gender and age_group the probability of each label, summed over the classes."
    )
    probabilities: list[float] = Field(description="Of the 18 classes, adding up to 1.")
    faces: int | None = Field(
        description="How many faces are found; null: nobody looked. Masks may hide some. Where photos are cut "
        "to the face (face_crop), the largest one in the middle is taken."
    )


class Answer(BaseModel):
    """Predictions in the order of the request's photos."""

    predictions: list[Prediction]


class Explanation(BaseModel):
    """Where in a photo the evidence for its class lies: Grad-CAM, of an ensemble for one classifier."""

    class_: int = Field(alias="class", ge=0, le=17, description="One of the 18 classes, as a prediction has it.")
    mask: str
    gender: str
    age_group: str
    stage: int = Field(description="Of the backbone, 1 to 5, on whose output it was computed.")
    image: str = Field(description="PNG in base64: the photo as the classifier sees it, the redder the more evidence.")


class Error(BaseModel):
    """Why a request is refused."""

    code: str = Field(description="One word for programs.")
    message: str = Field(description="What is wrong, what was expected, what to do.")
    photo: int | None = Field(default=None, description="Which of the request's photos, from 0, if it is about one.")


class ErrorAnswer(BaseModel):
    """A refusal."""

    error: Error


class ClassifierFacts(BaseModel):
    """One classifier of the bundle."""

    backbone: str
    image_size: int = Field(description="Edge of the square that it sees, px.")
    face_crop: str
    task_split: str
    weight: float = Field(description="Its share of the prediction.")


class DecisionFacts(BaseModel):
    """The class is argmax(T log p - tau log_prior), p the probabilities and T their temperature."""

    tau: float = Field(description="Above 0: rare classes are named oftener; below 0: more seldom.")
    log_prior: list[float] = Field(description="Natural logarithms of the 18 classes' shares in training.")
    temperature: float


class ModelFacts(BaseModel):
    """What answers, and within which limits."""

    name: str = Field(description="The bundle's folder.")
    created: str
    versions: dict[str, str]
    classes: list[str]
    classifiers: list[ClassifierFacts]
    decision: DecisionFacts | None = Field(description="How probabilities become a class; null: the likeliest one.")
    abstain: float = Field(description='Below this probability of the class the answer is "not sure".')
    explains: bool = Field(description="Whether /v1/explain is there: not with a graph, nor without maps.")
    scores: dict[str, Any] = Field(
        description="Macro F1 and more, by the people on whom they were measured; `groups`: by mask, gender, age group."
    )
    formats: list[str]
    limits: dict[str, float]


class State(BaseModel):
    """Whether the service works."""

    status: str


def prediction(predicted: Predicted, abstain: float) -> Prediction:
    """Return a photo's prediction as an answer has it; below the probability `abstain` it is "not sure"."""
    row = row_of("", 0, predicted.class_, predicted.probabilities, abstain=abstain)
    return Prediction(
        **{"class": row.class_},
        sure=row.is_sure,
        probability=row.probabilities[predicted.class_],
        mask=row.mask,
        gender=row.gender,
        age_group=row.age_group,
        marginals=row.marginals,
        probabilities=list(row.probabilities),
        faces=predicted.faces,
    )


def explanation(explained: Explained) -> Explanation:
    """Return where the evidence lies as an answer has it."""
    found, evidence = decode(explained.class_), explained.evidence
    png = cv2.imencode(".png", evidence.pixels[:, :, ::-1])[1].tobytes()
    return Explanation(
        **{"class": explained.class_},
        mask=MASKS[found.mask],
        gender=GENDERS[found.gender],
        age_group=AGES[found.age],
        stage=evidence.stage,
        image=base64.b64encode(png).decode(),
    )


def model_facts(bundle: Bundle, limits: Limits, abstain: float, *, explains: bool) -> ModelFacts:
    """Return what is known of a bundle."""
    return ModelFacts(
        name=bundle.folder.absolute().name,
        created=str(bundle.manifest.get("created", "")),
        versions={str(name): str(value) for name, value in bundle.manifest.get("versions", {}).items()},
        classes=list(CLASS_NAMES),
        classifiers=[
            ClassifierFacts(
                backbone=each.recipe.backbone,
                image_size=each.geometry.image_size,
                face_crop=each.geometry.face_crop,
                task_split=each.task_split.name,
                weight=each.weight,
            )
            for each in bundle.classifiers
        ],
        decision=bundle.decision
        and DecisionFacts(
            tau=bundle.decision.tau, log_prior=list(bundle.decision.log_prior), temperature=bundle.temperature
        ),
        abstain=abstain,
        explains=explains,
        scores=bundle.scores,
        formats=list(FORMATS),
        limits={
            "body_mb": limits.body_mb,
            "megapixels": limits.megapixels,
            "aspect": limits.aspect,
            "photos": limits.photos,
        },
    )
