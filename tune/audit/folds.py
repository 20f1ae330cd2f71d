"""Fits on folds of the people, each of which predicts the people that it did not train on. Resumable.

OUT/data/           photos.csv, split.json; folds/<n>-<i>.json: fold i of n
OUT/fits/<id>/      one fit (`tune.fitting.pool`), with answers.npz: what it predicts for its fold's people
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskcls import seeds
from maskcls.command_line.signals import interruption
from maskcls.errors import RunError
from maskcls.files import write_atomically
from maskcls.recipe import Recipe
from maskcls.text import counted
from maskcls.training import presets
from tune.audit.options import AuditOptions
from tune.fitting.pool import run_fits, to_do
from tune.fitting.request import FitRequest
from tune.fitting.sharing import share_machine
from tune.runs import cluster
from tune.runs.folder import RunFolder
from tune.runs.session import check_weights, machine_of, prepared, say, say_all, say_dashboard
from tune.runs.shares import Demand, Share, resolve_scale
from tune.runs.stopping import Reason
from tune.selection.finalists import digest_of, why_missing
from tune.selection.predictions import read_predictions

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from tune.audit.predictions import OutOfFold


def train(options: AuditOptions, out: Path) -> tuple[FaceDataset, OutOfFold]:
    """Train one fit per fold, those that are done already excepted; return the photos and what the fits predict.

    Raises:
        CallError: an option, a recipe or weights are wrong, or there are more folds than people.
        DataError: photos or labels can't be used.
        RunError: a fit failed, or was interrupted; the same command goes on.
    """
    from tune.audit.predictions import averaged

    with ExitStack() as stack:
        machine = machine_of(options, stack)
        scale, notes = resolve_scale(options.scale, machine)
        own = {} if options.seed is None else {"seed": options.seed}
        recipe = presets.base_recipe(options.preset, scale, options.explicit_values(**own), demo=False)
        say_all(notes)
        check_weights([recipe])
        demand = Demand([recipe], options, machine, scale, options.folds, "fit")
        shared, notes = share_machine(demand.share(), demand, say)
        say_all(notes)
        out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(RunFolder(out).driving())
        faces = _prepared(options, recipe, out)
        asked = _requests(faces, recipe, options.folds, options.split_seed, out, shared)
        _run(asked, faces, options, shared, stack)
    people = faces.photos["person"].nunique() - len(faces.split.holdout)
    source = (
        f"{counted(options.folds, 'fit')} of {recipe.backbone} ({options.preset}, {counted(recipe.epochs, 'epoch')}), "
        f"each for the people of one fold of {people:,} people, on whom it did not train."
    )
    return faces, averaged(faces, (read_predictions(one.folder)[::2] for one in asked), source)


def _prepared(options: AuditOptions, recipe: Recipe, out: Path) -> FaceDataset:
    """The photos, decoded, with everybody on a side that is audited, unless a split of the user's own has a holdout."""
    from maskcls.data.splits import Split

    faces = prepared(options)
    if options.split is None:
        faces = replace(faces, split=Split(tuple(sorted(set(faces.photos["person"]))), ()))
    faces.save(out / "data")
    faces.pixels(recipe.image_size, progress=True, face_crop=recipe.face_crop)
    return faces


def _requests(
    faces: FaceDataset, recipe: Recipe, folds: int, split_seed: int, out: Path, shared: Share
) -> list[FitRequest]:
    from maskcls.data import splits
    from maskcls.training.fit_data import check_trainable

    own = faces.split
    seed = seeds.seed_of(split_seed, folds)
    asked = []
    for number, drawn in enumerate(splits.folds(faces.photos, folds, seed, (*own.train, *own.validation))):
        split = replace(drawn, holdout=own.holdout)
        check_trainable(recipe, replace(faces, split=split))
        file = out / "data" / "folds" / f"{folds}-{number}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, split.to_json())
        fit_id = digest_of(recipe.digest, split.digest, faces.digest)
        asked.append(
            FitRequest(
                trial_id=fit_id,
                recipe=recipe.model_dump(),
                folder=out / "fits" / fit_id,
                run=out,
                cpus=shared.cpus,
                gpus=shared.gpus,
                settings={"fold": number},
                label=f"fold {number + 1} of {folds}",
                split=str(file.relative_to(out)),
                repeat=number,
            )
        )
    return asked


def _run(
    asked: Sequence[FitRequest], faces: FaceDataset, options: AuditOptions, shared: Share, stack: ExitStack
) -> None:
    from tune.selection.fits import repeat_fit

    if to_do(asked):
        say_dashboard(stack.enter_context(cluster.connected(options.address)))
    work = functools.partial(repeat_fit, cache=faces.cache)
    outcome = run_fits(asked, work, parallel=shared.parallel, budget_s=options.time_budget_s)
    if outcome.reason == Reason.INTERRUPTED:
        raise interruption(outcome.signal_number)
    reasons = [f"{one.label}: {why}" for one in asked if (why := why_missing(one.folder))]
    if reasons:
        raise RunError(
            f"{counted(len(reasons), 'fold')} of {len(asked)} gave no predictions ({'; '.join(reasons)}). "
            "What is done is kept; the same command goes on."
        )
