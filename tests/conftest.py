"""What tests of several packages share: a small classifier with random weights, as a bundle."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

TRAIN_PEOPLE = ("000001_male_Asian_25", "000002_male_Asian_45")


@pytest.fixture(scope="session")
def random_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """random_bundle(task_split) -> its folder, the same for all who ask; copy it to spoil it. It "trained" on TRAIN_PEOPLE."""

    @cache
    def make(task_split: str) -> Path:
        import torch

        from maskcls.data.geometry import Geometry
        from maskcls.models.backbones import normalisation
        from maskcls.models.model import build_models
        from maskcls.recipe import Recipe
        from maskcls.serving.bundle import write_bundle

        recipe = Recipe(task_split=task_split, backbone="mobilenetv3_small_050", weights="none", image_size=64, frozen_stages=0)
        models = build_models(recipe, pretrained=False)
        for number, head in enumerate(head for model in models for head in model.heads.values()):  # a fresh head hardly tells photos apart
            torch.nn.init.normal_(head[-1].weight, std=1.0, generator=torch.Generator().manual_seed(number))
        folder = tmp_path_factory.mktemp("bundles") / task_split
        write_bundle(
            folder,
            recipe,
            [model.state_dict() for model in models],
            Geometry(64),
            [normalisation(recipe.backbone)] * len(models),
            {"validation": {"f1": 0.5}},
            data_digest="d" * 12,
            split_digest="5" * 12,
            seen_people=TRAIN_PEOPLE,
            weights_origin="mobilenetv3_small_050 from none",
        )
        return folder

    return make
