"""Two searches side by side: what differs is named, and winners are compared on the people of both holdouts alone."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError
from tests.browser import DESK, PHONE, opened, serious_findings
from tests.tune.report.test_how_good import judged, predicted
from tune.report.compare import _same_photos, write_comparison
from tune.report.page import ReportOptions
from tune.runs.folder import SearchRun
from tune.statistics.paired import Repeat, Verdict, model_difference

__all__ = ["judged"]


@pytest.fixture
def other(judged: tuple[SearchRun, FaceDataset], tmp_path: Path) -> SearchRun:
    """A copy of the run that was called otherwise, and whose bundle knows every answer of the holdout."""
    run = SearchRun(Path(shutil.copytree(judged[0].path, tmp_path / "other")))
    record = run.record()
    run.write_record(record.changed(call={**record.call, "space": "everything"}))
    (file,) = (run.path / "predictions").glob("holdout-*/answers.npz")
    with np.load(file) as arrays:
        kept = dict(arrays)
    kept["log_probabilities"] = np.log(np.maximum(np.eye(18)[kept["truth"]], 1e-30)).astype(np.float32)
    np.savez(file, **kept)
    return run


def test_what_differs_is_named_and_the_winners_are_compared(
    judged: tuple[SearchRun, FaceDataset], other: SearchRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, faces = judged
    before = run.record_file.read_bytes()
    # The run has five holdout people; a real one has more, and fewer than ten are not compared.
    assert len(faces.split.holdout) < 10
    refused = write_comparison(run, other, ReportOptions(faces.cache)).read_text()
    assert "At least 10 are needed." in refused
    monkeypatch.setattr("tune.report.compare.FEW_PEOPLE", 2)
    file = write_comparison(run, other, ReportOptions(faces.cache))
    text = file.read_text()
    assert file == other.path / "report-with-small.html"
    assert "<td>space</td><td>–</td><td>everything</td>" in text
    assert "What differs in data and split" not in text
    assert "What is the same</h2><p>Data and split; code and machine; the winners&#39; recipes.</p>" in text
    assert "Validation macro F1 of both winners over their epochs" in text
    assert "Both searches have the same holdout people." in text
    assert ", better, over 5 people and not over seeds" in text
    assert "Over 2 repeats with the same seeds and people: +0.0000 [+0.0000, +0.0000], can&#39;t tell" in text
    assert run.record_file.read_bytes() == before


def test_people_of_one_holdout_alone_do_not_count(judged: tuple[SearchRun, FaceDataset], other: SearchRun) -> None:
    one = predicted(40, np.zeros(120, bool))
    moved = predicted(40, np.arange(120) % 2 == 0)
    kept = np.arange(120) >= 60  # the last twenty people
    less = replace(
        moved,
        photos=moved.photos[kept].reset_index(drop=True),
        truth=moved.truth[kept],
        log_probabilities=moved.log_probabilities[kept],
    )
    for found in (one, less):
        found.photos["size_bytes"], found.photos["label"] = 1, found.truth
    pair, said = _same_photos(one, less)
    assert pair is not None
    assert said.startswith("The holdouts differ (40 and 20 people): 20 people are in both")
    assert len(pair.truth) == 60
    # The same photo with another label is another photo.
    less.photos.loc[:44, "label"] = 17
    assert _same_photos(one, less)[0] is None


def test_a_search_without_holdout_says_so(judged: tuple[SearchRun, FaceDataset], other: SearchRun) -> None:
    run, faces = judged
    content = json.loads(other.record_file.read_text())
    del content["holdout"]
    other.record_file.write_text(json.dumps(content))
    text = write_comparison(run, other, ReportOptions(faces.cache)).read_text()
    assert "On the holdout: no difference, because no predictions are known of other." in text


def test_models_that_predict_the_same_are_said_to(
    judged: tuple[SearchRun, FaceDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, faces = judged
    monkeypatch.setattr("tune.report.compare.FEW_PEOPLE", 2)
    twin = SearchRun(Path(shutil.copytree(run.path, tmp_path / "twin")))
    text = write_comparison(run, twin, ReportOptions(faces.cache)).read_text()
    assert "no difference, because both models predict the same class for every photo." in text
    assert "What differs" not in text
    assert "<p>The call; data and split; code and machine; the winners&#39; recipes.</p>" in text


def test_a_run_beside_itself_is_refused(judged: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = judged
    with pytest.raises(CallError, match="--compare small is the run itself"):
        write_comparison(run, run, ReportOptions(faces.cache))


def test_two_models_differ_by_what_the_same_people_say() -> None:
    truth = np.tile(np.arange(18), 20)
    person = np.repeat(np.arange(20), 18)
    right = Repeat(truth, np.where(person % 2 == 0, (truth + 1) % 18, truth), truth, person, person % 3)
    found = model_difference(right)
    assert found.mean == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert found.verdict == Verdict.BETTER
    same = model_difference(replace(right, variant=right.base))
    assert (same.mean, same.low, same.high, same.verdict) == (0, 0, 0, Verdict.CANT_TELL)


@pytest.mark.soak
@pytest.mark.browser
def test_the_page_in_a_browser(judged: tuple[SearchRun, FaceDataset], other: SearchRun) -> None:
    run, faces = judged
    file = write_comparison(run, other, ReportOptions(faces.cache))
    for size, dark in ((PHONE, False), (DESK, True)):
        with opened(file, size, dark=dark) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            assert page.evaluate("document.querySelectorAll('svg title').length") == 4
            assert serious_findings(page) == []
