"""Durations, as they are written in options and tables."""

from __future__ import annotations

import re

from maskcls.errors import CallError

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


def budget_s(text: str | None) -> float | None:
    """Turn `90s`, `30m`, `2h` or `1h30m` into seconds; None means no limit. Raises CallError on anything else."""
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smh])", text)
    if (
        not parts
        or "".join(number + unit for number, unit in parts) != text
        or not any(float(number) for number, _ in parts)
    ):
        raise CallError(f"--time-budget expects a duration as in 90s, 30m, 2h or 1h30m, but got {text!r}.")
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


def duration(seconds: float) -> str:
    """Write a duration for people, as in `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
