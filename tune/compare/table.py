"""The table of comparisons: for a terminal of 80 columns, as CSV, and as Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from maskcls.files import csv_text, no_formulas
from tune.compare.arms import PlannedComparison
from tune.compare.results import Results, Row
from tune.durations import duration
from tune.statistics.paired import Verdict

COLUMNS = (
    "comparison",
    "variant",
    "n",
    "f1_mean",
    "f1_sd",
    "difference",
    "low",
    "high",
    "verdict",
    "validation_f1_mean",
    "seconds_mean",
    "states",
)
_STYLES: dict[str, str] = {Verdict.BETTER: "green", Verdict.WORSE: "red"}


def render(results: Results, comparisons: Sequence[PlannedComparison]) -> RenderableType:
    """For a terminal: one table per comparison, below what was claimed."""
    parts: list[RenderableType] = []
    for comparison in comparisons:
        if len(comparisons) > 1:
            parts.append(Text(f"\n{comparison.name}", style="bold"))
        if comparison.claim:
            parts.append(Text(comparison.claim))
        parts.append(_terminal_table(results.rows_of(comparison.name), results.repeats))
    return Group(*parts, Text(results.chance_note, style="dim") if results.n_verdicts else Text(""))


def _terminal_table(rows: Sequence[Row], repeats: int) -> Table:
    partial = any(row.n < repeats for row in rows)  # n is a column only where it differs: 80 columns are few
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("variant", overflow="fold", min_width=12)
    if partial:
        table.add_column("n", justify="right", no_wrap=True)
    for name in ("macro F1", "difference, 95 %", "verdict", "time"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        n = [str(row.n)] if partial else []
        style = "bold" if row.is_base else _STYLES.get(verdict_text(row), "")
        table.add_row(
            row.variant, *n, format_mean(row), format_difference(row), verdict_text(row), format_time(row), style=style
        )
    return table


def format_mean(row: Row) -> str:
    """Mean and standard deviation, as in `0.612 ± 0.012`; the mean alone for one repeat, a dash for none."""
    if not row.n:
        return "–"
    return f"{row.f1_mean:.3f}" if math.isnan(row.f1_sd) else f"{row.f1_mean:.3f} ± {row.f1_sd:.3f}"


def format_difference(row: Row) -> str:
    """Difference and interval, as in `+0.021 [-0.004, +0.046]`; "" for the base, and where no repeat counts."""
    found = row.difference
    if found is None:
        return ""
    return (
        f"{found.mean:+.3f}, one repeat" if found.n == 1 else f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    )


def verdict_text(row: Row) -> str:
    """The verdict; for an arm without a score, how its fits ended; "" for a base that has scores."""
    return row.verdict or ("" if row.n else ", ".join(row.states))


def format_time(row: Row) -> str:
    """The mean time of a fit; "" where none is complete."""
    return "" if math.isnan(row.seconds_mean) else duration(row.seconds_mean)


def to_csv(results: Results) -> str:
    """One row per arm; states as `complete=4;diverged=1`."""
    return csv_text(COLUMNS, no_formulas(map(_cells, results.rows)))


def _cells(row: Row) -> tuple[object, ...]:
    """The cells of one arm, in the order of COLUMNS."""
    found = row.difference
    numbers = (found.mean, found.low, found.high) if found else (math.nan,) * 3
    return (
        row.comparison,
        row.variant,
        row.n,
        *(_number(value, 6) for value in (row.f1_mean, row.f1_sd, *numbers)),
        verdict_text(row),
        _number(row.validation_f1_mean, 6),
        _number(row.seconds_mean, 1),
        ";".join(f"{state}={count}" for state, count in row.states.items()),
    )


def to_markdown(results: Results, comparisons: Sequence[PlannedComparison], left_out: Sequence[str] = ()) -> str:
    """For a document: each comparison's claim, its source and its table; then the variants that were left out."""
    parts = []
    for comparison in comparisons:
        rows = results.rows_of(comparison.name)
        parts.append(f"### {comparison.name}\n")
        if comparison.claim:
            parts.append(f"{comparison.claim}{f' ({comparison.source})' if comparison.source else ''}\n")
        lines = [
            "| variant | n | macro F1 | difference, 95 % interval | | on validation | a fit's time |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            verdict = verdict_text(row)
            emphasized = f"**{verdict}**" if verdict in _STYLES else verdict
            validation = "" if math.isnan(row.validation_f1_mean) else f"{row.validation_f1_mean:.3f}"
            cells = (row.variant, str(row.n), format_mean(row), format_difference(row), emphasized, validation)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, format_time(row))) + " |")
        parts.append("\n".join(lines) + "\n")
    if results.n_verdicts:
        parts.append(f"{results.chance_note}\n")
    if left_out:
        parts.append("\n".join(f"- {note}" for note in left_out) + "\n")
    return "\n".join(parts)


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
