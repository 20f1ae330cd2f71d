"""The largest photos that are decoded. Imports nothing heavy: commands have options for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@dataclass(frozen=True)
class StatedLimits:
    """The limits that a call states; what it does not state is left to the environment.

    `megapixels` in 10**6 px; `aspect`: long edge by short.
    """

    megapixels: float | None = None
    aspect: float | None = None

    def apply(self) -> None:
        """Put them into this process's environment, for all that it decodes from now on."""
        stated = {MAX_MEGAPIXELS: self.megapixels, MAX_ASPECT: self.aspect}
        os.environ.update({variable: f"{value:g}" for variable, value in stated.items() if value is not None})

    @contextmanager
    def within(self) -> Iterator[None]:
        """Apply them for a block."""
        before = {variable: os.environ.get(variable) for variable in (MAX_MEGAPIXELS, MAX_ASPECT)}
        self.apply()
        try:
            yield
        finally:
            for variable, value in before.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value


NOT_STATED = StatedLimits()


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
