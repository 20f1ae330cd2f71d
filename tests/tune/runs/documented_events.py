"""The events and keys that docs/guide.md documents, and a check of lines of JSON against them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

GUIDE = Path(__file__).parents[3] / "docs" / "guide.md"
COMMON = ["event", "version", "time"]


def documented_keys() -> dict[str, list[str]]:
    """By event, its keys in the order of the guide's table, without those that all events have."""
    section = GUIDE.read_text().split("## Following a run from a program")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?`) \| (.+) \|$", section, re.MULTILINE)
    return {event: re.findall(r"`(\w+)`", keys) for events, keys in rows for event in re.findall(r"`(\w+)`", events)}


def read_events(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Each line as an event that has the documented keys, a version, and a time that does not go back."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    documented, found = documented_keys(), []
    for line in lines:
        assert line.endswith("\n"), f"torn: {line!r}"
        event = json.loads(line, parse_constant=refuse)
        assert list(event) == [*COMMON, *documented[event["event"]]], line
        assert event["version"] == 1
        assert datetime.fromisoformat(event["time"]).tzinfo == UTC
        found.append(event)
    times = [event["time"] for event in found]
    assert times == sorted(times)
    return found
