"""The points of a space, one by one, for the grid, and to know when every recipe of a finite space was tried.

A space is a function that asks for values. Its points are found by answering in every way, the last answer being
changed first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from maskcls import seeds
from maskcls.errors import CallError
from search_spaces import Choices, Domain, Integers, Setting, Space, Suggester

GRID_PLACES = 3
"""Values of a range in a grid: its ends and its middle, which is the geometric mean for a logarithmic range."""
MAX_POINTS = 20_000


class _InfiniteError(Exception):
    """A parameter is drawn from a range of real numbers."""


@dataclass
class _Path(Suggester):
    """Answers along one path through the choices: as `chosen` says, then always with the first."""

    places: int
    """How many values a range of real numbers has; 0: a range makes the space infinite."""
    chosen: list[int]
    widths: list[int] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)

    def answer(self, name: str, domain: Domain) -> Any:
        if name in self.params:
            return self.params[name]
        values = self._values(domain)
        at = len(self.widths)
        if at == len(self.chosen):
            self.chosen.append(0)
        self.widths.append(len(values))
        self.params[name] = values[self.chosen[at]]
        return self.params[name]

    def _values(self, domain: Domain) -> Sequence[Any]:
        """The values of a domain that are tried."""
        if isinstance(domain, Choices):
            return domain.values
        if isinstance(domain, Integers):
            return range(domain.low, domain.high + 1)
        if domain.low == domain.high:
            return (domain.low,)
        if not self.places:
            raise _InfiniteError
        return tuple((np.geomspace if domain.log else np.linspace)(domain.low, domain.high, self.places).tolist())


def every_point(space: Space, setting: Setting, places: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the parameters of each point of the space once, in the order of its choices.

    Raises _InfiniteError at the first range of real numbers, unless `places` says how many of its values count.
    """
    chosen: list[int] = []
    while True:
        path = _Path(places, chosen)
        space.suggest(path, setting)
        yield path.params
        chosen = path.chosen[: len(path.widths)]
        while chosen and chosen[-1] + 1 == path.widths[len(chosen) - 1]:
            chosen.pop()
        if not chosen:
            return
        chosen[-1] += 1


def all_points(space: Space, setting: Setting) -> list[dict[str, Any]] | None:
    """Return every point of a finite space; None if it is infinite, or has more than MAX_POINTS."""
    try:
        return _at_most(every_point(space, setting))
    except _InfiniteError:
        return None


def grid(space: Space, setting: Setting, seed: int = 0) -> list[dict[str, Any]]:
    """Return every point of the grid, shuffled, so that a search which ends early has seen some of each part.

    Raises CallError if there are more than MAX_POINTS.
    """
    found = _at_most(every_point(space, setting, GRID_PLACES))
    if found is None:
        raise CallError(
            f"--sampler grid: the grid of space {space.name} has more than {MAX_POINTS:,} points. "
            "Fix some parameters with --set, or use --sampler tpe or random."
        )
    order = seeds.generator(seed, len(found)).permutation(len(found))
    return [found[at] for at in order]


def _at_most(found: Iterator[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    listed: list[dict[str, Any]] = []
    for point in found:
        if len(listed) == MAX_POINTS:
            return None
        listed.append(dict(point))
    return listed
