"""Trials for tests: one that answers with what a test says, one that draws."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from maskcls.presets import preset
from maskcls.recipe import Recipe
from search_spaces import Setting, Space


class Fixed:
    """Has Optuna's `suggest_*` methods, answered as said, else with the lowest value or first choice; notes names and choices."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.names: list[str] = []
        self.choices: dict[str, list[Any]] = {}

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        self.choices[name] = list(choices)
        return self._answer(name, choices[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._answer(name, low))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self._answer(name, low))

    def _answer(self, name: str, default: Any) -> Any:
        self.names.append(name)
        return self.values.get(name, default)


class Random:
    """Has Optuna's `suggest_*` methods; draws evenly and keeps what it drew."""

    def __init__(self, generator: random.Random) -> None:
        self.params: dict[str, Any] = {}
        self._random = generator

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.params.setdefault(name, self._random.choice(choices))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self.params.setdefault(name, self._random.uniform(low, high)))

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return int(self.params.setdefault(name, self._random.randint(low, high)))


def drawn(space: Space, setting: Setting, n: int = 200) -> list[tuple[dict[str, Any], Recipe]]:
    """Of `n` draws the parameters and the recipe, each a whole one."""
    generator, base = random.Random(0), preset("contest-2021", setting.scale)
    result = []
    for _ in range(n):
        trial = Random(generator)
        result.append((trial.params, base.override(space.suggest(trial, setting))))
    return result
