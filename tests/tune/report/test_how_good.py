"""How good a winner is, and for whom: real predictions of a small run, and the page in a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError
from maskcls.serving.calibration import fit_calibration
from tests.browser import DESK, PHONE, opened, serious_findings
from tests.tune.answered_run import add_trained_trial, let_answer, note_data, one_knows
from tests.tune.selection.small_run import small_run
from tune.report.groups import TOO_FEW, calibration, class_scores, confusion, group_scores, groupings
from tune.report.page import ReportOptions, write_report
from tune.report.people import people_table
from tune.report.predicted import Predicted, PredictedSets, read_sets
from tune.report.sureness import abstaining, error_curve, sureness, tempered
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.holdout_uses import holdout_uses
from tune.runs.study import records
from tune.selection.export import export_trial
from tune.selection.finalists import Design
from tune.selection.holdout import evaluate_on_holdout
from tune.selection.record import read_choice


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path) -> tuple[SearchRun, FaceDataset]:
    """A run whose second finalist knows every answer in its repeats; its bundle was scored on the holdout."""
    run, faces = small_run(tmp_path_factory.mktemp("runs"), demo_cache)
    note_data(run, faces)
    for f1, lr in ((0.6, 1e-2), (0.5, 1e-3)):
        add_trained_trial(run, faces, f1, {"lr_head": lr})
    let_answer(run, faces, Design(2, 2), (0, 1), one_knows)
    export_trial(run, "0001", run.best)
    evaluate_on_holdout(run, faces, run.best, "trial 0001")
    return run, faces


def sets_of(run: SearchRun, faces: FaceDataset, *, predicts: bool = False) -> PredictedSets:
    return read_sets(run, faces, records(run), read_choice(run.record()), "trial 0001", predicts=predicts)


def predicted(people: int, is_wrong: np.ndarray) -> Predicted:
    """A photo of each mask state per person; all are men under 30, or over 59 from the middle on."""
    number = np.repeat(np.arange(people), 3)
    old = number >= people // 2
    mask = np.tile([0, 1, 2], people)
    truth = 6 * mask + 2 * old
    photos = pd.DataFrame(
        {
            "key": [f"{at}/{which}" for at, which in zip(number, mask, strict=True)],
            "person": [f"p{at:03d}" for at in number],
            "gender": 0,
            "age": np.where(old, 65, 20),
            "age_group": 2 * old.astype(int),
            "mask": mask,
            "label": truth,
        }
    )
    classes = np.where(is_wrong, (truth + 1) % 18, truth)
    log_probabilities = np.log(np.full((len(truth), 18), 0.1 / 17))
    log_probabilities[np.arange(len(truth)), classes] = np.log(0.9)
    return Predicted("made", "", photos, truth, log_probabilities)


def test_reliability_is_given_before_and_after_the_temperature() -> None:
    one = predicted(40, np.arange(120) % 2 == 0)  # says .9, and is right half of the time
    fitted = fit_calibration(np.exp(one.log_probabilities), one.truth, "the same photos")
    assert fitted is not None
    assert calibration(one).error[0] == pytest.approx(0.4)
    assert calibration(tempered(one, fitted)).error[0] < 0.01
    page = str(sureness([one], fitted))
    assert f"temperature is {fitted.temperature:.2f}, fitted on the same photos (120 photos)" in page
    assert re.search(r"made: expected calibration error 0\.400 \[.*\] before the temperature .*, 0\.00", page)
    assert ("made, before" in page, "made, after" in page) == (True, True)
    assert "is not calibrated" in str(sureness([one], None))


def test_of_the_surest_photos_fewer_are_wrong_where_the_model_knows() -> None:
    wrong = np.arange(120) % 4 == 0
    one = predicted(40, wrong)
    classes = one.log_probabilities[wrong].argmax(axis=1)
    one.log_probabilities[wrong] = np.log(0.55 / 17)  # (n, 18): where it errs it says .45
    one.log_probabilities[wrong, classes] = np.log(0.45)
    unlimited, half, all_but_none = abstaining(one, (0.0, 0.5, 0.95))
    assert (unlimited.share[0], unlimited.errors[0]) == (1.0, 0.25)
    assert (half.share[0], half.errors[0]) == (0.75, 0.0)
    assert all_but_none.share[0] == 0
    assert np.isnan(all_but_none.errors[0])
    answered, errors = error_curve(one)
    assert (answered[-1], errors[-1]) == (1.0, 0.25)
    assert errors[:90].max() == 0
    assert (np.diff(errors[90:]) > 0).all()
    assert "Share of wrong answers over the share of photos" in str(sureness([one], None))


def test_the_holdouts_predictions_are_those_that_were_scored(judged: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = judged
    sets = sets_of(run, faces)
    (evaluation,) = holdout_evaluations(run.record())
    assert sets.holdout is not None
    assert set(sets.holdout.person) == set(faces.split.holdout)
    found = class_scores(sets.holdout, "classes").f1.value
    assert found == pytest.approx([np.nan if f1 is None else f1 for f1 in evaluation.scores["class_f1"]], nan_ok=True)
    assert sets.repeats is not None
    assert set(sets.repeats.person) == {*faces.split.train, *faces.split.validation}
    assert (sets.repeats.predicted == sets.repeats.truth).all()
    assert sets.validation is None, "nothing is predicted unless that is asked for"
    assert sets.notes == ()


def test_a_report_never_uses_the_holdout_again(judged: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = judged
    before = run.record_file.read_bytes(), holdout_uses(run)
    write_report(run, ReportOptions(faces.cache, predicts=True))
    assert (run.record_file.read_bytes(), holdout_uses(run)) == before
    # A bundle that was not scored there is not asked for those people.
    record = run.record()
    run.write_record(record.changed(holdout=None))
    try:
        assert sets_of(run, faces, predicts=True).holdout is None
    finally:
        run.write_record(record)


def test_an_earlier_versions_holdout_is_predicted_again_by_the_bundle_that_was_scored(
    judged: tuple[SearchRun, FaceDataset],
) -> None:
    run, faces = judged
    kept = sets_of(run, faces).holdout
    assert kept is not None
    (folder,) = (run.path / "predictions").glob("holdout-*")
    (folder / "answers.npz").unlink()
    assert sets_of(run, faces).holdout is None
    again = sets_of(run, faces, predicts=True).holdout
    assert again is not None
    assert (again.log_probabilities == kept.log_probabilities).all()


def test_a_damaged_file_costs_its_own_figures_alone(judged: tuple[SearchRun, FaceDataset]) -> None:
    run, faces = judged
    (file,) = (run.path / "predictions").glob("holdout-*/answers.npz")
    content = file.read_bytes()
    file.write_bytes(content[:100])
    try:
        sets = sets_of(run, faces)
    finally:
        file.write_bytes(content)
    assert sets.holdout is None
    assert sets.repeats is not None
    assert "Predictions for the holdout people are missing." in sets.notes[0]


def test_a_group_that_fares_worse_is_named_and_a_small_one_is_not_judged() -> None:
    old = np.repeat(np.arange(40) >= 20, 3)
    found = predicted(40, old & (np.arange(120) % 4 > 0))
    by_age = {one.name: one for one in group_scores(found, groupings(found, [], pd.DataFrame())[1])}
    assert by_age["over 59"].verdict == "more errors"
    assert by_age["under 30"].verdict == "fewer errors"
    assert by_age["over 59"].errors[0][0] == pytest.approx(0.75)
    assert by_age["over 59"].more[0] == pytest.approx(0.75)
    assert by_age["under 30"].errors[0] == (0, 0, 0)
    by_mask = group_scores(found, groupings(found, [], pd.DataFrame())[2])
    assert {one.verdict for one in by_mask} == {"can't tell"}
    few = predicted(8, np.zeros(24, bool))
    assert {one.verdict for one in group_scores(few, groupings(few, [], pd.DataFrame())[1])} == {TOO_FEW}


def test_intervals_are_over_people_not_photos() -> None:
    """Three photos that are right or wrong together say no more than one."""
    wrong = np.arange(60) % 3 == 0
    alike = predicted(60, np.repeat(wrong, 3))
    interval = group_scores(alike, groupings(alike, [], pd.DataFrame())[0])[0].errors[0]
    sd = np.sqrt(wrong.mean() * (1 - wrong.mean()) / 60)
    assert interval[2] - interval[1] == pytest.approx(2 * 2.0 * sd, rel=0.15)


def test_confusion_and_calibration_are_counts() -> None:
    found = predicted(40, np.arange(120) % 2 == 0)
    assert confusion(found, "classes").sum() == 120
    assert np.trace(confusion(found, "classes")) == 60
    assert confusion(found, "gender2")[0].tolist() == [90, 30], "a wrong class of old men is one of young women"
    one = calibration(found)
    assert one.photos.tolist() == [120]
    assert one.confidence.tolist() == pytest.approx([0.9])
    assert one.error[0] == pytest.approx(0.4)


@pytest.mark.slow
def test_a_column_of_the_peoples_table_groups_as_well(judged: tuple[SearchRun, FaceDataset], tmp_path: Path) -> None:
    run, faces = judged
    write_report(run, ReportOptions(faces.cache, group_by=("race", "age")), tmp_path / "by.html")
    text = (tmp_path / "by.html").read_text()
    assert "race: Drawn" in text
    assert "age: " in text
    with pytest.raises(CallError, match="--group-by eyes: there is no such column. The people's table has race"):
        write_report(run, ReportOptions(faces.cache, group_by=("eyes",)))


def test_further_columns_of_train_csv_group_too(judged: tuple[SearchRun, FaceDataset], tmp_path: Path) -> None:
    run, faces = judged
    first, second, *_ = sorted(set(faces.photos["person"]))
    (tmp_path / "train").mkdir()
    lines = (
        "id,gender,race,age,path,glasses,height_cm",
        f"1,male,x,20,{first},yes,180",
        f"2,male,x,20,{second},no,170",
    )
    (tmp_path / "train" / "train.csv").write_text("\n".join(lines))
    people = people_table(faces, tmp_path)
    assert list(people.columns) == ["race", "gender", "age", "glasses", "height_cm"]
    assert people.loc[[first, second], "height_cm"].tolist() == ["180", "170"]
    sets = sets_of(run, faces)
    assert sets.repeats is not None
    *_, glasses = groupings(sets.repeats, ["glasses"], people)
    assert glasses.order == ("no", "not stated", "yes")
    numbers = pd.DataFrame({"cm": [float("nan"), *range(150, 189)]}, index=[f"p{at:03d}" for at in range(40)])
    made = predicted(40, np.zeros(120, bool))
    *_, height = groupings(made, ["cm"], numbers)
    assert len(height.order) == 5
    assert (height.values == "not stated").sum() == 3


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_in_a_browser(judged: tuple[SearchRun, FaceDataset], tmp_path: Path) -> None:
    run, faces = judged
    file = write_report(run, ReportOptions(faces.cache, predicts=True), tmp_path / "page.html")
    assert file.stat().st_size < 5e6
    for size, dark in ((PHONE, True), (DESK, False)):
        with opened(file, size, dark=dark) as page:
            assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
            plots = page.evaluate(
                "[...document.querySelectorAll('svg')].map(svg => svg.querySelectorAll('path').length)"
            )
            assert len(plots) > 12
            assert min(plots) > 0
            assert page.evaluate("document.querySelectorAll('svg title').length") > 50
            ids = page.evaluate("[...document.querySelectorAll('[id]')].map(element => element.id)")
            assert len(ids) == len(set(ids))
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.getAttribute('href')") == "#the-choice"
            page.keyboard.press("Enter")
            page.wait_for_url("**#the-choice")
            folded = page.locator("summary", has_text="holdout, as a table")
            folded.focus()
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.parentElement.open")
            ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(18, 23, 27)") == dark
            assert serious_findings(page) == []
