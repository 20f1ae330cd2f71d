"""What a search keeps of its checkpoints: the bound of --plan along 60 trials, and never less than the best whole."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from maskcls.errors import RunError
from maskcls.machine import set_threads
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.stores.cache_options import CacheOptions
from maskcls.training import checkpoint
from maskcls.training.checkpoint_files import STATE_FILE, files_of, has_weights
from maskcls.training.conditions import HARDWARE
from maskcls.training.fit import Fit, to_cpu
from maskcls.training.fit_data import FitData
from maskcls.training.metrics import Scores
from maskcls.training.result import EpochResult
from tests.tune.searches import SETTING
from tests.tune.selection.small_run import BASE, add_trial, fitted, recorded, small_run
from tests.tune.synthetic import SPACE
from tune.runs import leaderboard, study
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.search.disk import run_bytes
from tune.search.options import SearchOptions
from tune.search.plan import SearchPlan
from tune.selection.choice import Requests
from tune.selection.export import export_trial, model_of
from tune.selection.finalists import NOT_KEPT, Design, read_finalists
from tune.selection.finish import finish_request, with_end
from tune.selection.fits import finish_fit
from tune.selection.keeping import Keeper, Keeping, unneeded
from tune.states import TrialState

KEEP, FINALISTS, TRIALS = 5, 3, 60
RECIPE = BASE.override({"frozen_stages": 0, "epochs": 2})


@functools.cache
def trained() -> tuple[list[dict[str, torch.Tensor]], list[dict[str, object]]]:
    """What a fit of RECIPE saves, with the moments of its optimizer."""
    models = build_models(RECIPE, pretrained=False)
    optimizers = []
    for model in models:
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizers.append(optimizer.state_dict())
    return [to_cpu(model.trainable_state()) for model in models], optimizers


def save(folder: Path, f1: float, epochs: int) -> None:
    """A checkpoint after so many of two epochs, in its real size; the last epoch is the best."""
    models, optimizers = trained()
    history = [
        EpochResult(epoch, 1.0, f1 * epoch / epochs, Scores(10, f1, 0.5, {}, (0.5,) * 18), 10, 1.0, 10.0)
        for epoch in range(1, epochs + 1)
    ]
    checkpoint.save(
        folder,
        recipe=RECIPE,
        data_digest="d",
        history=history,
        best_epoch=epochs,
        best=models,
        best_log_probs=None,
        models=models,
        averages=[],
        optimizers=[] if epochs == RECIPE.epochs else optimizers,
    )
    (folder / HARDWARE).write_text("[]")


def taken(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def ended(number: int, f1: float) -> Record:
    """Every third is stopped early. All have recipes of their own."""
    state = TrialState.STOPPED_EARLY if number % 3 == 2 else TrialState.COMPLETE
    one = recorded(f"{number:04d}", f1, state=state, lr_head=1e-5 * (number + 1))
    return dataclasses.replace(one, origin=study.PRESET if number == 0 else study.SAMPLED)


def scores(order: str) -> list[float]:
    """Sixty scores: each better than all before, each worse, or mixed."""
    rising = [0.2 + 0.01 * number for number in range(TRIALS)]
    return {"rising": rising, "falling": rising[::-1], "mixed": [rising[7 * n % TRIALS] for n in range(TRIALS)]}[order]


def wanted(trials: Sequence[Record], n: int) -> set[str]:
    return {one.trial_id for one in leaderboard.ranked(trials)[:n]} | {"0000"}


@pytest.mark.slow
@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
def test_the_bound_of_the_plan_holds_along_sixty_trials(tmp_path: Path, order: str) -> None:
    run = SearchRun.create(tmp_path, "one")
    plan = SearchPlan(SPACE, SETTING, RECIPE, {}, TRIALS)
    options = SearchOptions(space="freezing", trials=TRIALS, finalists=FINALISTS, keep=KEEP)
    bound = run_bytes(plan, options, photos=100)
    trials: list[Record] = []
    keeper, most = Keeper(run, Keeping(KEEP, FINALISTS), []), 0
    for number, f1 in enumerate(scores(order)):
        one = ended(number, f1)
        folder = run.trial(one.trial_id)
        for epoch in range(1, (1 if one.state == TrialState.STOPPED_EARLY else 2) + 1):
            before = max((file.stat().st_size for file in files_of(folder)), default=0)
            save(folder, f1, epoch)
            most = max(most, taken(run.path) + before)  # for a moment the new file lies beside the old one
        trials.append(one)
        assert keeper.keeps(one) == (one.trial_id in wanted(trials, KEEP))
        keeper.end(one)
        kept = {one.trial_id for one in trials if files_of(run.trial(one.trial_id))}
        assert kept == wanted(trials, KEEP)
    # The repeats of each finalist keep weights; of all but the winner's they go when the choice is made.
    repeats = [run.finalists / f"{finalist}-{number}" / "state" for finalist in "abc" for number in range(3)]
    for folder in repeats:
        save(folder, 0.5, 2)
    most = max(most, taken(run.path))
    for folder in repeats[3:]:
        shutil.rmtree(folder.parent)
    assert bound.at_work / 3 < most < bound.at_work
    assert bound.left / 3 < taken(run.path) < bound.left
    whole = [one.trial_id for one in trials if (run.trial(one.trial_id) / STATE_FILE).exists()]
    best = leaderboard.ranked(trials)[:FINALISTS]
    assert whole == sorted(one.trial_id for one in best if one.state == TrialState.STOPPED_EARLY)
    for name in wanted(trials, KEEP):
        recipe, result, _ = checkpoint.load_best(run.trial(name))
        assert (recipe, result.scores.f1) == (RECIPE, next(one.f1 for one in trials if one.trial_id == name))


def test_a_kill_between_any_two_removals_leaves_the_best_whole_and_a_resume_removes_the_rest(tmp_path: Path) -> None:
    def made(name: str) -> tuple[SearchRun, list[Record]]:
        run = SearchRun.create(tmp_path, name)
        trials = [ended(number, f1) for number, f1 in enumerate(scores("mixed")[:12])]
        for one in trials:
            save(run.trial(one.trial_id), one.f1 or 0.0, 1 if one.state == TrialState.STOPPED_EARLY else 2)
        return run, trials

    whole, trials = made("whole")
    kept = Keeping(KEEP, FINALISTS)
    Keeper(whole, kept, trials)
    left = {file.relative_to(whole.path) for file in whole.path.rglob("*")}
    for killed_after in range(0, 12, 3):
        run, trials = made(f"killed-{killed_after}")
        for file in itertools.islice(unneeded(run, trials, kept), killed_after):
            file.unlink()
        assert all(has_weights(run.trial(name)) for name in wanted(trials, KEEP))
        Keeper(run, kept, trials)
        assert {file.relative_to(run.path) for file in run.path.rglob("*")} == left


def test_a_trial_without_weights_does_not_count_and_one_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    run = SearchRun.create(tmp_path, "one")
    trials = [ended(number, 0.9 - 0.1 * number) for number in range(5)]
    trials.append(dataclasses.replace(ended(5, 0.1), state=TrialState.UNFINISHED))
    for one in trials[2:]:
        save(run.trial(one.trial_id), one.f1 or 0.0, 1)
    gone = unneeded(run, trials, Keeping(1, 0))
    assert {file.parent.name for file in gone if file.name != STATE_FILE} == {"0003", "0004"}, "0000 and 0001 have none"
    assert {file.parent.name for file in gone} == {"0002", "0003", "0004"}, "nobody trains 0002 further"


def test_weights_of_an_older_version_are_not_parted_from_the_state_that_describes_them(tmp_path: Path) -> None:
    run = SearchRun.create(tmp_path, "one")
    save(run.trial("0000"), 0.5, 2)
    (weights,) = run.trial("0000").glob("best-*")
    header = int.from_bytes(weights.read_bytes()[:8], "little")
    without = json.loads(weights.read_bytes()[8 : 8 + header])
    del without["__metadata__"]
    text = json.dumps(without).encode().ljust(header)
    weights.write_bytes(weights.read_bytes()[:8] + text + weights.read_bytes()[8 + header :])
    assert unneeded(run, [ended(0, 0.5)], Keeping(KEEP, FINALISTS)) == []
    assert checkpoint.load_best(run.trial("0000"))[1].scores.f1 == 0.5


def test_what_was_not_kept_is_said_and_a_finalist_is_trained_again(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    set_threads(1)
    fit = Fit(RECIPE, FitData.of(faces, RECIPE))
    curve = [result.validation_f1 for result in fit.epochs(run.trial("0000"))]
    _, result, weights = checkpoint.load_best(run.trial("0000"))
    trial = add_trial(run, curve, {"frozen_stages": 0, "epochs": 2})
    for file in files_of(run.trial("0000")):
        file.unlink()
    with pytest.raises(RunError, match=r"were not kept \(--keep\).*\n  python -m tune.reproduce --trial .*0000"):
        export_trial(run, trial.trial_id, tmp_path / "out")

    design = Design(1, 2)
    (asked,) = Requests.of(run, [trial], faces, design, cpus=1, gpus=0.0).others
    assert asked == finish_request(run, trial, cpus=1, gpus=0.0)
    (finalist,) = read_finalists(run, [trial], faces, design)
    assert with_end(run, finalist).unfinished == NOT_KEPT
    assert fitted(asked, functools.partial(finish_fit, cache=CacheOptions(demo_cache, 1.0))).state == "complete"
    assert [file.name for file in files_of(asked.checkpoint_folder)] == [f"best-{result.epoch}.safetensors"]
    (finalist,) = (with_end(run, one) for one in read_finalists(run, [trial], faces, design))
    assert (finalist.unfinished, finalist.to_end) == ("", None)
    again = model_of(run, finalist, 1.0)
    assert again.recipe == Recipe.model_validate(trial.recipe)
    assert all(torch.equal(again.states[0][name], tensor) for name, tensor in weights[0].items())
