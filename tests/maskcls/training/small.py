"""A small fit for tests: 90 patches whose brightness and hue tell their class, and a small backbone."""

from __future__ import annotations

import numpy as np

from maskcls.recipe import Recipe
from maskcls.training.fit_data import FitData

SIZE_PX = 32
RECIPE = Recipe().override(
    {
        "task_split": "three",
        "backbone": "test_resnet",
        "weights": "none",
        "frozen_stages": 1,
        "head": "mlp",
        "head_width": 16,
        "head_dropout": 0.3,
        "image_size": SIZE_PX,
        "sampler": "oversample",
        "loss": "focal",
        "epochs": 3,
        "batch_size": 16,
        "clip_norm": 1.0,
        "warmup_epochs": 0.5,
    }
)


def data(n: int = 90) -> FitData:
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 18
    pixels = generator.integers(0, 40, (n, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    pixels[..., 0] += (labels // 6 * 80)[:, None, None].astype(np.uint8)
    pixels[..., 1] += (labels // 3 % 2 * 150)[:, None, None].astype(np.uint8)
    pixels[..., 2] += (labels % 3 * 80)[:, None, None].astype(np.uint8)
    split = n * 4 // 5
    ages = np.array([25, 45, 62])[labels % 3]
    return FitData(
        pixels,
        labels,
        ages,
        [f"person-{i}/normal.jpg" for i in range(n)],
        np.arange(split),
        np.arange(split, n),
        "digest",
    )
