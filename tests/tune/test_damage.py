"""Every file of a search's run, damaged at random: whoever reads it goes on or says what is wrong, and never hangs."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.serving.export import Trained
from maskcls.serving.holdout_uses import HoldoutUse, note_uses
from maskcls.stores.cache_options import CacheOptions
from maskcls.training import checkpoint
from maskcls.training.checkpoint_files import STATE_FILE
from maskcls.training.conditions import Conditions, note
from maskcls.training.metrics import Scores
from maskcls.training.result import EpochResult
from tests.conftest import DemoFaces, new_bundle
from tests.damaging import DAMAGE, damage, refused_or_done
from tests.tune.answered_run import let_answer, note_data, outvoting
from tests.tune.made_run import made_run
from tune.dashboard.details import of_run, of_trial
from tune.export import choose
from tune.fitting.failures import read_end
from tune.fitting.reproduction import RecordedTrial
from tune.report.page import write_report
from tune.runs import leaderboard, study
from tune.runs.folder import SearchRun
from tune.runs.holdout_uses import holdout_uses
from tune.search.options import SearchOptions
from tune.selection.choice import is_made, summary
from tune.selection.export import complete_states
from tune.selection.finalists import Design, read_finalists
from tune.selection.record import read_choice
from tune.upkeep.inventory import parts_of, summaries
from tune.upkeep.pruning import prunable
from tune.upkeep.repair import check_trials, repair

RECIPE = Recipe().override({"backbone": "test_resnet", "weights": "none", "image_size": 32, "frozen_stages": 0})
DESIGN = Design(finalists=2, repeats=2)
FILES = (
    *("search.json", "study.journal", "leaderboard.csv", "data/photos.csv", "data/split.json", "best/bundle.json"),
    *("trials/0000/recipe.json", "trials/0000/epochs.jsonl", "trials/0000/hardware.json", "trials/0000/state.pt"),
    *("trials/0000/best-2.safetensors", "trials/0001/best-2.safetensors", "trials/0006/epochs.jsonl"),
    *("trials/0007/error.txt", "trials/0007/ended.json", "../holdout-uses.jsonl"),
    *("finalists/*/result.json", "finalists/*/answers.npz", "finalists/splits/*.json"),
)


def reads_everything(run: SearchRun, place: Path) -> None:
    """What `runs list` and `runs show`, the leaderboard and the dashboard read."""
    for one in summaries(run.path.parent):
        assert one.name
    parts_of(run)


def opens_for_a_resume(run: SearchRun, place: Path) -> None:
    found = SearchRun.open("made", run.path.parent)
    options = SearchOptions(resume="made", runs=run.path.parent, trials=20).resumed(found)
    with found.driving():
        check_trials(found)
        trials = study.records(found)
        leaderboard.write(found, trials)
        faces = FaceDataset.load(found.data, CacheOptions(place))
        is_made(found, DESIGN)
        read_finalists(found, trials, faces, DESIGN)
        summary(found)
        found.write_record(found.record().changed(call=options.to_record()))


def exports(run: SearchRun, place: Path) -> None:
    chosen = choose(run, study.records(run), "0")
    assert chosen.trial_id == "0000"
    for trial in ("0000", "0001"):
        recipe, result, moving = checkpoint.load_best(run.trial(trial))
        assert result.epoch == 2
        predicted = checkpoint.best_predictions(run.trial(trial))
        assert predicted is not None
        assert predicted[0] == result
        new_bundle(place / trial, Trained(recipe, complete_states(recipe, moving)))


def resumes_a_fit(run: SearchRun, place: Path) -> None:
    checkpoint.load(run.trial("0000"), RECIPE, "d" * 12)


def reproduces(run: SearchRun, place: Path) -> None:
    assert RecordedTrial.open(str(run.path / "0000")).trial_id == "0000"


def shows_the_dashboard(run: SearchRun, place: Path) -> None:
    choice = read_choice(run.record())
    of_run(run, choice)
    for trial in study.in_memory(run).trials:
        of_trial(trial, choice)


def counts_uses_of_the_holdout(run: SearchRun, place: Path) -> None:
    holdout_uses(run)
    with suppress(OSError):  # whoever notes one says then that it is not counted
        note_uses(run.path.parent, [HoldoutUse("d", "s", "0" * 12, "made", "2030")])


def prunes(run: SearchRun, place: Path) -> None:
    prunable(run, 1)


def repairs(run: SearchRun, place: Path) -> None:
    repair(run)


def repairs_a_lost_journal(run: SearchRun, place: Path) -> None:
    with suppress(OSError):
        run.journal.unlink()
    repair(run)


def takes_a_fit_over(run: SearchRun, place: Path) -> None:
    read_end(run.trial("0007"))


def reports(run: SearchRun, place: Path) -> None:
    write_report(run)


READERS: tuple[Callable[[SearchRun, Path], None], ...] = (
    *(reads_everything, opens_for_a_resume, exports, resumes_a_fit, reproduces, shows_the_dashboard),
    *(counts_uses_of_the_holdout, prunes, repairs, repairs_a_lost_journal, takes_a_fit_over, reports),
)
ABOUT: Mapping[str, tuple[Callable[[SearchRun, Path], None], ...]] = {
    "state.pt": (exports, resumes_a_fit),
    "best-2.safetensors": (exports, resumes_a_fit),
    "hardware.json": (reproduces,),
    "recipe.json": (reproduces, repairs_a_lost_journal),
    "ended.json": (takes_a_fit_over,),
    "holdout-uses.jsonl": (counts_uses_of_the_holdout,),
    "leaderboard.csv": (repairs_a_lost_journal,),
    "answers.npz": (opens_for_a_resume, reports),
    "result.json": (opens_for_a_resume, reports),
}
"""Readers of a file that few read; all others are read by most."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, demo_faces: DemoFaces) -> SearchRun:
    return make(tmp_path_factory.mktemp("runs"), demo_faces(24, 4), tmp_path_factory.mktemp("cache"))


def make(runs: Path, data: Path, cache: Path) -> SearchRun:
    """A run with every kind of file: trials and curves by a formula, repeats that answered, one trial's checkpoint."""
    run = made_run(runs, 8, message="ValueError: no")
    faces = prepare(data, cache=CacheOptions(cache))
    faces.save(run.data)
    note_data(run, faces)
    let_answer(run, faces, DESIGN, [0, 1], outvoting)
    leaderboard.write(run, study.records(run))
    (model,) = build_models(RECIPE, pretrained=False)
    trial, state = run.trial("0000"), {name: one.contiguous() for name, one in model.trainable_state().items()}
    scores = Scores(9, 0.5, 0.5, {"mask3": 0.5, "gender2": 0.5, "age3": 0.5}, (0.5,) * 18)
    history = [EpochResult(epoch, 1.0, 0.5, scores, 9, 1.0, 9.0) for epoch in (1, 2)]
    parts: Any = {"best": [state], "models": [state], "averages": [], "optimizers": [{"state": {}, "param_groups": []}]}
    parts["best_log_probs"] = np.log(np.full((len(faces.rows("validation")), 18), 1 / 18))
    checkpoint.save(trial, recipe=RECIPE, data_digest="d" * 12, history=history, best_epoch=2, **parts)
    # Of a trial that has ended, the search keeps the best weights alone.
    checkpoint.save(run.trial("0001"), recipe=RECIPE, data_digest="d" * 12, history=history, best_epoch=2, **parts)
    (run.trial("0001") / STATE_FILE).unlink()
    note(trial, Conditions.now(RECIPE, "d" * 12, device="cpu", threads=1, loader_workers=0), done=0, epochs=5)
    failed = run.trial("0007")
    (failed / "error.txt").write_text("Traceback (most recent call last):\n  a.py\nValueError: no\n")
    (failed / "ended.json").write_text(json.dumps({"state": "failed", "message": "CUDA error"}))
    new_bundle(run.best, Trained(RECIPE, [model.state_dict()]))
    note_uses(run.path.parent, [HoldoutUse(faces.digest, faces.split.digest, "f" * 12, "other", "2029")])
    run.write_record(run.record())
    return run


def check(made: SearchRun, pattern: str, how: tuple[str, int], reader: int, is_noted: bool) -> None:
    """Damage one file of a copy of the run, and let one reader read it.

    Args:
        is_noted: whether search.json notes how far the journal had come, as in runs of today.
    """
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(made.path.parent, runs := Path(place) / "runs")
        run = SearchRun(runs / "made")
        if not is_noted:
            record = json.loads(run.record_file.read_text())
            del record["journal"]
            run.record_file.write_text(json.dumps(record))
        file = sorted(run.path.glob(pattern))[0]
        damage(file, how)
        read = (of_file := ABOUT.get(file.name, READERS))[reader % len(of_file)]
        with refused_or_done():
            read(run, Path(place))


CASES = {
    "pattern": st.sampled_from(FILES),
    "how": DAMAGE,
    "reader": st.integers(0, len(READERS) - 1),
    "is_noted": st.booleans(),
}
UNDISTURBED = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large)


@pytest.mark.slow
@given(**CASES)
@example("study.journal", ("a named pipe", 0), 1, True)
@example("trials/0000/state.pt", ("a bit flipped", 0), 0, True)
@settings(max_examples=50, deadline=None, suppress_health_check=UNDISTURBED, derandomize=True)
def test_a_damaged_file_costs_a_message(
    made: SearchRun, pattern: str, how: tuple[str, int], reader: int, is_noted: bool
) -> None:
    check(made, pattern, how, reader, is_noted)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(**CASES)
@settings(max_examples=2000, deadline=None, suppress_health_check=UNDISTURBED)
def test_two_thousand_damaged_files_cost_a_message_each(
    made: SearchRun, pattern: str, how: tuple[str, int], reader: int, is_noted: bool
) -> None:
    check(made, pattern, how, reader, is_noted)


@pytest.mark.slow
def test_the_run_is_whole_and_every_reader_reads_it(made: SearchRun, tmp_path: Path) -> None:
    """Else the tests above would pass because nothing is read."""
    shutil.copytree(made.path.parent, tmp_path / "runs")
    run = SearchRun(tmp_path / "runs" / "made")
    for number, read in enumerate(READERS):
        (tmp_path / str(number)).mkdir()
        read(run, tmp_path / str(number))
