"""Trials for tests: one that answers with what a test says, one that draws."""

from __future__ import annotations

import random
from typing import Any

from maskcls.recipe import Recipe
from maskcls.training.presets import preset
from search_spaces import Choices, Domain, Setting, Space, Suggester


class Fixed(Suggester):
    """Answers as said, else with the lowest value or the first choice; notes names and choices."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.names: list[str] = []
        self.choices: dict[str, list[Any]] = {}

    def answer(self, name: str, domain: Domain) -> Any:
        self.names.append(name)
        if isinstance(domain, Choices):
            self.choices[name] = list(domain.values)
            return self.values.get(name, domain.values[0])
        return self.values.get(name, domain.low)


class Random(Suggester):
    """Draws evenly and keeps what it drew."""

    def __init__(self, generator: random.Random) -> None:
        self.params: dict[str, Any] = {}
        self._random = generator

    def answer(self, name: str, domain: Domain) -> Any:
        return self.params.setdefault(name, domain.draw(self._random))


def drawn(space: Space, setting: Setting, n: int = 200) -> list[tuple[dict[str, Any], Recipe]]:
    """Of `n` draws the parameters and the recipe, each a whole one."""
    generator, base = random.Random(0), preset("contest-2021", setting.scale)
    result = []
    for _ in range(n):
        trial = Random(generator)
        result.append((trial.params, base.override(space.suggest(trial, setting))))
    return result
