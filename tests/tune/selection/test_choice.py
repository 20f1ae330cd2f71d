"""The choice from end to end: repeats on Ray, what search.json and the terminal say of it, and the one look at the
holdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.training.fit import Fit
from maskcls.training.fit_data import FitData
from tests.tune.selection.small_run import BASE, small_run, two_trials
from tune.fitting.pool import run_fits
from tune.report.choice import sections
from tune.runs.folder import SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.stopping import Reason
from tune.runs.study import Record, records
from tune.selection import choice
from tune.selection.choice import choose, confirm, fits_to_do, is_made
from tune.selection.export import export_trial, export_winner
from tune.selection.finalists import Design, RepeatBy
from tune.selection.record import read_choice

DESIGN = Design(2, 2)


def chosen_by(
    run: SearchRun, trials: list[Record], faces: FaceDataset, design: Design, budget_s: float | None = None
) -> choice.Choice:
    cache = faces.cache
    return choose(run, trials, faces, design, parallel=1, cpus=1, gpus=0.0, cache=cache, budget_s=budget_s, plain=True)


def train(run: SearchRun, trial: Record, faces: FaceDataset) -> None:
    """What the search had left of a trial."""
    recipe = BASE.override({**trial.overrides, "epochs": 1})
    fit = Fit(recipe, FitData.of(faces, recipe))
    list(fit.epochs())
    fit.save(run.trial(trial.trial_id))


@pytest.mark.usefixtures("ray_cluster")
def test_a_choice_from_the_repeats_to_the_holdout(
    tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    trials = two_trials(run)

    chosen = chosen_by(run, trials, faces, DESIGN, budget_s=0.0)
    assert "Trained again: the best 2 trials, with 2 folds each; 5 fits to do.\n" in capsys.readouterr().err
    assert (chosen.outcome.reason, chosen.outcome.remaining, chosen.winner, chosen.is_final) == (
        Reason.TIME_UP,
        4,
        None,
        False,
    )
    assert choice.summary(run) == [
        "No repeat of a finalist is complete, so the best trial is chosen by validation alone.",
        *(f"Trial {trial}, repeat {number}: not done" for trial in ("0000", "0001") for number in (1, 2)),
        "Trial 0001, stopped early, then trained to its end: not done",
    ]
    assert (chosen.others.reason, chosen.others.remaining) == (Reason.TIME_UP, 1)
    assert "The best 2 trials by validation are to be trained again 2 times, each repeat" in "".join(
        sections(read_choice(run.record()))
    )

    assert len(fits_to_do(run, trials, faces, DESIGN)) == 5
    chosen = chosen_by(run, trials, faces, DESIGN)
    assert (chosen.outcome.reason, chosen.outcome.remaining, chosen.is_final) == (Reason.FINISHED, 0, True)
    assert (chosen.others.reason, chosen.others.remaining) == (Reason.FINISHED, 0)
    assert [finalist.unfinished for finalist in chosen.finalists] == ["", ""]
    assert [finalist.to_end is None for finalist in chosen.finalists] == [True, False]
    best = chosen.winner
    assert best is not None
    assert best.mean == max(finalist.mean for finalist in chosen.finalists)
    recorded = json.loads(run.search_file.read_text())["choice"]
    assert recorded["design"] == {"finalists": 2, "repeats": 2, "by": "folds", "folds": 0}
    assert [one["trial"] for one in recorded["finalists"]] == ["0000", "0001"]
    assert [[repeat["f1"] for repeat in one["repeats"]] for one in recorded["finalists"]] == [
        [repeat.f1 for repeat in finalist.repeats] for finalist in chosen.finalists
    ]
    assert (recorded["winner"], recorded["mean"], recorded["spread"], recorded["repeats"]) == (
        best.trial_id,
        best.mean,
        best.spread,
        2,
    )
    assert (recorded["holdout"], recorded["optimism"]) == (None, None)
    assert not is_made(run, DESIGN)

    monkeypatch.setattr("ray.remote", None)  # nothing is left to do, so nothing is run
    assert fits_to_do(run, trials, faces, DESIGN) == []
    capsys.readouterr()
    again = chosen_by(run, trials, faces, DESIGN).winner
    assert capsys.readouterr().err == ""
    assert again is not None
    assert (again.trial_id, again.mean) == (best.trial_id, best.mean)
    _confirmed(run, faces, chosen, trials)


def _confirmed(run: SearchRun, faces: FaceDataset, chosen: choice.Choice, trials: list[Record]) -> None:
    best = chosen.winner
    assert best is not None
    for trial in trials:
        train(run, trial, faces)
    export_winner(run, best)
    found = confirm(run, faces, chosen, run.best)
    recorded = json.loads(run.search_file.read_text())["choice"]
    assert recorded["holdout"]["f1"] == found.f1
    assert recorded["optimism"] == best.model_f1 - found.f1
    assert is_made(run, DESIGN)
    assert not is_made(run, Design(2, 3))
    assert not is_made(run, Design(1, 2))
    assert not is_made(run, Design(3, 2))
    assert is_made(run, Design(3, 2), at_most=True), "the time had room for two"
    assert not is_made(run, Design(2, 3), at_most=True), "two of three folds are others than two"
    people = len(faces.split.holdout)
    said = choice.summary(run)
    assert said[0] == (
        f"Winner: trial {best.trial_id}, mean of 2 repeats {best.mean:.4f} +- {best.spread:.4f} "
        f"(validation {best.model_f1:.4f})."
    )
    assert said[-3:] == [
        f"Holdout: {found.f1:.4f} [{found.low:.4f}, {found.high:.4f}], {people} people.",
        f"Optimism of the search: {best.model_f1 - found.f1:+.4f} (the winner's validation minus holdout).",
        "The holdout has been used 1 time.",
    ]
    assert all(len(line) <= 80 for line in said)

    export_winner(run, best)
    assert confirm(run, faces, chosen, run.best) == found
    assert len(holdout_evaluations(run.record())) == 1, "the same bundle tells nobody anything new"
    other = next(trial.trial_id for trial in records(run) if trial.trial_id != best.trial_id)
    export_trial(run, other, run.path / "other")
    confirm(run, faces, chosen, run.path / "other")
    assert choice.summary(run)[-1] == "The holdout has been used 2 times: the best of those scores is too high again."
    assert json.loads(run.search_file.read_text())["call"] == {}, "the rest of search.json stays"


@pytest.mark.usefixtures("ray_cluster")
def test_a_choice_among_more_goes_on_from_what_is_done(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    trials = two_trials(run)
    first = chosen_by(run, trials, faces, Design(1, 1, RepeatBy.SEEDS))
    (alone,) = first.finalists
    assert choice.summary(run) == [f"Winner: trial 0000, one repeat {alone.mean:.4f} (validation 0.5000)."]
    begun: list[str] = []

    def counted(requests: list, work: object, **how: object) -> object:
        begun.extend(request.label for request in fits_to_do(run, trials, faces, Design(2, 2, RepeatBy.SEEDS)))
        return run_fits(requests, work, **how)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tune.selection.choice.run_fits", counted)
        more = chosen_by(run, trials, faces, Design(2, 2, RepeatBy.SEEDS))
    repeats = ["trial 0001, repeat 1 of 2", "trial 0000, repeat 2 of 2", "trial 0001, repeat 2 of 2"]
    assert begun == [*repeats, "trial 0001, to its end"]
    assert more.finalists[0].repeats[0].f1 == alone.repeats[0].f1
    assert [len(finalist.repeats) for finalist in more.finalists] == [2, 2]


def test_a_run_without_finalists_says_nothing(tmp_path: Path) -> None:
    assert choice.summary(SearchRun.create(tmp_path, "none")) == []
