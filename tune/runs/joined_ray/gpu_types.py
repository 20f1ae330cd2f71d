"""On which type of GPU the fits of this process run, where the nodes of its cluster have several types.

Ray names the type of a node's GPUs as a resource of the node, `accelerator_type:H100`. Work that asks for a thousandth
of it runs on such nodes alone; that is what Ray's own option `accelerator_type` does, which Ray Tune does not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_RESOURCE = "accelerator_type:"
_ASKED = 0.001


@dataclass
class _Wanted:
    gpu_type: str = ""


_wanted = _Wanted()


def type_of(resources: Mapping[str, object]) -> str:
    """Return the type of a node's GPUs, by its resources; "" where Ray does not know it."""
    return next((name.removeprefix(_RESOURCE) for name in sorted(resources) if name.startswith(_RESOURCE)), "")


def run_on(gpu_type: str) -> None:
    """From now on, let fits that use a GPU run on nodes of this type alone; "": on all nodes."""
    _wanted.gpu_type = gpu_type


def asked(gpus: float) -> dict[str, float]:
    """Return what a fit that uses so many GPUs asks Ray for beside them."""
    return {f"{_RESOURCE}{_wanted.gpu_type}": _ASKED} if gpus and _wanted.gpu_type else {}


def is_wanted(gpu_type: str, gpus: float) -> bool:
    """Whether fits that use so many GPUs run on nodes of this type."""
    return not gpus or _wanted.gpu_type in ("", gpu_type)
