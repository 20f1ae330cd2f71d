"""The comparisons as one page to look at: `runs/<name>/report.html`, which needs no other file; and their plot as a PNG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from maskcls.files import replacing, write_atomically
from maskcls.reports.page import Html, breaking, dot, listed, page, pairs, section, table, tiles
from tune.compare.arms import BASE, VALIDATION, PlannedComparison
from tune.compare.plots import COLOURS, differences_png, differences_svg, kind
from tune.compare.results import Results, Row
from tune.compare.table import format_difference, format_mean, format_time, word
from tune.runs.folder import ComparisonRun
from tune.states import TrialState
from tune.statistics.paired import Verdict


def write_report(run: ComparisonRun, results: Results, comparisons: Sequence[PlannedComparison]) -> None:
    """Write report.html and differences.png over what is complete, each whole or not at all."""
    record = run.record()
    sections = [_headline(results, record)]
    plot = differences_svg(results)
    if plot:
        sections.append(section("Differences", results.chance_note, plot))
        with replacing(run.plot) as stream:
            stream.write(differences_png(results))
    sections += [_comparison(planned, results) for planned in comparisons]
    sections += [_tasks(results), _repeats(results), _protocol(record, results), _origin(record)]
    write_atomically(run.report, page(f"Comparison {run.name}", str(record.get("question", "")), sections))


def _headline(results: Results, record: Mapping[str, Any]) -> Html:
    words = Counter(kind(row) for row in results.rows if row.difference is not None)
    diverged = sum(bool(row.states.get(TrialState.DIVERGED)) for row in results.rows if not row.is_base)
    order = (Verdict.BETTER, Verdict.WORSE, Verdict.CANT_TELL)
    told = " / ".join(str(words[name]) for name in order) if words else "–"
    bases = [row for row in results.rows if row.is_base and row.n]
    hardware = record["parts"][-1].get("hardware", {}) if record.get("parts") else {}
    machine = (
        f"{hardware['cpus']} cores" + (f", {hardware['gpus']} GPUs" if hardware.get("gpus") else "") if hardware else ""
    )
    one = bases[0] if len(bases) == 1 else None
    shown = [
        (
            " / ".join(order),
            told,
            f"{len(results.rows) - len(_bases(results))} variants, each against its base"
            + (f"; {diverged} diverged" if diverged else ""),
        ),
        ("macro F1 of the base", format_mean(one), f"mean ± standard deviation of {one.n} repeats")
        if one
        else ("comparisons", str(len(_bases(results))), "each with its own base"),
        ("people tested", str(results.people), f"{results.photos:,} photos, {results.repeats} repeats"),
        ("a fit's time", format_time(bases[0]) if bases else "–", machine),
    ]
    caution = "Better or worse: the 95 % interval over seeds and people leaves zero out. Can't tell is no proof of being equal."
    return tiles(shown, caution)


def _bases(results: Results) -> list[Row]:
    return [row for row in results.rows if row.is_base]


def _comparison(planned: PlannedComparison, results: Results) -> Html:
    cells: list[list[str | Html]] = []
    for row in results.of(planned.name):
        mark = dot(COLOURS[kind(row)]) if row.difference else Html()
        ends = ", ".join(f"{count} {state}" for state, count in row.states.items())
        cells.append(
            [
                breaking(row.variant),
                str(row.n),
                format_mean(row),
                format_difference(row),
                mark + word(row),
                "–" if math.isnan(row.validation_f1_mean) else f"{row.validation_f1_mean:.3f}",
                format_time(row),
                "" if set(row.states) == {TrialState.COMPLETE} else ends,
            ]
        )
    told = planned.claim + (f" ({planned.source})" if planned.source else "")
    headers = ["variant", "n", "macro F1", "difference, 95 % interval", "", "validation F1", "a fit's time", ""]
    return section(planned.name, told, table(headers, cells, marked=0))


def _tasks(results: Results) -> Html:
    names = next((list(row.task_f1) for row in results.rows if row.task_f1), [])
    cells = [
        [row.comparison, breaking(row.variant), *(f"{row.task_f1[name]:.3f}" for name in names), ""]
        for row in results.rows
        if row.task_f1
    ]
    told = "Macro F1 of the joined answer's mask, gender and age group, mean over repeats."
    return section("F1 by task", told, table(["comparison", "variant", *names, ""], cells))


def _repeats(results: Results) -> Html:
    numbers = range(results.repeats)
    cells = [
        [
            row.comparison,
            breaking(row.variant),
            *(f"{row.f1[number]:.4f}" if number in row.f1 else "–" for number in numbers),
            "",
        ]
        for row in results.rows
    ]
    headers = ["comparison", "variant", *(str(number + 1) for number in numbers), ""]
    return section(
        "Macro F1, repeat by repeat", "All variants of a repeat share its seed and its people.", table(headers, cells)
    )


def _protocol(record: Mapping[str, Any], results: Results) -> Html:
    folds = record["call"]["folds"]
    data = record.get("data", {})
    lines = [
        f"Repeat i trains every variant with seed i on the same split: {folds} folds over the people, fold i is tested, and of the others "
        f"{VALIDATION:.0%} pick the epoch. After {folds} repeats the people are divided anew.",
        "Nobody who is tested was seen in training or in the choice of the epoch; "
        f"{data.get('holdout_people', 0)} people of the holdout were left alone altogether.",
        "A difference is the mean over repeats of the variant's macro F1 less the base's, on the same photos.",
        "Its interval is over seeds and people, with Student's t: the variance of the repeats' differences, and that of other people "
        "within gender and age group by a bootstrap. One repeat has no interval, and never tells.",
        "A variant that diverged in a repeat gets no other word, whatever the rest would say.",
        *record.get("left_out", ()),
    ]
    return section("How it was measured", "", listed(lines))


def _origin(record: Mapping[str, Any]) -> Html:
    from tune.search.report import flatten

    kept = {key: value for key, value in record.items() if key != "comparisons"}
    recipes = {
        f"{one['name']}: {arm['name']}": ", ".join(f"{key} {value}" for key, value in arm["recipe"].items())
        for one in record.get("comparisons", ())
        for arm in one["arms"]
        if arm["name"] == BASE
    }
    told = "What the run says of itself, in comparison.json."
    return section(
        "Where this comes from",
        told,
        pairs(recipes, "recipes of the bases") + pairs(flatten(kept), "comparison.json"),
    )
