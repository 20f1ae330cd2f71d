"""Which trials are trained again, on whom, and which of them wins."""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from maskcls.data.splits import Split
from maskcls.errors import CallError, DataError
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.checkpoint_files import STATE_FILE, weights_alone
from maskcls.training.conditions import Conditions, note
from maskcls.training.metrics import scores
from tests.tune.selection.small_run import add_trial, fitted, recorded, small_run, stopped, two_trials
from tune.fitting.curve import read_curve
from tune.fitting.pool import to_do
from tune.fitting.request import FitRequest
from tune.fitting.result import FitResult
from tune.runs.folder import SearchRun
from tune.selection.finalists import (
    Design,
    Finalist,
    RepeatBy,
    RepeatResult,
    pick_winner,
    read_finalists,
    repeat_requests,
    top_trials,
)
from tune.selection.fits import repeat_fit
from tune.states import TrialState

Run = tuple[SearchRun, FaceDataset]


@pytest.fixture
def made(tmp_path: Path, demo_cache: Path) -> Run:
    return small_run(tmp_path, demo_cache)


def asked(made: Run, design: Design) -> list[FitRequest]:
    run, faces = made
    return repeat_requests(run, two_trials(run), faces, design, cpus=1, gpus=0.0)


def finalist(trial_id: str, f1s: list[float], validation_f1: float = 0.5) -> Finalist:
    nothing = ((), np.zeros(0, np.int64), np.zeros((0, 18), np.float32), np.zeros(0, np.int64))
    return Finalist(
        trial_id,
        validation_f1,
        3,
        {},
        tuple(RepeatResult(number, number + 1, 2, f1, *nothing) for number, f1 in enumerate(f1s)),
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 3), "--finalists must be at least 1, but got 0"),
        ((3, 0), "--repeats must be at least 1, but got 0"),
        ((3, 1), "--repeats 1 makes no folds"),
        ((3, 3, "photos"), "repeated by folds or by seeds, but got 'photos'"),
    ],
)
def test_what_is_no_design_is_refused(values: tuple[int, ...], message: str) -> None:
    with pytest.raises(CallError, match=message):
        Design(*values)  # type: ignore[arg-type]
    assert Design(3, 1, RepeatBy.SEEDS).repeats == 1


def test_the_best_trials_of_different_recipes_are_finalists() -> None:
    trials = [
        recorded("0000", 0.20),
        recorded("0001", 0.60, lr_head=1e-2),
        recorded("0002", 0.60, lr_head=1e-2),
        recorded("0003", 0.55, state=TrialState.STOPPED_EARLY, lr_head=2e-2),
        recorded("0004", 0.90, state=TrialState.DIVERGED, lr_head=3e-2),
        recorded("0005", None, state=TrialState.STOPPED_EARLY, lr_head=4e-2),
        recorded("0006", 0.58, lr_head=1e-2, seed=5),
    ]
    assert [trial.trial_id for trial in top_trials(trials, 9)] == ["0001", "0003", "0000"]
    assert [trial.trial_id for trial in top_trials(trials, 2)] == ["0001", "0003"]


def test_folds_share_the_train_and_validation_people_and_leave_the_holdout_alone(made: Run) -> None:
    run, faces = made
    fits = asked(made, Design(2, 3))
    assert [fit.label for fit in fits[:3]] == [
        "trial 0000, repeat 1 of 3",
        "trial 0001, repeat 1 of 3",
        "trial 0000, repeat 2 of 3",
    ]
    assert len({fit.trial_id for fit in fits}) == 6
    assert [fit.recipe["seed"] for fit in fits] == [1, 1, 2, 2, 3, 3]
    folds = [Split.load(run.path / fit.settings["split"]) for fit in fits[::2]]
    known = {*faces.split.train, *faces.split.validation}
    assert faces.split.holdout
    for fold in folds:
        assert {*fold.train, *fold.validation} == known
        assert not set(fold.train) & set(fold.validation)
        assert fold.holdout == faces.split.holdout
    assert sorted(person for fold in folds for person in fold.validation) == sorted(known)


def test_folds_are_drawn_once(made: Run) -> None:
    run, faces = made
    fits = asked(made, Design(1, 2))
    file = run.path / fits[0].settings["split"]
    assert file == run.path / "finalists" / "splits" / "folds-2-0.json"
    content, at = file.read_text(), file.stat().st_mtime_ns
    again = repeat_requests(run, [recorded("0000", 0.5, lr_head=1e-2)], faces, Design(1, 2), cpus=1, gpus=0.0)
    assert [fit.trial_id for fit in again] == [fit.trial_id for fit in fits]
    assert file.stat().st_mtime_ns == at
    file.write_text(content[:-9])
    with pytest.raises(DataError, match="folds-2-0.json can.t be read: The split is not JSON"):
        asked(made, Design(1, 2))


def test_more_folds_than_people_are_refused(made: Run) -> None:
    with pytest.raises(CallError, match="`2 <= folds <= people` must hold, but got 99 folds"):
        asked(made, Design(1, 99))


def test_repeats_by_seeds_keep_the_own_split_and_skip_the_own_seed(made: Run) -> None:
    run, faces = made
    trials = [recorded("0000", 0.5), recorded("0001", 0.4, lr_head=1e-2)]

    def of(trials: list, design: Design) -> list[FitRequest]:
        return repeat_requests(run, trials, faces, design, cpus=1, gpus=0.0)

    fits = of(trials, Design(2, 3, RepeatBy.SEEDS))
    assert {fit.settings["split"] for fit in fits} == {"data/split.json"}
    assert [fit.recipe["seed"] for fit in fits] == [1, 1, 2, 2, 3, 3]
    assert [fit.recipe["seed"] for fit in of([recorded("0000", 0.5, seed=2)], Design(1, 3, RepeatBy.SEEDS))] == [
        1,
        3,
        4,
    ]
    larger = {fit.trial_id for fit in of([*trials, recorded("0002", 0.3, lr_head=2e-2)], Design(3, 4, RepeatBy.SEEDS))}
    assert {fit.trial_id for fit in fits} < larger, "a change of K or R keeps what is done"
    assert not larger & {fit.trial_id for fit in of(trials, Design(2, 3))}


@pytest.mark.parametrize(
    ("finalists", "chosen"),
    [
        ([finalist("0", [0.4, 0.5], 0.9), finalist("1", [0.5, 0.6])], "1"),
        ([finalist("0", [0.4, 0.6]), finalist("1", [0.5, 0.5])], "1"),  # equal means: the smaller spread
        (
            [finalist("0", [0.1 + 0.2, 0.5]), finalist("1", [0.5, 0.3], 0.6)],
            "1",
        ),  # equal but for a last bit: the validation score
        ([finalist("1", [0.4, 0.6]), finalist("0", [0.6, 0.4])], "0"),  # the earlier trial
        ([finalist("0", [0.9]), finalist("1", [0.5, 0.5]), finalist("2", [])], "1"),  # one repeat may be a lucky one
        ([finalist("0", [0.6]), finalist("1", [0.5]), finalist("2", [])], "0"),
    ],
)
def test_the_mean_decides(finalists: list[Finalist], chosen: str) -> None:
    found = pick_winner(finalists)
    assert found is not None
    assert found.trial_id == chosen


def test_without_a_complete_repeat_nobody_wins() -> None:
    assert pick_winner([finalist("0", [], 0.9)]) is None
    assert pick_winner([]) is None
    assert math.isnan(finalist("0", []).mean)
    assert math.isnan(finalist("0", [0.5]).spread)
    assert finalist("0", [0.4, 0.6]).spread == pytest.approx(math.sqrt(0.02))


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("by", RepeatBy)
def test_a_killed_repeat_answers_as_an_unbroken_one(by: RepeatBy, tmp_path: Path, demo_cache: Path) -> None:
    found = []
    for name in ("unbroken", "killed"):
        run, faces = small_run(tmp_path, demo_cache, name)
        trials = [add_trial(run, [0.5], {"lr_head": 1e-2})]
        design = Design(1, 2, by)
        request = repeat_requests(run, trials, faces, design, cpus=1, gpus=0.0)[0]
        work = functools.partial(repeat_fit, cache=CacheOptions(demo_cache, 1.0))
        if name == "killed":
            stopped(request, work, after=1)
            (waiting,) = read_finalists(run, trials, faces, design)
            assert waiting.failed == ("repeat 1: not done", "repeat 2: not done")
        assert fitted(request, work).state == TrialState.COMPLETE
        (one,) = read_finalists(run, trials, faces, design)
        assert one.failed == ("repeat 2: not done",)
        found.append(one.repeats[0])
        people = Split.load(run.path / request.settings["split"]).validation
        photos = faces.photos[faces.photos["person"].isin(people)]
        assert found[-1].keys == tuple(photos["key"])
        assert found[-1].truth.tolist() == photos["label"].tolist()
        assert weights_alone(request.checkpoint_folder), "for a bag of the winner's repeats"
        assert not (request.checkpoint_folder / STATE_FILE).exists()
    unbroken, killed = found
    assert (unbroken.f1, unbroken.best_epoch, unbroken.seed) == (killed.f1, killed.best_epoch, 1)
    assert np.array_equal(unbroken.log_probabilities, killed.log_probabilities)
    assert unbroken.log_probabilities.dtype == np.float32
    assert np.exp(unbroken.log_probabilities).sum(1) == pytest.approx(1, abs=1e-5)
    assert scores(unbroken.truth, unbroken.log_probabilities).f1 == pytest.approx(unbroken.f1, abs=1e-12)


def test_a_repeat_begins_with_the_micro_batch_that_its_trial_had_come_to(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    trials = [add_trial(run, [0.5], {"lr_head": 1e-2})]
    request = repeat_requests(run, trials, faces, Design(1, 2), cpus=1, gpus=0.0)[0]
    assert _micro_batch_of_first_epoch(request, demo_cache) is None, "a whole batch"
    recipe = Recipe.model_validate(request.recipe)
    here = Conditions.now(recipe, faces.digest, device="cpu", threads=1, loader_workers=0, micro_batch=16)
    note(run.trial(trials[0].trial_id), here, done=0, epochs=1)
    shutil.rmtree(request.checkpoint_folder)
    assert _micro_batch_of_first_epoch(request, demo_cache) == 16


def _micro_batch_of_first_epoch(request: FitRequest, cache: Path) -> int | None:
    fit = repeat_fit(request, cache=CacheOptions(cache, 1.0))
    row = next(fit)
    fit.close()
    return row.get("micro_batch")


@pytest.mark.usefixtures("ray_cluster")
def test_repeats_that_end_badly_are_named(made: Run, demo_cache: Path) -> None:
    run, faces = made
    trials = [
        recorded("0000", 0.5, lr_head=1e9, lr_body=1e9, optimizer="sgd"),
        recorded("0001", 0.4, ages_left_out="1-99"),
    ]
    design = Design(2, 2)
    work = functools.partial(repeat_fit, cache=CacheOptions(demo_cache, 1.0))
    fits = repeat_requests(run, trials, faces, design, cpus=1, gpus=0.0)
    ends = [fitted(fit, work).state for fit in fits[:2]]
    assert ends == [TrialState.DIVERGED, "failed"]
    diverges, fails = read_finalists(run, trials, faces, design)
    assert diverges.failed[0].startswith("repeat 1: diverged. ")
    assert diverges.failed[1] == "repeat 2: not done"
    assert fails.failed[0].startswith("repeat 1: failed. ")
    assert "error.txt" in fails.failed[0]
    assert len(to_do(fits)) == 3, "what diverged is done, what failed is tried again"


@pytest.mark.usefixtures("ray_cluster")
def test_damaged_predictions_are_an_error(made: Run, demo_cache: Path) -> None:
    run, faces = made
    trials = [recorded("0000", 0.5, epochs=1)]
    request = repeat_requests(run, trials, faces, Design(1, 1, RepeatBy.SEEDS), cpus=1, gpus=0.0)[0]
    fitted(request, functools.partial(repeat_fit, cache=CacheOptions(demo_cache, 1.0)))
    result = FitResult.read(request.folder)
    assert result is not None
    assert result.values["split_digest"] == faces.split.digest
    assert len(read_curve(request.folder)) == 1
    assert json.loads((request.folder / "recipe.json").read_text())["seed"] == 1
    (request.folder / "answers.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="answers.npz can't be read: .* they are made again"):
        read_finalists(run, trials, faces, Design(1, 1, RepeatBy.SEEDS))
