"""A trial that answers with what a test says, and with the lowest value or first choice otherwise."""

from collections.abc import Sequence
from typing import Any


class Fixed:
    """Has Optuna's `suggest_*` methods; notes the names it was asked for and the choices it was offered."""

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
