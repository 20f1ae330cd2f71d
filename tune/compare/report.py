"""The page of a comparison run, `runs/<name>/report.html`, which needs no other file, and its figure as a PNG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from maskcls.files import replacing, write_atomically
from maskcls.reports.page import Html, breaking, dot, listed, page, pairs, section, table, tiles
from maskcls.serving.holdout_uses import describe
from tune.compare.arms import BASE, VALIDATION, PlannedComparison
from tune.compare.options import CompareOptions
from tune.compare.plots import COLOURS, colour_key, differences_png, differences_svg
from tune.compare.results import Results, Row
from tune.compare.table import format_difference, format_mean, format_time, verdict_text
from tune.runs.folder import ComparisonRun
from tune.runs.holdout_uses import holdout_uses
from tune.runs.record import ComparisonRecord
from tune.states import TrialState
from tune.statistics.paired import Verdict


def write_report(run: ComparisonRun, results: Results, comparisons: Sequence[PlannedComparison]) -> None:
    """Write report.html and differences.png from the fits that are complete, each file whole or not at all."""
    record = run.record()
    sections = [_headline(results, record)]
    plot = differences_svg(results)
    if plot:
        sections.append(section("Differences", results.chance_note, plot))
        with replacing(run.plot) as stream:
            stream.write(differences_png(results))
    sections += [_comparison(planned, results) for planned in comparisons]
    sections += [_tasks(results), _repeats(results), _protocol(run, record, results), _origin(record)]
    write_atomically(run.report, page(f"Comparison {run.name}", record.question, sections))


def _headline(results: Results, record: ComparisonRecord) -> Html:
    """The tiles on top: verdicts, the base's score, people and time."""
    verdicts = Counter(colour_key(row) for row in results.rows if row.difference is not None)
    diverged = sum(bool(row.states.get(TrialState.DIVERGED)) for row in results.rows if not row.is_base)
    order = (Verdict.BETTER, Verdict.WORSE, Verdict.CANT_TELL)
    numbers = " / ".join(str(verdicts[name]) for name in order) if verdicts else "–"
    bases = [row for row in results.rows if row.is_base and row.n]
    hardware = record.sessions[-1].hardware if record.sessions else None
    machine = (
        f"{hardware.cpus} cores" + (f", {hardware.gpus} GPUs" if hardware.gpus else "")
        if hardware and hardware.cpus
        else ""
    )
    one = bases[0] if len(bases) == 1 else None
    shown = [
        (
            " / ".join(order),
            numbers,
            f"{len(results.rows) - len(_bases(results))} variants, each against its base"
            + (f"; {diverged} diverged" if diverged else ""),
        ),
        ("macro F1 of the base", format_mean(one), f"mean ± standard deviation of {one.n} repeats")
        if one
        else ("comparisons", str(len(_bases(results))), "each with its own base"),
        ("people tested", str(results.people), f"{results.photos:,} photos, {results.repeats} repeats"),
        ("a fit's time", format_time(bases[0]) if bases else "–", machine),
    ]
    caution = (
        "Better or worse: zero is outside the 95 % interval over seeds and people. Can't tell does not mean equal."
    )
    return tiles(shown, caution)


def _bases(results: Results) -> list[Row]:
    return [row for row in results.rows if row.is_base]


def _comparison(planned: PlannedComparison, results: Results) -> Html:
    cells: list[list[str | Html]] = []
    for row in results.rows_of(planned.name):
        mark = dot(COLOURS[colour_key(row)]) if row.difference else Html()
        ends = ", ".join(f"{count} {state}" for state, count in row.states.items())
        cells.append(
            [
                breaking(row.variant),
                str(row.n),
                format_mean(row),
                format_difference(row),
                mark + verdict_text(row),
                "–" if math.isnan(row.validation_f1_mean) else f"{row.validation_f1_mean:.3f}",
                format_time(row),
                "" if set(row.states) == {TrialState.COMPLETE} else ends,
            ]
        )
    claim = planned.claim + (f" ({planned.source})" if planned.source else "")
    headers = ["variant", "n", "macro F1", "difference, 95 % interval", "", "validation F1", "a fit's time", ""]
    return section(planned.name, claim, table(headers, cells, marked=0))


def _tasks(results: Results) -> Html:
    names = next((list(row.task_f1) for row in results.rows if row.task_f1), [])
    cells = [
        [row.comparison, breaking(row.variant), *(f"{row.task_f1[name]:.3f}" for name in names), ""]
        for row in results.rows
        if row.task_f1
    ]
    note = "Macro F1 of mask, gender and age group in the joined prediction, mean over the repeats."
    return section("F1 by task", note, table(["comparison", "variant", *names, ""], cells))


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


def _protocol(run: ComparisonRun, record: ComparisonRecord, results: Results) -> Html:
    folds = CompareOptions.recorded(record).folds
    uses = holdout_uses(run)  # by searches of the same photos and split
    lines = [
        f"Repeat i trains every variant with seed i on the same split: of {folds} folds over the people fold i is "
        f"tested, and {VALIDATION:.0%} of the others pick the epoch. After {folds} repeats the people are divided "
        "again.",
        "Nobody who is tested took part in training or in the choice of the epoch; "
        f"the {record.data.holdout_people} people of the holdout took no part at all."
        + (f" {describe(uses)}" if uses else ""),
        "A difference is the mean over the repeats of the variant's macro F1 minus the base's, on the same photos.",
        "Its interval is over seeds and people, with Student's t: it combines the variance of the repeats' differences "
        "with the variance over other people, by a bootstrap within gender and age group. One repeat has no interval "
        "and no verdict.",
        "A variant that diverged in a repeat gets no verdict, whatever the other repeats would give.",
        *record.left_out,
    ]
    return section("How it was measured", "", listed(lines))


def _origin(record: ComparisonRecord) -> Html:
    # The recipes of all arms would fill the page: those of the bases are shown, and the variants name what they change.
    rest = record.flat("comparisons")
    recipes = {
        f"{one.name}: {arm.name}": ", ".join(f"{key} {value}" for key, value in arm.recipe.items())
        for one in record.comparisons
        for arm in one.arms
        if arm.name == BASE
    }
    note = "The run's own record, comparison.json: options, versions, commit, hardware and data."
    return section(
        "Where this comes from",
        note,
        pairs(recipes, "recipes of the bases") + pairs(rest, "comparison.json"),
    )
