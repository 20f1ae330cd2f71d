"""A backbone of some 3,000 weights, known to timm in every process that has this folder on its PYTHONPATH.

timm's own smallest has 99,196: four times 99 kB a checkpoint, too much to be kept here. Python imports `sitecustomize`
as it starts; timm itself is imported no sooner than by whoever wants it.
"""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

NAME = "legacy_tiny"


class AfterTimm(MetaPathFinder):
    """Registers the backbone once timm's ResNets are imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of `timm.models.resnet`, whose loader registers the backbone afterwards; of nothing else."""
        if name != "timm.models.resnet":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: ModuleType) -> None:
                load(module)
                register(module)

            spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


def register(resnet: ModuleType) -> None:
    """Make NAME a model of timm's: a ResNet of four blocks with 4 to 8 channels."""

    def legacy_tiny(pretrained: bool = False, num_classes: int = 1000, **_: Any) -> Any:
        blocks = {"block": resnet.BasicBlock, "layers": (1, 1, 1, 1), "channels": (4, 6, 6, 8)}
        return resnet.ResNet(**blocks, stem_width=2, stem_type="deep", num_classes=num_classes)

    resnet.register_model(legacy_tiny)


sys.meta_path.insert(0, AfterTimm())
