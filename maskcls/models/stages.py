"""The five stages of any timm backbone: which module belongs to which.

Stages are cut at timm's `feature_info` modules (pyramids), or the blocks are dealt evenly (plain transformers). Every
stage takes in the modules without parameters that follow it, above all pooling. What comes before the first cut is the
stem. The fifth stage runs to the end of `forward_head(pre_logits=True)`, so it includes VGG's pre_logits and
MobileNetV3's conv_head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from maskcls.errors import CallError
from maskcls.recipe import N_STAGES


def stage_of_modules(model: nn.Module) -> dict[str, int]:
    """Stage (1..5) of each module by its dotted name, "" for the model itself; a container belongs where it begins.

    Raises CallError for a model with fewer than four feature levels.
    """
    names = [name for name, _ in model.named_modules()]  # parents before children, in the order of the forward pass
    # Whether a module has no parameters, those of the modules inside it included.
    bare = [next(module.parameters(), None) is None for _, module in model.named_modules()]
    ends = [_run_on(end, bare) for end in _ends(model, names)]
    # A module's stage is one more than the stages that end before it.
    return {name: 1 + sum(position > end for end in ends) for position, name in enumerate(names)}


def _ends(model: nn.Module, names: Sequence[str]) -> list[int]:
    """Positions in `names` of the last modules of stages 1..4."""
    levels: Iterable[Mapping[str, Any]] = getattr(model, "feature_info", [])
    info = [level["module"] for level in levels]
    reductions = [level["reduction"] for level in levels]
    first_block = names.index(info[0]) - 1 if info and info[0] in names else 0
    if len(info) >= N_STAGES - 1 and len(set(reductions)) == 1:  # plain transformer: blocks, dealt evenly
        # Of 12 blocks, behind the 3rd, 6th and 9th; the last three belong to the fifth stage, with the head.
        cuts = [info[len(info) * part // (N_STAGES - 1) - 1] for part in range(1, N_STAGES - 1)]
        return [first_block, *(_last(cut, names) for cut in cuts)]
    if len(info) == N_STAGES - 1:  # ConvNeXt, Swin: the stem has no entry of its own
        return [first_block, *(_last(cut, names) for cut in info[:-1])]
    if len(info) >= N_STAGES:  # ResNet, EfficientNet, DenseNet; VGG has a sixth, its last pool
        return [_last(cut, names) for cut in info[: N_STAGES - 1]]
    raise CallError(
        f"A backbone must have {N_STAGES - 1} feature levels or more to be cut into {N_STAGES} stages, "
        f"but this one has {info}."
    )


def _last(cut: str, names: Sequence[str]) -> int:
    """Position of the last module inside the module `cut`."""
    return max(position for position, name in enumerate(names) if name == cut or name.startswith(f"{cut}."))


def _run_on(end: int, bare: Sequence[bool]) -> int:
    """The end moved over the modules without parameters that follow it."""
    while bare[end + 1]:
        end += 1
    return end
