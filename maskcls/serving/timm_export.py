"""A bundle of a single model as a folder that `timm.create_model("local-dir:FOLDER")` and the Hub's tools load."""

from __future__ import annotations

import copy
from pathlib import Path

import timm
import torch
from torch import nn

from maskcls.errors import CallError, RunError
from maskcls.labels import CLASS_NAMES, N_CLASSES
from maskcls.models.model import Model
from maskcls.serving.bundle import Bundle

CARD = "README.md"
LARGEST_DIFFERENCE = 1e-3
"""Between a logit of timm's model and of the bundle's, where they are of the size of 1."""


def export_timm(folder: Path, bundle: Bundle) -> None:
    """Write config.json and model.safetensors into the folder, which is made.

    The temperature is inside: the softmax of timm's logits gives the bundle's probabilities for the same pixels. The
    decision rule is not, because it would change them; the model card says it.

    Raises:
        CallError: the bundle is more than one model with one linear head of 18 classes.
        RunError: timm's own head computes something else than the bundle's.
    """
    model = _single(bundle)
    made = _as_timm(model, bundle)
    size = bundle.classifiers[0].geometry.image_size
    _compare(made, model, size, bundle.temperature)
    mean, std = ((value / 255).flatten().tolist() for value in (model.mean, model.std))
    timm.models.save_for_hf(
        made,
        str(folder),
        model_config={"label_names": list(CLASS_NAMES)},
        safe_serialization=True,
        data_config={"input_size": (3, size, size), "crop_pct": 1.0, "mean": mean, "std": std},
    )


def check_single(bundle: Bundle) -> None:
    """Raise CallError unless the bundle is one model with one linear head of 18 classes."""
    if len(bundle.classifiers) > 1:
        raise CallError(
            f"{bundle.folder} is an ensemble of {len(bundle.classifiers)} classifiers, and timm's format holds one "
            "model. Export a single trial, or the whole bundle with --onnx."
        )
    (classifier,) = bundle.classifiers
    split = classifier.task_split
    if split.members != ("classes",):
        raise CallError(
            f"{bundle.folder} has the task split {split.name} ({', '.join(split.members)}), and timm's format holds "
            "one model of 18 classes. Export a trial with task_split=single, or this one with --onnx."
        )
    head = classifier.recipe.of_member("classes").head
    if head != "linear":
        raise CallError(
            f"{bundle.folder} has a head of kind {head}, and timm's models end in a linear one. Export a trial with "
            "head=linear, or this one with --onnx."
        )


def _single(bundle: Bundle) -> Model:
    check_single(bundle)
    return bundle.classifiers[0].models[0]


def _as_timm(model: Model, bundle: Bundle) -> nn.Module:
    """timm's own model of 18 classes with the backbone's weights and the head's."""
    recipe, size = model.recipe, bundle.classifiers[0].geometry.image_size
    architecture = recipe.backbone.partition(".")[0]
    fixed = timm.get_pretrained_cfg(recipe.backbone)
    sized = {"img_size": size} if fixed is not None and fixed.fixed_input_size else {}
    made: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=N_CLASSES, **sized)
    classifier = made.get_classifier()  # type: ignore[operator]
    *_, linear = model.heads["classes"].modules()
    if not isinstance(classifier, nn.Linear) or not isinstance(linear, nn.Linear):
        raise CallError(f"timm's {architecture} does not end in one linear layer. Export it with --onnx.")
    missing, unexpected = made.load_state_dict(copy.deepcopy(model.backbone.model.state_dict()), strict=False)
    own = {
        name
        for name, parameter in made.named_parameters()
        if parameter is classifier.weight or parameter is classifier.bias
    }
    if unexpected or set(missing) != own:
        raise RunError(
            f"timm's {architecture} has other weights than the bundle's: {sorted({*unexpected, *missing} - own)[:3]}."
        )
    with torch.no_grad():
        classifier.weight.copy_(linear.weight / bundle.temperature)
        classifier.bias.copy_(linear.bias / bundle.temperature)
    return made.eval()


def _compare(made: nn.Module, model: Model, size: int, temperature: float) -> None:
    pixels = torch.randint(0, 256, (4, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        (expected,) = model(pixels)
        found = made(model.normalise(pixels).contiguous())
    difference = float((found - expected / temperature).abs().max() / expected.abs().max().clamp(min=1))
    if not difference <= LARGEST_DIFFERENCE:  # so that nan fails
        raise RunError(
            f"timm's own head of {model.recipe.backbone} computes something else than the bundle's: logits differ by "
            f"{difference:.2g}. Export it with --onnx."
        )
