"""The table of `tests.gpu`, in Markdown that is read as it is at 80 columns, and its JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.gpu.environment import Environment
from tests.gpu.findings import Finding
from tests.gpu.steps import Ended, State

WIDTH = 80
VALUE = 27
WHAT = WIDTH - VALUE - len("|  |  |")


def write(folder: Path, record: dict[str, Any], environment: Environment, ended: Sequence[Ended]) -> None:
    """Replace gpu.json and gpu.md in the folder.

    Args:
        record: what else stands in the JSON: command, commit, hardware, settings.
    """
    steps = [asdict(each) for each in ended]
    content = {**record, "environment": asdict(environment), "steps": steps}
    for name, text in (("gpu.json", json.dumps(content, indent=2)), ("gpu.md", table(record, environment, ended))):
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(folder / name)


def table(record: dict[str, Any], environment: Environment, ended: Sequence[Ended]) -> str:
    """The machine, then each step with its state, its time and what it found."""
    lines = [*_head(record, environment), "", _row("step", "state, time"), _row("---", "---:")]
    for each in ended:
        lines.append(_row(f"**{each.step}**", _state(each)))
        lines += [_row(finding.what, _value(finding)) for finding in each.findings]
    reasons = [f"{each.step}: {_plain(each.reason)}" for each in ended if each.reason]
    notes = [f"{name} is missing: {why}" for name, why in environment.missing.items()] + environment.problems
    for title, said in (("What did not go as it should", reasons), ("Packages", notes)):
        if said:
            lines += ["", f"{title}:", ""]
            lines += [line for one in said for line in _item(one)]
    return "\n".join(lines)


def _head(record: dict[str, Any], environment: Environment) -> list[str]:
    gpu, cpu = environment.gpu, record["hardware"]
    named = f"{gpu['count']} x {gpu['name']}, {gpu['memory_gb']} GB, CUDA {gpu['cuda']}" if gpu else "no GPU"
    on_gpu = record["settings"]["device"] == "cuda"
    on_cpu = "" if on_gpu else " THE CPU TAKES THE GPU'S PLACE, at tiny sizes: these are no figures of a GPU."
    versions = ", ".join(
        f"{name} {environment.versions[name]}" for name in ("torch", "timm", "ray") if name in environment.versions
    )
    machine = f"{named}; {cpu['cores']} cores of {cpu['cpu']}. {versions or 'no torch'}."
    text = f"{machine} Commit {record['commit']}, {record['date']}."
    return [*textwrap.wrap(text + on_cpu, WIDTH), "", *textwrap.wrap(f"Command: {record['command']}", WIDTH)]


def _state(ended: Ended) -> str:
    word = "wrong" if ended.state == State.WRONG else str(ended.state)
    return f"{word}, {ended.seconds:.1f} s" if ended.seconds else word


def _value(finding: Finding) -> str:
    """The value with its unit, and of a check whether it holds."""
    value = finding.value
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif isinstance(value, float):
        shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    else:
        shown = f"{value:,}" if isinstance(value, int) else value
    verdict = "" if finding.holds is None else ("holds" if finding.holds else "FAILS")
    return " ".join(filter(None, (shown, finding.unit))) + (f"; {verdict}" if verdict and shown else verdict)


def _row(what: str, value: str) -> str:
    return f"| {_cut(what, WHAT):<{WHAT}} | {_cut(value, VALUE):>{VALUE}} |"


def _cut(text: str, width: int) -> str:
    """The text on one line; the JSON has all of it."""
    text = _plain(text).replace("|", "/")
    return text if len(text) <= width else text[: width - 1] + "…"


def _plain(text: str) -> str:
    return " ".join(text.split())


def _item(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=True)
