"""What the steps of `tests.gpu` share: the device, the sizes that suit it, the folder and the photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.recipe import Recipe

PEOPLE = {"cuda": 240, "cpu": 24}
"""Drawn where no photos are given; seven photos each."""


@dataclass(frozen=True)
class Sizes:
    """What is trained, and how much of it.

    Args:
        networks: one of each family that the fits try: ResNet, EfficientNet, ConvNeXt, ViT.
        image_px: edge of the photos in the fits.
        batch: photos in a batch.
        epochs: of each fit; at least two, so that one is left to resume.
        large: the network whose speed is compared with its limit, and `large_px` its photos' edge.
        transformer: the network whose attention and validation are timed, and `transformer_px` its photos' edge.
        steps: training steps, or passes, of one round of a measurement.
        rounds: of a measurement.
        at_once: fits that share the device at most.
        matrix: edge of the matrices whose products are timed.
    """

    networks: tuple[str, ...]
    image_px: int
    batch: int
    epochs: int
    large: str
    large_px: int
    transformer: str
    transformer_px: int
    steps: int
    rounds: int
    at_once: int
    matrix: int


SIZES: Mapping[str, Sizes] = {
    "cuda": Sizes(
        networks=("resnet50", "efficientnet_b0", "convnext_tiny", "vit_small_patch16_224"),
        image_px=224,
        batch=64,
        epochs=2,
        large="resnext101_32x8d",
        large_px=256,
        transformer="vit_base_patch16_224",
        transformer_px=224,
        steps=20,
        rounds=3,
        at_once=4,
        matrix=8192,
    ),
    # The same steps with timm's smallest networks: they try the script, and their figures say nothing of a GPU.
    "cpu": Sizes(
        networks=("test_resnet", "test_efficientnet", "test_convnext", "test_vit"),
        image_px=32,
        batch=16,
        epochs=2,
        large="test_resnet",
        large_px=32,
        transformer="test_vit",
        transformer_px=160,
        steps=2,
        rounds=2,
        at_once=2,
        matrix=128,
    ),
}


@dataclass(frozen=True)
class Bench:
    """Where a step runs.

    Args:
        device: cuda, or cpu in its place.
        folder: of all steps; what one leaves there, a later one finds.
        data: photos in the contest's layout; None: drawn ones.
        weights: a folder of weights; None: random ones.
    """

    device: str
    folder: Path
    data: Path | None = None
    weights: Path | None = None

    @property
    def sizes(self) -> Sizes:
        """What suits the device."""
        return SIZES[self.device]

    @property
    def photos(self) -> Path:
        """The photos' folder, drawn where none was given."""
        from maskcls.data.demo.folder import draw

        if self.data is not None:
            return self.data
        drawn = self.folder / "faces"
        if not drawn.exists():
            draw(drawn, PEOPLE[self.device], seed=0)
        return drawn

    def dataset(self) -> FaceDataset:
        """The photos, split; decoded ones lie in the folder."""
        from maskcls.data.dataset import prepare
        from maskcls.stores.cache_options import CacheOptions

        return prepare(self.photos, cache=CacheOptions(self.folder / "cache"))

    def recipe(self, network: str, **values: Any) -> Recipe:
        """A recipe of the network from random weights, with nothing frozen; on a GPU in bfloat16.

        On a CPU that has it not in hardware, bfloat16 is many times slower than float32.
        """
        from maskcls.recipe import Recipe

        sizes = self.sizes
        size = sizes.transformer_px if network == sizes.networks[-1] else sizes.image_px
        precision = "bfloat16" if self.device == "cuda" else "float32"
        common = {"weights": "none", "precision": precision, "sampler": "oversample", "loss": "focal"}
        chosen = {"backbone": network, "image_size": size, "batch_size": sizes.batch, "epochs": sizes.epochs}
        trained = {"frozen_stages": 0, "lr_body": 1e-3, "lr_head": 1e-3}
        return Recipe().override({**common, **chosen, **trained, **values})

    def synchronise(self) -> None:
        """Wait for the device, before and after something that is timed."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
