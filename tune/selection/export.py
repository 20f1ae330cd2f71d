"""A search's trial as a bundle, as the search left it or, for a finalist, after its training to the end."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from torch import Tensor

from maskcls.data.dataset import FaceDataset
from maskcls.errors import Damaged, DataError, Missing
from maskcls.files import number_of
from maskcls.models.model import build_models
from maskcls.recipe import Recipe
from maskcls.serving.bundle import MANIFEST, MANIFEST_FILE, read_bundle, read_manifest
from maskcls.serving.export import Trained, check_writable, export, note_fitted
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import command
from maskcls.training.checkpoint import load_best
from maskcls.training.checkpoint_files import files_of, has_weights
from maskcls.training.conditions import HARDWARE
from maskcls.training.fit import complete_state
from tune.runs import leaderboard
from tune.runs.folder import BEST_EARLIER, SearchRun
from tune.runs.session import say
from tune.runs.study import Record, records
from tune.selection.finalists import Finalist
from tune.selection.finish import finish_request, is_bundle_of
from tune.selection.fitted import ITS_EPOCH, Fitted, finalist_of, fit_on_validation, from_repeats, score_decision

_Ways = dict[str, Callable[[], None]]


def export_trial(run: SearchRun, trial_id: str, out: Path, overwrite: bool = False, *, calibrates: bool = True) -> None:
    """Write a trial's best epoch as a bundle.

    Args:
        calibrates: whether the validation photos are predicted: of a trial without repeats to fit its temperature and
            decision rule, of another one to score its rule.

    Raises:
        CallError: `out` is in the way.
        RunError: the trial has no finished epoch, its state is damaged, or the weights of its frozen stages cannot be
            had.
    """
    check_writable(out, overwrite=overwrite)  # before weights are loaded, which may take long
    faces = _faces_of(run)
    finalist = finalist_of(run, records(run), trial_id, faces)
    fitted = from_repeats([(finalist, 1.0)], faces) if finalist else None
    _export(run, _folder_of_trial(run, trial_id), out, {"run": run.name, "trial": trial_id}, fitted, overwrite)
    if calibrates:
        (fit_on_validation if fitted is None else score_decision)(out, faces)


def export_winner(run: SearchRun, winner: Finalist, *, out: Path | None = None, calibrates: bool = True) -> None:
    """Write the winner's own model: its best epoch, after its training to the end where the search had stopped it.

    Args:
        out: the bundle's folder, where a bundle is replaced; None: best/.

    Raises CallError, RunError as `export_trial` does, which also describes `calibrates`.
    """
    out = out or run.best
    request, faces = finish_request(run, winner, cpus=1, gpus=0.0), _faces_of(run)
    fitted = from_repeats([(winner, 1.0)], faces)
    if winner.to_end is not None and is_bundle_of(out, request):
        note_fitted(out, *(fitted or Fitted()))  # of an earlier version, or of other repeats
    else:
        check_writable(out, overwrite=True)
        origin = {"run": run.name, "trial": winner.trial_id}
        if winner.to_end is not None:
            origin = {**origin, "fit": request.trial_id}
        _export(run, _folder_of(run, winner), out, origin, fitted, overwrite=True, is_chosen=calibrates)
    if calibrates:
        score_decision(out, faces)


def export_best(
    run: SearchRun, trials: Sequence[Record], winner: Finalist | None, finalists: Sequence[Finalist], calibrates: bool
) -> tuple[str, list[str]]:
    """Write best/: of the winner, or without repeats of the best trial; where its checkpoint is damaged, of the first
    one after it that loads.

    After the winner come the other finalists by the mean of their repeats, then all trials by their validation score.

    Args:
        calibrates: as of `export_trial`.

    Returns and raises as `export_first` does.
    """
    others = sorted((one for one in finalists if not one.unfinished), key=lambda one: -one.mean)
    ways: _Ways = {}
    for finalist in [winner, *others] if winner else []:
        ways.setdefault(finalist.trial_id, partial(export_winner, run, finalist, calibrates=calibrates))
    for trial_id, write in by_score(run, trials, run.best, overwrite=True, calibrates=calibrates).items():
        ways.setdefault(trial_id, write)
    return export_first(run, ways, run.best)


def by_score(run: SearchRun, trials: Sequence[Record], out: Path, overwrite: bool, *, calibrates: bool = True) -> _Ways:
    """Return how to write each trial's bundle, by the trials' ids, the best by validation first."""
    return {
        one.trial_id: partial(export_trial, run, one.trial_id, out, overwrite, calibrates=calibrates)
        for one in leaderboard.ranked(trials)
        if one.f1 is not None
    }


def export_first(run: SearchRun, ways: _Ways, out: Path) -> tuple[str, list[str]]:
    """Write the bundle of the first trial whose checkpoint is not damaged, if `out` holds no better one already.

    Args:
        ways: by the trials' ids, what writes a trial's bundle to `out`, the best first.

    Returns the id of the trial that `out` holds, and a line for each that was passed over. Raises as `export_trial`
    does, and Damaged where no trial loads.
    """
    passed_over: list[str] = []
    for trial_id, write in ways.items():
        try:
            write()
            return trial_id, passed_over
        except Damaged as error:
            if _is_held(out, run, trial_id):  # of an earlier part of the search
                return trial_id, [*passed_over, f"{out.name}/ holds trial {trial_id} already, and stays. {error}"]
            passed_over.append(f"Trial {trial_id} is passed over. {error}")
    raise Damaged("\n".join(passed_over))


def _is_held(bundle: Path, run: SearchRun, trial_id: str) -> bool:
    """Whether the folder holds a whole bundle of the trial."""
    try:
        scores = read_bundle(bundle).scores
    except DataError:
        return False
    return (scores.get("run"), scores.get("trial")) == (run.name, trial_id)


def model_of(run: SearchRun, finalist: Finalist, weight: float) -> Trained:
    """The model of a finalist that is not `unfinished`, as a part of a bundle.

    Raises RunError as `export_trial` does.
    """
    kept = _folder_of(run, finalist)
    if finalist.to_end and not has_weights(kept):  # of an earlier version: its model is in best/ alone
        (classifier,) = read_bundle(run.best).classifiers
        return Trained(classifier.recipe, [model.state_dict() for model in classifier.models], weight)
    recipe, _, moving = load_best(kept)
    return Trained(recipe, complete_states(recipe, moving), weight)


def _folder_of(run: SearchRun, finalist: Finalist) -> Path:
    """Return the folder with a finalist's weights: the trial's, or that of its training to the end.

    Raises Missing where they were not kept.
    """
    trained = finish_request(run, finalist, cpus=1, gpus=0.0).checkpoint_folder
    if finalist.to_end is not None or (not has_weights(run.trial(finalist.trial_id)) and has_weights(trained)):
        return trained
    return _folder_of_trial(run, finalist.trial_id)


def _folder_of_trial(run: SearchRun, trial_id: str) -> Path:
    """Return the folder with a trial's weights. Raises Missing where they were not kept."""
    folder = run.trial(trial_id)
    if (folder / HARDWARE).exists() and not files_of(folder):
        again = command("tune.reproduce", "--trial", run.path / trial_id, "--out", "DIR")
        raise Missing(
            f"Trial {trial_id} of {run.name} cannot be exported: its weights were not kept (--keep). To train it "
            f"again, with the same numbers:\n  {again}"
        )
    return folder


def _export(
    run: SearchRun,
    checkpoint: Path,
    out: Path,
    origin: Mapping[str, str],
    fitted: Fitted | None,
    overwrite: bool,
    *,
    is_chosen: bool = False,
) -> None:
    recipe, result, moving = load_best(checkpoint)
    states, faces, fitted = complete_states(recipe, moving), _faces_of(run), fitted or Fitted()
    if out == run.best:
        _keep_if_better(run, result.scores.f1, faces, is_chosen=is_chosen)
    export(
        out,
        recipe,
        states,
        scores={"validation": result.scores.to_dict(), "epoch": result.epoch, **origin},
        faces=faces,
        calibration=fitted.calibration,
        decision=fitted.decision,
        overwrite=overwrite,
    )


def _keep_if_better(run: SearchRun, f1: float, faces: FaceDataset, *, is_chosen: bool) -> None:
    """Copy what best/ holds beside it, and say so, if it is better by validation than what replaces it, or was chosen
    by repeats and scored on the holdout where that was not, as after an extended search that was interrupted.

    Scores on other photos, or of another split, are not compared. A choice by repeats may pick such a winner, and so
    may a run that lost trials.

    Args:
        f1: validation macro F1 of what replaces it.
        is_chosen: whether that was chosen by repeats.
    """
    if not (run.best / MANIFEST).exists():
        return
    try:
        earlier = read_manifest(run.best)
        with MANIFEST_FILE.reading(run.best / MANIFEST):
            known = earlier["scores"]
            own = number_of(known.get(ITS_EPOCH) or known.get("validation", {}).get("f1", 0.0))
    except DataError:  # damaged, so that nothing is to be kept
        return
    people = (earlier.get("data_digest"), earlier.get("split_digest"))
    was_chosen = "holdout" in known and not is_chosen
    if people != (faces.digest, faces.split.digest) or not (own > f1 or was_chosen):
        return
    digest = bundle_digest(earlier)
    kept = run.best_earlier()
    if any(bundle_digest(read_manifest(folder)) == digest for folder in kept):
        return
    place = run.path / f"{BEST_EARLIER}-{len(kept) + 1}" if kept else run.path / BEST_EARLIER
    passing = place.with_name(f".{place.name}.tmp")
    shutil.rmtree(passing, ignore_errors=True)
    shutil.copytree(run.best, passing)
    passing.rename(place)
    why = f"had a validation macro F1 of {own:.4f}, more than the {f1:.4f} of what replaces it"
    if was_chosen:
        why = "was chosen by repeats and scored on the holdout, and what replaces it was not"
    say(f"What best/ held {why}; it is kept in {place}.")


def _faces_of(run: SearchRun) -> FaceDataset:
    return FaceDataset.load(run.data, CacheOptions(run.path))  # no pixels are asked for, so no cache either


def complete_states(recipe: Recipe, moving: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Each model's whole state: what was trained, and the frozen stages as their weights or the seed give them."""
    # A checkpoint leaves the frozen stages out: they are loaded again, or drawn from the recipe's seed.
    models = build_models(recipe, pretrained=True)
    return [complete_state(model.state_dict(), best) for model, best in zip(models, moving, strict=True)]
