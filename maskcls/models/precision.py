"""In which arithmetic a model is trained."""

from __future__ import annotations

import torch
from torch import nn


def resolve_precision(precision: str, device: str, backbone: nn.Module) -> torch.dtype:
    """The dtype of autocast in training: `auto` is bfloat16 where the device is faster in it, else float32.

    A GPU is if it has it in hardware. A CPU is if it has matrix units for it (Intel's AMX) and no convolution of the
    backbone is depthwise: 1.1 to 2.5 times as fast, but .5 to 1.1 times with such convolutions, and slower without such
    units (docs/performance.md).
    """
    if precision != "auto":
        is_faster = precision == "bfloat16"
    elif device.startswith("cuda"):
        is_faster = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_faster = torch.cpu.get_capabilities().get("amx_bf16", False) and not _has_depthwise(backbone)
    return torch.bfloat16 if is_faster else torch.float32


def _has_depthwise(backbone: nn.Module) -> bool:
    """Whether it has a convolution that filters each channel by itself."""
    convolutions = (module for module in backbone.modules() if isinstance(module, nn.Conv2d))
    return any(1 < each.groups == each.in_channels for each in convolutions)
