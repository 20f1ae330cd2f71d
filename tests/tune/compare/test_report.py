"""The table of comparisons in its three forms, the plot and the page, from results made by a formula."""

from __future__ import annotations

import csv
import io
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from markupsafe import escape
from rich.console import Console

from maskcls.recipe import Recipe
from tests.tune.report.test_page import Balanced
from tune.compare import table as compare_table
from tune.compare.arms import Arm, PlannedComparison
from tune.compare.plots import differences_png, differences_svg
from tune.compare.report import write_report
from tune.compare.results import NOT_DONE, Results, Row
from tune.runs.folder import ComparisonRun
from tune.runs.record import ComparisonRecord
from tune.states import TrialState
from tune.statistics.paired import Difference, Verdict

NOTE = "five, one is left out: nobody is <under> 30."
NASTY = "<script>$x^$</script> | & more"
EFFECTS = {
    "loss": {"cross_entropy": (0.041, 0.021), "label smoothing .1": (-0.012, 0.03), NASTY: (0.002, 0.025)},
    "sampler": {},
}
EFFECTS["sampler"] = {
    "weighted": (-0.052, 0.03),
    "a name that is so long that eighty columns leave no room for all of it": (0.01, 0.04),
}


def made_row(comparison: str, name: str, effect: float, half: float | None, n: int = 5) -> Row:
    noise = np.random.default_rng(len(name))
    found = None if half is None else Difference(n, effect, effect - half, effect + half)
    return Row(
        comparison=comparison,
        variant=name,
        n=n,
        f1={repeat: 0.61 + effect + float(noise.normal(0, 0.012)) for repeat in range(n)},
        difference=found,
        seconds_mean=724.0,
        states={TrialState.COMPLETE: n} if n == 5 else {TrialState.COMPLETE: n, NOT_DONE: 5 - n},
        task_f1={"mask3": 0.97, "gender2": 0.93, "age3": 0.6 + effect},
        validation_f1_mean=0.66,
        is_base=half is None,
    )


def made_results() -> Results:
    rows = []
    for comparison, effects in EFFECTS.items():
        rows.append(made_row(comparison, "base", 0.0, None))
        rows += [made_row(comparison, name, *effect, n=4 if "long" in name else 5) for name, effect in effects.items()]
    rows.append(Row("sampler", "square_root", 0, {}, None, math.nan, {TrialState.DIVERGED: 5}, {}, math.nan))
    rows.append(
        replace(made_row("sampler", "lucky", 0.06, 0.01, n=3), states={TrialState.COMPLETE: 3, TrialState.DIVERGED: 2})
    )
    rows.append(replace(made_row("sampler", "once", 0.05, math.nan, n=1)))
    return Results(tuple(rows), repeats=5, people=400, photos=2800)


def made_comparisons() -> list[PlannedComparison]:
    recipe = Recipe()
    claims = {"loss": ("Label smoothing +.016 or worse.", "other teams"), "sampler": ("", "")}
    return [
        PlannedComparison(
            name,
            *claims[name],
            Arm("base", recipe, "", False),
            tuple(Arm(variant, recipe, "", False) for variant in effects),
        )
        for name, effects in EFFECTS.items()
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = {"photos": 2800, "people": 460, "holdout_people": 60}
    part = {"why": "finished", "hardware": {"cpus": 2, "gpus": 1}}
    record = {
        "question": f"Which helps? {NASTY}",
        "call": {"folds": 5},
        "data": data,
        "parts": [part],
        "comparisons": [],
        "left_out": [NOTE],
    }
    run = ComparisonRun.create(tmp_path_factory.mktemp("runs"), "made", ComparisonRecord.model_validate(record))
    write_report(run, made_results(), made_comparisons())
    return run.report


def test_the_terminal_has_80_columns() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    console.print(compare_table.render(made_results(), made_comparisons()), highlight=False)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert re.search(r"cross_entropy +5? *0\.\d{3} ± 0\.\d{3} +\+0\.041 \[\+0\.020, \+0\.062\] +better +12 min", shown)
    assert re.search(r"weighted +5 +0\.\d{3} ± 0\.\d{3} +-0\.052 \[-0\.082, -0\.022\] +worse", shown)
    assert re.search(r"square_root +0 +– +diverged 5 of 5", shown)
    assert re.search(r"lucky +3 +0\.\d{3} ± 0\.\d{3} +\+0\.060 \[\+0\.050, \+0\.070\] +diverged 2 of 5 +12 min", shown)
    assert re.search(r"once +1 +0\.\d{3} +\+0\.050, one repeat +can't tell", shown)
    assert "Of 5 differences, about 0.25 would be called better or worse by chance alone" in " ".join(shown.split())
    assert "".join(shown.split()).count("aname") == 1


def test_csv_has_every_arm() -> None:
    rows = list(csv.DictReader(io.StringIO(compare_table.to_csv(made_results()))))
    assert [(row["comparison"], row["variant"]) for row in rows] == [
        (row.comparison, row.variant) for row in made_results().rows
    ]
    assert rows[1]["difference"] == "0.041000"
    assert (rows[1]["low"], rows[1]["high"], rows[1]["verdict"]) == ("0.020000", "0.062000", Verdict.BETTER)
    assert (rows[0]["difference"], rows[0]["verdict"], rows[0]["states"]) == ("", "", "complete=5")
    assert rows[6]["states"] == "complete=4;not done=1"
    assert (rows[7]["f1_mean"], rows[7]["verdict"], rows[7]["states"]) == ("", "diverged 5 of 5", "diverged=5")
    assert (rows[8]["difference"], rows[8]["low"], rows[8]["verdict"]) == ("0.060000", "0.050000", "diverged 2 of 5"), (
        "though all above zero"
    )
    assert (rows[9]["difference"], rows[9]["low"], rows[9]["high"], rows[9]["verdict"]) == (
        "0.050000",
        "",
        "",
        Verdict.CANT_TELL,
    )


def test_markdown_tells_claim_and_source() -> None:
    text = compare_table.to_markdown(made_results(), made_comparisons())
    assert "### loss\n\nLabel smoothing +.016 or worse. (other teams)\n\n| variant |" in text
    assert text.count("| **better** |") == 1
    assert re.search(r"\| lucky \| 3 \| .* \| \+0\.060 \[\+0\.050, \+0\.070\] \| diverged 2 of 5 \|", text)
    assert re.search(r"\| once \| 1 \| .* \| \+0\.050, one repeat \| can't tell \|", text)
    assert r"\| & more" in text, "a bar would end the cell"
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} == {8}


def test_markdown_tells_what_is_left_out() -> None:
    text = compare_table.to_markdown(made_results(), made_comparisons(), [NOTE, "six is left out: why."])
    assert text.endswith(f"if none were real.\n\n- {NOTE}\n- six is left out: why.\n")


def test_the_plot_shows_every_difference() -> None:
    svg = differences_svg(made_results())
    ElementTree.fromstring(svg)
    assert svg == differences_svg(made_results())
    for text in (
        "cross_entropy",
        "label smoothing .1",
        "weighted",
        "loss",
        "sampler",
        Verdict.BETTER,
        Verdict.WORSE,
        TrialState.DIVERGED,
    ):
        assert text in svg
    assert differences_png(made_results()).startswith(b"\x89PNG")
    bases = Results(tuple(row for row in made_results().rows if row.is_base), 5, 0, 0)
    assert (differences_svg(bases), differences_png(bases)) == ("", b"")


def test_the_page_is_whole_and_asks_nothing_of_a_network(page: Path) -> None:
    text = page.read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    assert "<script>" not in text
    assert "&lt;script&gt;$x^$&lt;/script&gt; | &amp; more" in text
    assert not re.search(r"<(img|link|iframe|object)\b", text)
    assert page.with_name("differences.png").exists()


def test_the_page_says_how_it_was_measured(page: Path) -> None:
    text = page.read_text()
    assert "<span>better / worse / can&#39;t tell</span><b>1 / 1 / 4</b>" in text
    assert "8 variants, each against its base; 2 diverged" in text
    assert f"<li>{escape(NOTE)}</li>" in text
    assert "+0.050, one repeat" in text
    assert "Label smoothing +.016 or worse. (other teams)" in text
    assert "the 60 people of the holdout took no part at all" in text
    assert "of 5 folds over the people fold i is tested, and 15% of the others pick the epoch" in text
    assert "<b>400</b><span>2,800 photos, 5 repeats</span>" in text
    assert "2 cores, 1 GPUs" in text
    assert "4 complete, 1 not done" in text
    assert Verdict.CANT_TELL in parser_text(text)


def parser_text(text: str) -> str:
    parser = Balanced()
    parser.feed(text)
    return parser.text


def test_a_run_without_a_score_has_a_page(tmp_path: Path) -> None:
    run = ComparisonRun.create(tmp_path, "new", ComparisonRecord(question="?", call={"folds": 2}, sessions=[]))
    rows = tuple(
        Row("one", name, 0, {}, None, math.nan, {NOT_DONE: 2}, {}, math.nan, name == "base") for name in ("base", "b")
    )
    arms = [Arm(name, Recipe(), "", False) for name in ("base", "b")]
    write_report(run, Results(rows, 2, 0, 0), [PlannedComparison("one", "", "", arms[0], (arms[1],))])
    assert "2 not done" in run.report.read_text()
    assert not run.plot.exists()


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_draws_it(page: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium here")
    picture = tmp_path / "report.png"
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1200,2600",
    ]
    subprocess.run(
        [chromium, *options, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120
    )
    assert picture.stat().st_size > 50_000
