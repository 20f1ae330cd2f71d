"""What runs a bundle's models: torch, or a graph of the whole bundle under ONNX Runtime, in float or 8-bit integers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from maskcls.errors import CallError, RunError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maskcls.data.geometry import Geometry
    from maskcls.serving.bundle import Bundle


class Name(StrEnum):
    """The engines, as --engine names them."""

    TORCH = "torch"
    ONNX = "onnx"
    INT8 = "int8"


class Engine(Protocol):
    """Predicts a bundle's probabilities from pixels. Several threads may call it at the same time."""

    name: str
    device: str
    """Torch's name of where it runs; `cpu` of a graph."""
    block: int
    """Photos of a pass by default."""

    def probabilities(
        self, pixels: Mapping[Geometry, NDArray[np.uint8]], block_photos: int = ...
    ) -> NDArray[np.float64]:
        """Pixels (n, s, s, 3) for each geometry of the bundle -> probabilities (n, 18), calibrated."""


def create_engine(bundle: Bundle, name: str, device: str, *, flip: bool) -> Engine:
    """Return the engine of that name for a bundle.

    Args:
        device: of torch; a graph runs on the CPU.
        flip: predict the mean of a photo's and its mirror image's probabilities; with torch alone.

    Raises:
        CallError: there is no such engine, it cannot use the device or the mirror image, or the bundle has no graph.
        RunError: ONNX Runtime is not installed.
    """
    if name not in list(Name):
        raise CallError(f"There is no engine {name!r}. Engines: {', '.join(Name)}.")
    if name == Name.TORCH:
        from maskcls.serving.torch_engine import TorchEngine  # imports torch and timm

        return TorchEngine(bundle, device, flip=flip)
    if device not in ("auto", "cpu"):
        raise CallError(f"--engine {name} runs on the CPU, so --device {device} cannot be used. Leave it out.")
    if flip:
        raise CallError("--tta needs --engine torch: a graph joins its members before mirror images could be averaged.")
    try:
        from maskcls.serving.onnx_engine import OnnxEngine
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise
        raise RunError(
            f"--engine {name} needs onnxruntime, which is not installed. Install it with: pip install 'maskcls[onnx]'"
        ) from None
    return OnnxEngine(bundle, int8=name == Name.INT8)
