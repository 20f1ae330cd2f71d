"""The largest photos that are decoded. Imports nothing heavy: commands have options for it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from maskcls.errors import CallError

MAX_MEGAPIXELS, MAX_ASPECT = "MASKCLS_MAX_MEGAPIXELS", "MASKCLS_MAX_ASPECT"
"""Environment variables of the limits, which every process that is started has, too."""


@dataclass(frozen=True)
class Limits:
    """The largest photo, in 10**6 px, and the most elongated one, long edge by short, that are decoded.

    They are asked of the header. A photo takes about six bytes per pixel while it is decoded, in each thread: 0.8 GB
    at the limit, which no phone's usual photo reaches (108 megapixels).
    """

    megapixels: float = 128.0
    aspect: float = 20.0


def limits() -> Limits:
    """Return the limits that the environment states, or the default ones. Raises CallError for what is no number."""
    return Limits(_number(MAX_MEGAPIXELS, Limits.megapixels), _number(MAX_ASPECT, Limits.aspect))


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if not text:
        return default
    try:
        return float(text)
    except ValueError:
        raise CallError(f"{variable} is {text!r}. Expected a number, as in {variable}=200.") from None
