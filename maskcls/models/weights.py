"""Where a backbone's weights come from: timm's hub, a folder of files, or nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls.errors import RunError
from maskcls.files import expanded, unreadable

if TYPE_CHECKING:
    from torch import Tensor

HUB, NONE = "hub", "none"
SUFFIXES = (".safetensors", ".pth")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
"""What timm's weights are called at the hub."""
HUB_TIMEOUT_S = 5  # the hub's client alone would retry for a minute


def find_weights(backbone: str, weights: str) -> Path | None:
    """The backbone's file in the folder `weights`, or None.

    `<model>.<tag>` goes before `<model>`, and .safetensors before .pth.
    """
    for stem in dict.fromkeys((backbone, backbone.partition(".")[0])):
        for suffix in SUFFIXES:
            file = expanded(weights) / f"{stem}{suffix}"
            if file.is_file():
                return file
    return None


def has_weights(backbone: str, weights: str) -> bool:
    """Whether `weights` (hub, none or a folder) has weights for the backbone. The hub is assumed to have them."""
    return weights in (HUB, NONE) or find_weights(backbone, weights) is not None


def not_finite(state: Mapping[str, Tensor]) -> str:
    """Return the name of a tensor that holds a value which is not finite; "" where there is none."""
    return next((name for name, tensor in state.items() if not tensor.isfinite().all()), "")


def check_reachable(backbone: str, weights: str) -> None:
    """Raise RunError within seconds where the weights are out of reach, without the hub client's minute of retries.

    A file that holds no weights (a pointer, a web page, a part of them) counts as out of reach.
    """
    if weights == NONE:
        return
    file = find_weights(backbone, weights) if weights != HUB else None
    if file is not None:
        _refuse_what_is_none(file)
        return
    if weights != HUB:
        raise RunError(
            f"No weights of {backbone} in {weights}: expected {backbone}{SUFFIXES[0]} or "
            f"{backbone.partition('.')[0]}{SUFFIXES[0]} (or .pth). Put the file there, or use --weights hub or "
            "--weights none."
        )
    if not _in_hub_cache(backbone) and (reason := _hub_out_of_reach()):
        raise RunError(
            f"The weights of {backbone} are out of reach: the hub does not answer ({reason}). Connect to the network, "
            f"or use --weights DIR with a folder that holds {backbone}{SUFFIXES[0]}, or --weights none to start from "
            "random weights."
        )


def _refuse_what_is_none(file: Path) -> None:
    """Raise RunError, saying what the file is, where its first bytes show that it holds no weights."""
    try:
        with file.open("rb") as stream:
            head = stream.read(512)
            size = stream.seek(0, 2)
    except OSError as error:
        raise RunError(unreadable(file, error)) from None
    what = _what_else(head, size, file)
    if what:
        raise RunError(
            f"{file} holds no weights: {what}. Put the real file there (of timm's models: "
            f"https://huggingface.co/timm, {' or '.join(HUB_FILES)}), or use --weights hub or --weights none."
        )


def _what_else(head: bytes, size: int, file: Path) -> str:
    """Return what a file with these first bytes is instead of weights; empty if it may be weights."""
    if not size:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, in whose place `git lfs pull` puts them"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, as a download leaves it that needed a login or another address"
    if file.suffix == ".safetensors":
        header = int.from_bytes(head[:8], "little")  # a length, then so many bytes of JSON
        if size < 8 or head[8:9] != b"{":
            return "it does not begin as a safetensors file does"
        return f"it is cut off after {size:,} bytes" if 8 + header > size else ""
    # A zip file, or a pickle as older versions of PyTorch wrote it.
    return "" if head.startswith((b"PK", b"\x80")) else "it does not begin as a file of torch.save does"


def _in_hub_cache(backbone: str) -> bool:
    import timm
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(backbone)
    repository = config and config.hf_hub_id
    if not repository:
        return False
    # try_to_load_from_cache gives a path if the file is there; else None, or a mark that the hub lacks it.
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in HUB_FILES)


def _hub_out_of_reach() -> str:
    """Why the hub cannot be reached, or "" if it can."""
    import httpx2
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        # Any answer will do, even an error's: the hub is there.
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except httpx2.HTTPError as error:
        return str(error) or type(error).__name__
    return ""
