"""One fit of a comparison and all that read it, in this process: a reading that fails, one that is added, and kills in
the middle."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.errors import OutOfMemory
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit import Fit
from maskcls.training.presets import base_recipe
from maskcls.training.result import EpochResult
from tests.conftest import DemoFaces
from tune.compare import table as compare_table
from tune.compare.arms import PlannedComparison, plan_comparison, repeat_splits
from tune.compare.fits import fit_and_evaluate, is_evaluated, requests
from tune.compare.results import Results, read_results
from tune.compare.studies import Comparison, Variant
from tune.compare.treatments import Treatment
from tune.fitting.pool import to_do, work_on
from tune.fitting.request import FitRequest
from tune.fitting.worker import FitOutcome
from tune.runs.folder import ComparisonRun
from tune.states import TrialState

HERE = __name__
SMALL = {"image_size": 32, "backbone": "test_resnet", "batch_size": 64, "epochs": 3, "weights": "none"}


class Fours(Treatment):
    """Answers class 4 to every photo."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        return np.full(len(rows), 4)


class LastEpoch(Treatment):
    """Answers with the last epoch, picking each on the way."""

    def better(self, new: EpochResult, best: EpochResult) -> bool:
        return True


class Fails(Treatment):
    """Fails when it answers."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        raise KeyError("a defect of its own")


class FailsInTheMiddle(LastEpoch):
    """Fails after the second epoch."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        if len(fit.history) == 2:
            raise KeyError("a defect of its own")
        return super().predict(models, fit, faces, rows)


class Short(Treatment):
    """Answers too few photos."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        return np.full(len(rows) - 1, 4)


class NeedsMemory(Treatment):
    """Finds no memory."""

    def predict(self, models: Any, fit: Fit, faces: FaceDataset, rows: Any) -> Any:
        raise OutOfMemory("Tried to allocate 2 GiB.")


@pytest.fixture
def run(tmp_path: Path, demo_faces: DemoFaces, demo_cache: Path) -> ComparisonRun:
    made = ComparisonRun.create(tmp_path, "one")
    prepare(demo_faces(24, 4), cache=CacheOptions(demo_cache)).save(made.data)
    return made


class Compared:
    """A run whose comparison reads the plain fit of one repeat with these treatments."""

    def __init__(self, run: ComparisonRun, cache: Path, *readings: type[Treatment]) -> None:
        self._run, self._faces = run, FaceDataset.load(run.data, CacheOptions(cache))
        self._work = functools.partial(fit_and_evaluate, cache=CacheOptions(cache, 1.0))
        variants = tuple(Variant(reading.__name__, treatment=f"{HERE}:{reading.__name__}") for reading in readings)
        base = base_recipe("contest-2021", "cpu", SMALL, demo=True)
        self.comparisons: list[PlannedComparison] = [plan_comparison(Comparison("one", variants=variants), base, {})[0]]
        self._splits = repeat_splits(run, self._faces, 1, 2, 0)
        asked = requests(run, self.comparisons, self._splits, self._faces.digest, folds=2, cpus=1, gpus=0.0)
        self.request: FitRequest = asked[0]

    def fitted(self) -> FitOutcome:
        return work_on(self.request, self._work)

    def stopped(self, after: int) -> None:
        """As a kill leaves it that comes after so many epochs."""
        fit = self._work(self.request)
        for _ in range(after):
            next(fit)
        fit.close()

    @property
    def is_done(self) -> bool:
        return not to_do([self.request], is_evaluated)

    def results(self) -> Results:
        return read_results(self._run, self.comparisons, self._splits, self._faces)

    def table(self) -> str:
        return compare_table.to_csv(self.results())

    def answers(self) -> pd.DataFrame:
        return pd.read_csv(self.request.folder / "answers.csv", index_col="key")


@pytest.mark.usefixtures("ray_cluster")
def test_a_reading_that_fails_leaves_the_others_their_answers(run: ComparisonRun, demo_cache: Path) -> None:
    one = Compared(run, demo_cache, Fours, Fails, FailsInTheMiddle, Short, LastEpoch)
    ended = one.fitted()
    assert ended.state == TrialState.COMPLETE
    assert f"Reading '{HERE}:Fails' failed: KeyError: 'a defect of its own'" in ended.message
    assert "KeyError: 'a defect of its own'" in (one.request.folder / "error.txt").read_text()
    readings = json.loads((one.request.folder / "result.json").read_text())["readings"]
    assert (
        readings[f"{HERE}:Fails"]
        == readings[f"{HERE}:FailsInTheMiddle"]
        == {"message": "KeyError: 'a defect of its own'"}
    )
    assert readings[f"{HERE}:Short"]["message"].startswith("ValueError: A reading must answer every tested photo")
    assert list(one.answers()) == ["truth", "answer", f"answer:{HERE}:Fours", f"answer:{HERE}:LastEpoch"]
    rows = {row.variant: row for row in one.results().rows}
    assert {name: row.n for name, row in rows.items()} == {
        "base": 1,
        "Fours": 1,
        "Fails": 0,
        "FailsInTheMiddle": 0,
        "Short": 0,
        "LastEpoch": 1,
    }
    assert rows["Fails"].states == {TrialState.FAILED: 1}
    assert compare_table.verdict_text(rows["Fails"]) == TrialState.FAILED
    assert one.is_done, "it would fail again"


@pytest.mark.usefixtures("ray_cluster")
def test_a_picking_reading_that_fails_and_is_killed_later_still_says_why(run: ComparisonRun, demo_cache: Path) -> None:
    one = Compared(run, demo_cache, FailsInTheMiddle)
    one.stopped(after=2)
    assert one.fitted().message == f"Reading '{HERE}:FailsInTheMiddle' failed: KeyError: 'a defect of its own'"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_reading_that_finds_no_memory_is_tried_again(
    run: ComparisonRun, demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Compared(run, demo_cache, NeedsMemory)
    assert one.fitted().state == TrialState.OUT_OF_MEMORY
    assert not one.is_done
    monkeypatch.setattr(f"{HERE}.NeedsMemory.predict", Fours.predict)
    monkeypatch.setattr(Fit, "_next_epoch", None)
    assert one.fitted().state == TrialState.COMPLETE, "without an epoch trained again"
    assert one.is_done


@pytest.mark.usefixtures("ray_cluster")
def test_a_picking_reading_that_is_killed_answers_as_an_unbroken_one(
    run: ComparisonRun, demo_cache: Path, tmp_path: Path
) -> None:
    other = ComparisonRun.create(tmp_path, "unbroken")
    FaceDataset.load(run.data, CacheOptions(demo_cache)).save(other.data)
    unbroken, one = (Compared(where, demo_cache, LastEpoch) for where in (other, run))
    assert unbroken.fitted().state == TrialState.COMPLETE

    one.stopped(after=2)
    state = one.request.checkpoint_folder
    assert sorted(file.name for file in state.glob("reading-*")) == ["reading-0-1.json", "reading-0-2.json"]
    (state / "reading-0-3.json").write_text(
        "[0]"
    )  # of an attempt that was killed before the state said that the epoch is done
    assert one.fitted().state == TrialState.COMPLETE
    pd.testing.assert_frame_equal(one.answers(), unbroken.answers())
    assert one.table().splitlines()[2].split(",")[:9] == unbroken.table().splitlines()[2].split(",")[:9]


@pytest.mark.usefixtures("ray_cluster")
def test_only_readings_that_pick_need_the_epochs_from_the_first_on(
    run: ComparisonRun, demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []
    next_epoch = Fit._next_epoch

    def counted(fit: Fit) -> EpochResult:
        trained.append(len(fit.history) + 1)
        return next_epoch(fit)

    monkeypatch.setattr(Fit, "_next_epoch", counted)
    Compared(run, demo_cache).stopped(after=1)
    Compared(run, demo_cache, Fours).stopped(after=2)
    assert trained == [1, 2], "goes on"
    assert Compared(run, demo_cache, Fours, LastEpoch).fitted().state == TrialState.COMPLETE
    assert trained == [1, 2, 1, 2, 3], "begins again"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_an_added_reading_whose_training_is_interrupted_leaves_the_table_as_it_was(
    run: ComparisonRun, demo_cache: Path
) -> None:
    before = Compared(run, demo_cache, Fours)
    before.fitted()
    reported, files = (
        before.table(),
        {name: (before.request.folder / name).read_bytes() for name in ("result.json", "answers.csv")},
    )
    after = Compared(run, demo_cache, Fours, LastEpoch)
    assert after.request.folder == before.request.folder
    assert not after.is_done
    after.stopped(after=2)
    assert {name: (before.request.folder / name).read_bytes() for name in files} == files
    assert before.table() == reported
    assert {row.variant: dict(row.states) for row in after.results().rows}["LastEpoch"] == {"not done": 1}
    assert after.fitted().state == TrialState.COMPLETE
    assert after.is_done
    assert [line.rsplit(",", 2)[0] for line in after.table().splitlines()[:3]] == [
        line.rsplit(",", 2)[0] for line in reported.splitlines()
    ]
