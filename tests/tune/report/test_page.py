"""The page of a search: what it says, that it stands alone, and that no value can break it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.tune.made_run import add_choice, made_run
from tune.report.choice import caution
from tune.report.page import gain, write_report
from tune.report.parameters import MIN_COMPLETE
from tune.runs import leaderboard
from tune.runs.folder import SearchRun
from tune.runs.study import ORIGIN, SAMPLED, open_study, records
from tune.selection.finalists import Design, RepeatBy
from tune.selection.record import read_choice

PARAMETERS = ("frozen_stages", "head", "head_dropout", "head_width", "lr_body", "lr_head", "weight_decay")
VOID = {"meta", "br", "img", "link"}


class Balanced(HTMLParser):
    """Fails where an element is closed that is not the last one opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(run: SearchRun) -> str:
    write_report(run)
    text = run.report.read_text()
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []
    return text


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    return made_run(tmp_path_factory.mktemp("runs"), 24, message="ValueError: <script>alert('x')</script> $x^$ & more")


@pytest.fixture(scope="module")
def text(run: SearchRun) -> str:
    return read(run)


def test_headline(run: SearchRun, text: str) -> None:
    assert "<h1>Search made</h1>\n<p>Space freezing: How many stages, &amp; which head?</p>" in text
    trials = records(run)
    best, preset = leaderboard.best(trials), leaderboard.preset(trials)
    assert best is not None
    assert preset is not None
    assert best.trial_id != preset.trial_id
    assert f"<b>{best.f1:.4f}</b><span>trial {best.trial_id}, resnet10t, epoch {best.best_epoch} of 6</span>" in text
    assert f"<b>{best.f1 - preset.f1:+.4f}</b><span>trial 0000: {preset.f1:.4f}</span>" in text  # type: ignore[operator]
    assert gain(trials) == best.f1 - preset.f1  # type: ignore[operator]
    assert "<b>24</b><span>17 complete, 5 stopped early, 1 diverged, 1 failed</span>" in text
    assert "<b>24 min</b>" in text


def test_of_a_search_that_goes_on_it_says_how_many_trials_are_wanted_and_what_an_unfinished_one_took(
    tmp_path: Path,
) -> None:
    run = made_run(tmp_path, 2)
    run.write_record(run.record().changed(call={"space": "freezing", "trials": 8}))
    trial = open_study(run).ask()
    trial.set_user_attr(ORIGIN, SAMPLED)
    run.trial("0002").mkdir()
    row = {"epoch": 1, "validation_f1": 0.2, "best_f1": 0.2, "seconds": 118.0}
    (run.trial("0002") / "epochs.jsonl").write_text(json.dumps(row) + "\n")
    text = read(run)
    assert "<b>3 of 8</b><span>2 complete, 1 unfinished</span>" in text
    assert "<b>4 min</b>" in text
    assert "Trials: 4 min in 3 fits" in text
    assert re.search(r"<td>0002</td>.*<td>sampled</td><td>2 min</td>", text)


def test_leaderboard_has_every_trial_best_first(run: SearchRun, text: str) -> None:
    body = re.search(r"<h2[^>]*>Leaderboard</h2>.*?<tbody>(.*?)</tbody>", text, re.DOTALL)
    assert body
    ids = re.findall(r"<tr[^>]*><td>\d*</td><td>(\d{4})</td>", body[1])
    assert ids == [trial.trial_id for trial in leaderboard.ranked(records(run))]
    assert body[1].startswith("<tr class=best>")


def test_figures_are_whole_and_show_every_trial(text: str) -> None:
    figures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(figures) == 4 + len(PARAMETERS), (
        "history, curves, importance, the two that matter most, and each parameter"
    )
    for figure in figures:
        ElementTree.fromstring(figure)
    assert "best so far" in figures[0]
    assert "preset&#39;s recipe" in figures[0] or "preset's recipe" in figures[0]
    assert all(state in figures[0] for state in ("complete", "stopped early", "diverged"))
    assert "best trial, " in figures[1]
    assert [name for name in PARAMETERS if name not in "".join(figures[4:])] == []
    assert "<title>trial 0001, complete: 0." in figures[0], "pointing at a mark shows its value"


def test_it_asks_nothing_of_a_network(text: str) -> None:
    addresses = {address for address in re.findall(r"https?://[^\s\"'<>]+", text) if "www.w3.org" not in address}
    assert addresses == set()
    assert not re.search(r"<(script|img|link|iframe|object)\b", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_text_is_escaped(text: str) -> None:
    assert "<script>" not in text
    assert "ValueError: &lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; $x^$ &amp; more" in text


def test_scores_of_the_best_trial(text: str) -> None:
    assert "485 validation photos, accuracy 75.0%" in text
    assert re.search(r"<td>mask3</td><td>.*?</td><td>0\.970</td>", text)
    assert "<td>17</td>" in text
    assert text.count("nobody in validation") == 1


def test_the_call_is_kept(text: str) -> None:
    assert re.search(r"call\.space</dt>\s*<dd>freezing</dd>", text)
    assert "<dt>versions.torch</dt><dd>2.14.1</dd>" in text
    assert "<dt>parts.1.why</dt><dd>complete</dd>" in text


def test_of_many_trials_the_figures_show_some(run: SearchRun, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune.report.plots.MOST_DRAWN", 6)
    shown = read(run)
    assert shown.count("Shown are 7 of 23 trials: the 3 best, and as many of the others") == 2
    assert "Shown are" not in text
    curves = re.compile(r"<title>trial (\d{4}), [^<]*, epoch 1: ")
    assert len(curves.findall(text)) == 23
    assert len(curves.findall(shown)) == 7
    best = [trial.trial_id for trial in leaderboard.ranked(records(run))[:3]]
    assert {*best, "0000"} <= set(curves.findall(shown))
    assert shown.count("<tr") == text.count("<tr"), "tables have all"


def test_few_trials_have_no_importance(tmp_path: Path) -> None:
    note = (
        f"Too few trials to tell: importances need {MIN_COMPLETE} complete trials of the space in which a parameter "
        "varied; this search has 2."
    )
    text = read(made_run(tmp_path, 3))
    assert note in text
    assert "share of the importance" not in text


def test_a_search_without_an_epoch_has_a_page(tmp_path: Path) -> None:
    made = SearchRun.create(tmp_path, "new")
    assert "No trial has finished an epoch yet." in read(made)


def test_it_is_written_again_and_the_same(tmp_path: Path) -> None:
    made = made_run(tmp_path, 4)
    assert read(made) == read(made)
    assert [file.name for file in made.path.glob("*report*")] == ["report.html"]


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> SearchRun:
    made = made_run(tmp_path_factory.mktemp("chosen"), 24)
    add_choice(made, Design(4, 3), lacks=(leaderboard.ranked(records(made))[3].trial_id,))
    return made


def test_a_winner_that_is_the_preset_has_no_gain_over_it(chosen: SearchRun) -> None:
    choice = read_choice(chosen.record())
    assert choice is not None
    gained = ("gain over the preset's recipe", "+0.0123", "trial 0000: 0.5000")
    other = next(one for one in choice.finalists if one.trial != choice.winner_id)
    assert "by validation alone, is +0.0123" in caution(replace(choice, preset=other), "", gained)
    said = caution(replace(choice, preset=choice.winner), "", gained)
    assert "The winner is the preset's own recipe." in said
    assert "+0.0123" not in said


def test_the_choice_leads_the_page(chosen: SearchRun) -> None:
    text, recorded = read(chosen), json.loads(chosen.record_file.read_text())["choice"]
    found, winner = recorded["holdout"], recorded["winner"]
    by_validation = leaderboard.ranked(records(chosen))
    assert winner != by_validation[0].trial_id, "else nothing below shows that the repeats decided"
    interval = f"95 % interval [{found['low']:.4f}, {found['high']:.4f}], 69 people"
    assert f"<b>{found['f1']:.4f}</b><span>{interval}</span>" in text
    assert f"<span>mean of 3 repeats</span><b>{recorded['mean']:.4f}</b><span>± {recorded['spread']:.4f}," in text
    assert f"<b>{recorded['validation_f1']:.4f}</b><span>trial {winner}, resnet10t" in text
    assert f"<b>{recorded['validation_f1'] - found['f1']:+.4f}</b>" in text
    assert "The holdout has been used 1 time." in text
    assert ">F1 of the winner, by task and class</h2>" in text
    assert f">The winner&#39;s recipe, trial {winner}</h2>" in text
    assert f"winner, {winner}" in text
    assert "2030-01-01" not in text
    assert "choice.winner" not in text, "the choice has its own section, and is not repeated with search.json"
    place = next(number for number, trial in enumerate(by_validation, start=1) if trial.trial_id == winner)
    assert f"<tr class=best><td>{place}</td><td>{winner}</td>" in text


@pytest.mark.slow
def test_the_finalists_have_a_table_and_a_figure(chosen: SearchRun) -> None:
    text, recorded = read(chosen), json.loads(chosen.record_file.read_text())["choice"]
    part = re.search(r"<h2[^>]*>The choice</h2>(.*?)</section>", text, re.DOTALL)
    assert part
    assert "The best 4 trials by validation were trained again 3 times, each repeat on another fold" in part[1]
    rows = re.findall(r"<tr( class=best)?><td>(\d{4})</td>(.*?)</tr>", part[1])
    assert [trial for _, trial, _ in rows] == [one["trial"] for one in recorded["finalists"]]
    assert [trial for marked, trial, _ in rows if marked] == [recorded["winner"]]
    for (_, _, cells), one in zip(rows, recorded["finalists"], strict=True):
        shown = re.findall(r"<td>(.*?)</td>", cells)
        f1s = [f"{repeat['f1']:.4f}" for repeat in one["repeats"]] + ["–"] * (3 - len(one["repeats"]))
        scores = [f"{one[name]:.4f}" for name in ("validation_f1", "mean", "spread")]
        assert shown == [*scores, *f1s, "winner" if one["trial"] == recorded["winner"] else ""]
    assert f"<li>Trial {recorded['finalists'][3]['trial']}, repeat 3: diverged. The loss is nan.</li>" in part[1]
    figure = re.search(r"<svg.*?</svg>", part[1], re.DOTALL)
    assert figure
    ElementTree.fromstring(figure[0])
    assert all(f"trial {one['trial']}" in figure[0] for one in recorded["finalists"])
    assert "the winner on the holdout, 95 %" in figure[0]


@pytest.mark.slow
def test_a_choice_that_was_not_confirmed_says_so(tmp_path: Path) -> None:
    made = made_run(tmp_path, 12)
    add_choice(made, Design(2, 1, RepeatBy.SEEDS), confirmed=False)
    text = read(made)
    assert "<b>–</b><span>the winner was not scored there</span>" in text
    assert "<span>one repeat</span>" in text
    assert "no spread of one repeat" in text
    assert "The holdout has not been used." in text
    assert "the winner on the holdout" not in text
    assert "trained again once, each repeat with another seed, on the search&#39;s own split." in text
