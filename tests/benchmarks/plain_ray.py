"""The search of `tests.benchmarks.against_ray` as a user of Ray Tune would write it, after Ray's PyTorch tutorial.

    python -m tests.benchmarks.plain_ray JOB OUT

Each trial has a Dataset that opens and decodes a file at each access, torchvision's transforms, a DataLoader, a timm
model whose frozen stages have no gradients and stay in eval(), and a checkpoint per epoch; each gets a new actor, which
is Tune's default.

Taken from maskcls and search_spaces, because a user would have the same: the space's function, the focal loss, the
head, which module belongs to which stage, the sampler's draws, macro F1. Different: torchvision's flip, affine and
colour jitter replace the augmentations (noise is left out), photos are resized by PIL, and every epoch augments again,
whatever `views` says.

With a `time_budget_s` in the job the search goes on until that time, as `tests.benchmarks.anytime` has it: after it,
for each of `score_at_s` seconds since the process began, the checkpoint that was the best by validation until then
predicts `unseen_files`, into `OUT.<seconds>.json`.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import psutil
import ray
import timm
import torch
from PIL import Image
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import transforms as T  # noqa: N812 - as its own documentation has it

from maskcls.data.sampling import DrawStream
from maskcls.labels import N_CLASSES
from maskcls.models.heads import create_head
from maskcls.models.stages import stage_of_modules
from maskcls.recipe import Recipe
from maskcls.training.losses import create_loss
from maskcls.training.metrics import scores
from search_spaces import Setting, get

BEGAN = psutil.Process().create_time()
"""When the search's process began; a worker's own is not looked at."""
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Photos(Dataset[tuple[Tensor, int]]):
    """Photos from their files, and their classes."""

    def __init__(self, files: Sequence[str], labels: Sequence[int], transform: T.Compose) -> None:
        self.files, self.labels, self.transform = files, labels, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        with Image.open(self.files[at]) as photo:
            return self.transform(photo.convert("RGB")), self.labels[at]


class Draws(Sampler[int]):
    """The photos that an epoch draws, by the recipe's sampler."""

    def __init__(self, recipe: Recipe, labels: Sequence[int]) -> None:
        self.stream = DrawStream(np.array(labels), N_CLASSES, recipe.sampler, recipe.seed, 0)
        self.epoch = 0

    def __len__(self) -> int:
        return self.stream.n

    def __iter__(self) -> Iterator[int]:
        positions, _ = self.stream.epoch(self.epoch)
        return iter(positions.tolist())


class Classifier(nn.Module):
    """A timm model with a head of 18 classes, its first stages frozen."""

    def __init__(self, recipe: Recipe, weights: str | None) -> None:
        super().__init__()
        file: dict[str, Any] = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
        self.backbone = timm.create_model(recipe.backbone, pretrained=weights is not None, num_classes=0, **file)
        n_features = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.head = create_head(
            recipe.head, n_features, N_CLASSES, width=recipe.head_width, dropout=recipe.head_dropout
        )
        stages = stage_of_modules(self.backbone)
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad = stages[name.rpartition(".")[0]] > recipe.frozen_stages
        leaves = [(name, module) for name, module in self.backbone.named_modules() if not list(module.children())]
        self.frozen = [module for name, module in leaves if stages[name] <= recipe.frozen_stages]

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, 3, s, s) -> logits (b, 18)."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self


def transform(recipe: Recipe, *, training: bool) -> T.Compose:
    """Geometry, for training augmentations of about the recipe's strengths, and the normalisation of the weights."""
    config = timm.get_pretrained_cfg(recipe.backbone)
    shift, scale, often = recipe.augment_shift, recipe.augment_scale, recipe.augment_probability
    affine = T.RandomAffine(recipe.augment_rotate_degrees, translate=(shift, shift), scale=(1 - scale, 1 + scale))
    colour = T.ColorJitter(
        recipe.augment_brightness, recipe.augment_contrast, recipe.augment_saturation, recipe.augment_hue_degrees / 360
    )
    augmented = [
        T.RandomHorizontalFlip(recipe.augment_flip),
        T.RandomApply([affine], often),
        T.RandomApply([colour], often),
    ]
    geometry = [T.Resize(recipe.image_size), T.CenterCrop(recipe.image_size)]
    return T.Compose([*geometry, *(augmented if training else []), T.ToTensor(), T.Normalize(config.mean, config.std)])


def create_optimizer(recipe: Recipe, model: Classifier) -> torch.optim.Optimizer:
    """An optimizer of the head and of what is not frozen, each at its own learning rate."""
    body = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    groups = [{"params": model.head.parameters(), "lr": recipe.lr_head}]
    groups += [{"params": body, "lr": recipe.lr_body}] if body else []
    return OPTIMIZERS[recipe.optimizer](groups, weight_decay=recipe.weight_decay)


def rate_factor(step: int, steps: int, recipe: Recipe) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine to zero at the end of the last epoch."""
    epochs = step / steps
    if epochs < recipe.warmup_epochs:
        return epochs / recipe.warmup_epochs
    return 0.5 * (
        1 + math.cos(math.pi * min(1.0, (epochs - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)))
    )


def step(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
) -> None:
    """One training step: forward, backward, update."""
    loss = criterion(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    if recipe.clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
    optimizer.step()


def validate(model: Classifier, photos: DataLoader[Any], device: str) -> float:
    """Macro F1 of the model on these photos."""
    model.eval()
    truth, answers = [], []
    with torch.no_grad():
        for images, labels in photos:
            answers.append(model(images.to(device)).argmax(1).cpu())
            truth.append(labels)
    return scores(torch.cat(truth).numpy(), torch.cat(answers).numpy()).f1


def train(config: dict[str, Any], job: dict[str, Any]) -> None:
    """Train one trial, and report each epoch with a checkpoint."""
    recipe = recipe_of(config, job)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(recipe.seed)
    draws = Draws(recipe, job["train_labels"])
    photos = Photos(job["train_files"], job["train_labels"], transform(recipe, training=True))
    loader = DataLoader(photos, recipe.batch_size, sampler=draws, num_workers=job["loader_workers"])
    held = Photos(job["validation_files"], job["validation_labels"], transform(recipe, training=False))
    validation = DataLoader(held, recipe.batch_size, num_workers=job["loader_workers"])

    model = Classifier(recipe, job["weights_file"]).to(device)
    criterion = create_loss(recipe, torch.tensor(job["train_labels"]), N_CLASSES).to(device)
    optimizer = create_optimizer(recipe, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, len(loader), recipe))
    best = 0.0
    for epoch in range(1, recipe.epochs + 1):
        draws.epoch = epoch - 1
        model.train()
        for images, labels in loader:
            step(model, images.to(device), labels.to(device), criterion, optimizer, recipe)
            schedule.step()
        f1 = validate(model, validation, device)
        best = max(best, f1)
        with tempfile.TemporaryDirectory() as folder:
            torch.save((model.state_dict(), optimizer.state_dict()), Path(folder) / "checkpoint.pt")
            tune.report({"epoch": epoch, "f1": f1, "best_f1": best}, checkpoint=tune.Checkpoint.from_directory(folder))


def recipe_of(config: dict[str, Any], job: dict[str, Any]) -> Recipe:
    """The recipe that both sides start from, with the values that the space suggested."""
    suggested = {key: value for key, value in config.items() if key in Recipe.model_fields}
    return Recipe.model_validate({**job["base"], **suggested})


DRAWN: dict[str, Any] = {}
"""What `draw` reads: Ray pickles the searcher, and so a function by its name."""


def draw(trial: optuna.Trial) -> dict[str, Any]:
    """The space as a define-by-run function."""
    suggested: dict[str, Any] = DRAWN["space"].suggest(trial, DRAWN["setting"])
    return suggested


def search(job: dict[str, Any], folder: str) -> tune.ResultGrid:
    """Run the search."""
    DRAWN.update(
        space=get(job["space"]).pinned(job["explicit"]),
        setting=Setting("cpu", pretrained=job["weights_file"] is not None),
    )
    searcher = OptunaSearch(
        draw,
        metric="best_f1",
        mode="max",
        points_to_evaluate=job["points"],
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, seed=job["seed"]),
    )
    scheduler = ASHAScheduler(
        "epoch",
        "best_f1",
        "max",
        max_t=job["epochs"],
        grace_period=job["grace_period"],
        reduction_factor=job["reduction_factor"],
    )
    budget_s = job.get("time_budget_s")
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, job=job), {"cpu": job["cpus"]}),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1 if budget_s else job["trials"],
            max_concurrent_trials=job["parallel"],
            time_budget_s=budget_s and budget_s - (time.time() - BEGAN),
        ),
        run_config=tune.RunConfig(storage_path=folder),
    )
    results = tuner.fit()
    if results.errors:
        raise SystemExit(f"{results.num_errors} trials failed, the first with: {results.errors[0]}")
    return results


def trials_of(results: tune.ResultGrid) -> list[dict[str, Any]]:
    """The trials that reported: recipe values that the space chose, epochs, best F1, seconds."""
    return [
        {
            "overrides": result.config,
            "epochs": result.metrics["epoch"],
            "f1": result.metrics["best_f1"],
            "seconds": result.metrics["time_total_s"],
        }
        for result in results
        if "best_f1" in result.metrics
    ]


class Reported(NamedTuple):
    """An epoch of a trial: when it was reported, s since the process began, its F1, its checkpoint and its config."""

    at_s: float
    f1: float
    checkpoint: tune.Checkpoint
    config: dict[str, Any]


def epochs_of(results: tune.ResultGrid) -> list[Reported]:
    """All epochs of all trials, in the order in which they were reported."""
    return sorted(
        (
            Reported(metrics["timestamp"] - BEGAN, metrics["f1"], checkpoint, result.config)
            for result in results
            for checkpoint, metrics in result.best_checkpoints
        ),
        key=lambda reported: reported.at_s,
    )


def predict(reported: Reported, job: dict[str, Any]) -> list[int]:
    """Classes of the unseen photos by an epoch's model."""
    recipe = recipe_of(reported.config, job)
    model = Classifier(recipe, None)
    with reported.checkpoint.as_directory() as folder:
        weights, _ = torch.load(Path(folder) / "checkpoint.pt", weights_only=True)
    model.load_state_dict(weights)
    model.eval()
    unseen = Photos(job["unseen_files"], [0] * len(job["unseen_files"]), transform(recipe, training=False))
    with torch.no_grad():
        found = [model(images).argmax(1) for images, _ in DataLoader(unseen, recipe.batch_size)]
    return torch.cat(found).tolist()  # type: ignore[no-any-return]


def score_over_time(results: tune.ResultGrid, job: dict[str, Any], out: Path) -> None:
    """Write what the best model by validation predicted at each of the times."""
    epochs = epochs_of(results)
    for seconds in job["score_at_s"]:
        there = [reported for reported in epochs if reported.at_s <= seconds]
        if there:
            best = max(there, key=lambda reported: reported.f1)
            found = {"validation_f1": best.f1, "classes": predict(best, job)}
            Path(f"{out}.{seconds}.json").write_text(json.dumps(found))


def main(job_file: Path, out: Path) -> None:
    """Run the job's search, and write its trials as JSON."""
    job = json.loads(job_file.read_text())
    ray.init(num_cpus=len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as folder:
        results = search(job, folder)
        out.write_text(json.dumps(trials_of(results)))
        if "score_at_s" in job:
            score_over_time(results, job, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
