"""What a step of `tests.gpu` found: measured values, and checks that hold or not. On disk after each, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Value = str | float | int | bool


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Args:
        what: was measured or checked, in at most 46 characters.
        value: what came out.
        unit: of the value; "" where it has none.
        holds: of a check whether it holds; None: it is no check.
        note: what the table has no room for.
    """

    what: str
    value: Value
    unit: str = ""
    holds: bool | None = None
    note: str = ""


@dataclass
class Findings:
    """The findings of one step, in their order. The file is replaced at each, so that a step that is killed keeps them.

    Args:
        file: where they go.
    """

    file: Path
    found: list[Finding] = field(default_factory=list)

    def measured(self, what: str, value: Value, unit: str = "", note: str = "") -> None:
        """Add a measured value."""
        self._add(Finding(what, value, unit, note=note))

    def check(self, what: str, holds: bool, value: Value = "", unit: str = "", note: str = "") -> None:
        """Add a check, with the value that it looked at."""
        self._add(Finding(what, value, unit, bool(holds), note))

    def _add(self, finding: Finding) -> None:
        self.found.append(finding)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text(json.dumps([asdict(each) for each in self.found]) + "\n")
        temporary.replace(self.file)


def read_findings(file: Path) -> list[Finding]:
    """The findings in a file; none where there is no such file."""
    if not file.is_file():
        return []
    entries: list[dict[str, Any]] = json.loads(file.read_text())
    return [Finding(**entry) for entry in entries]
