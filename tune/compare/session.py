"""What `tune.compare` does around its fits: a run made or found, data and splits made ready, Ray connected, tables and a page."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from maskcls.cli import INTERRUPTED as INTERRUPTED_STATUS
from maskcls.errors import CallError
from tune.compare.arms import PlannedComparison, find_inapplicable, find_untrainable, leave_out, repeat_splits
from tune.compare.options import IDENTITY, CompareCall, ComparePlan, resolve
from tune.runs import cluster
from tune.runs.durations import duration
from tune.runs.folder import ComparisonRun, remove
from tune.runs.record import environment, now
from tune.runs.stopping import Reason
from tune.search.first_trials import refuse_contradictions
from tune.search.options import cache_options, prepared

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from tune.runs.stopping import Outcome

TRAIN_SHARE = 0.85 * 0.85
"""Of the photos, those of people neither in the holdout nor among those who pick the epoch."""


def run(options: Mapping[str, Any], stated: Set[str]) -> int:
    """The door's work. `stated` names the options that the call gave itself. Returns the exit status."""
    options = {
        **options,
        "address": options["address"] or os.environ.get("RAY_ADDRESS"),
    }  # set in a job that was submitted
    if options["resume"] is not None:
        found = ComparisonRun.open(options["resume"], options["runs"])
        return _resume(recorded_call(found, options, stated), found, options, stated)
    return _begin(CompareCall.of(options), options)


def recorded_call(found: ComparisonRun, options: Mapping[str, Any], stated: Set[str]) -> CompareCall:
    """The run's own call, grown by this one. Raises CallError for what contradicts the run."""
    told = found.record()["call"]
    this = CompareCall.of(options)
    own = {**told, "name": found.name}
    given = {**this.record(), "name": options["name"]}
    compared = [
        name for name in (*IDENTITY, "name") if name in stated and not (name == "scale" and this.scale == "auto")
    ]
    refuse_contradictions({name: own[name] for name in compared}, {name: given[name] for name in compared}, found.name)
    if "one_at_a_time" in stated:
        refuse_contradictions(
            {"one_at_a_time": not told["grid"]}, {"one_at_a_time": options["one_at_a_time"]}, found.name
        )
    return CompareCall.recorded(told, this, options)


def _begin(call: CompareCall, options: Mapping[str, Any]) -> int:
    with ExitStack() as stack:
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        plan = resolve(call, machine)
        _say(plan.notes)
        if options["name"]:
            ComparisonRun.check_free(options["runs"], options["name"])
        _check_weights(plan)
        if options["plan"]:
            typer.echo("\n".join([*plan.told(), forecast(call, plan)]))
            return 0
        name = options["name"] or f"compare-{datetime.now():%Y%m%d-%H%M%S}"
        made = ComparisonRun.create(options["runs"], name, plan.record(call))
        stack.enter_context(made.driving())
        try:
            _keep_study(call, made)
            ready = _make_ready(call, plan, made, options)
        except BaseException:
            remove(made)
            raise
        return _compare(plan, made, ready, stack, options)


def _resume(call: CompareCall, found: ComparisonRun, options: Mapping[str, Any], stated: Set[str]) -> int:
    with ExitStack() as stack:
        if not options["plan"]:
            stack.enter_context(found.driving())
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        copied = found.study_copy.exists() and "study" not in stated
        plan = resolve(call, machine, found.study_copy if copied else None)
        _say(plan.notes)
        _check_weights(plan)
        if options["plan"]:
            typer.echo("\n".join([*plan.told(), forecast(call, plan)]))
            return 0
        ready = _make_ready(call, plan, found, options)  # what is added must be possible before the run keeps it
        kept = found.record()
        found.write_record({**kept, **plan.record(call), "created": kept["created"], "parts": kept["parts"]})
        if "study" in stated:
            _keep_study(call, found)
        return _compare(plan, found, ready, stack, options)


@dataclass(frozen=True)
class _Ready:
    """What is compared, on which photos, on which splits: all that was checked before a fit begins."""

    comparisons: tuple[PlannedComparison, ...]
    faces: FaceDataset
    splits: list[Split]
    left_out: tuple[str, ...]
    """What these photos leave out, and why."""


def _make_ready(call: CompareCall, plan: ComparePlan, run: ComparisonRun, options: Mapping[str, Any]) -> _Ready:
    """Photos, splits and pixels in their places. Raises CallError or DataError for what cannot be trained on them."""
    from maskcls.data.dataset import FaceDataset

    if not (run.data / "photos.csv").exists() or not (run.data / "split.json").exists():
        _prepare_data(call, run, options)
    faces = FaceDataset.load(run.data, cache_options(options))
    splits = repeat_splits(run, faces, plan.repeats, plan.folds, call.split_seed)
    comparisons, left_out = _possible(plan, faces, splits, study=call.study is not None)
    for size, face_crop in sorted(
        {(arm.recipe.image_size, arm.recipe.face_crop) for planned in comparisons for arm in planned.arms}
    ):
        faces.pixels(size, progress=True, face_crop=face_crop)
    return _Ready(comparisons, faces, splits, left_out)


def _possible(
    plan: ComparePlan, faces: FaceDataset, splits: Sequence[Split], *, study: bool
) -> tuple[tuple[PlannedComparison, ...], tuple[str, ...]]:
    """The comparisons as these photos allow them, and notes of what is left out.

    What a study asks in vain is left out, and said; what a call asks so is refused.
    """
    impossible = find_untrainable(plan.comparisons, faces, splits)
    if impossible and not study:
        (_, arm), why = next(iter(impossible.items()))
        raise CallError(f"{arm}: {why}")
    comparisons, notes = leave_out(plan.comparisons, find_inapplicable(plan.comparisons, faces) | impossible)
    _say(notes)
    if not comparisons:
        raise CallError("Nothing is left to compare on these photos.")
    return comparisons, tuple(notes)


def _compare(plan: ComparePlan, run: ComparisonRun, ready: _Ready, stack: ExitStack, options: Mapping[str, Any]) -> int:
    from tune.compare.fits import fit_and_evaluate, is_evaluated, requests
    from tune.fitting.pool import run_fits, to_do

    comparisons, faces, splits = ready.comparisons, ready.faces, ready.splits
    measured = {
        "data": _digests(faces),
        "repeats": [split.digest for split in splits],
        "left_out": list(ready.left_out),
    }
    run.write_record({**run.record(), **measured})
    asked = requests(run, comparisons, splits, faces.digest, folds=plan.folds, cpus=plan.cpus, gpus=plan.gpus)
    typer.echo(f"Run {run.name}: {len(asked)} fits, {plan.parallel} at a time, in {run.path}")
    there = stack.enter_context(cluster.connected(options["address"])) if to_do(asked, is_evaluated) else None
    if there and there.dashboard:
        typer.echo(
            f"Ray's dashboard: http://{there.dashboard} (it asks for a token: `{cluster.TOKEN_COMMAND}` prints it)"
        )
    work = functools.partial(fit_and_evaluate, cache=faces.cache)
    with _noted(run, plan) as note:
        outcome = run_fits(asked, work, parallel=plan.parallel, budget_s=plan.time_budget_s, is_done=is_evaluated)
        note(outcome.reason)
    _hand_over(run, ready, outcome)
    if outcome.reason == Reason.INTERRUPTED:
        return INTERRUPTED_STATUS
    return 1 if outcome.remaining and outcome.reason == Reason.FINISHED else 0


@contextmanager
def _noted(run: ComparisonRun, plan: ComparePlan) -> Iterator[Callable[[str], None]]:
    """Notes in the run's record that a driver works on it; the block says how that ended."""
    parts = run.record()["parts"]
    part = {"began": now(), "argv": sys.argv[1:], "repeats": plan.repeats, "parallel": plan.parallel, **environment()}

    def write(**how: str) -> None:
        run.write_record({**run.record(), "parts": [*parts, {**part, **how}]})

    write(why="killed, or still running")
    try:
        yield lambda why: write(ended=now(), why=why)
    except BaseException as error:
        with suppress(OSError):  # the disk may be what was full
            write(ended=now(), why="aborted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
        if isinstance(error, KeyboardInterrupt):
            typer.echo(f"Aborted. What was done is kept; to go on:\n  {resume_command(run)}", err=True)
        raise


def forecast(call: CompareCall, plan: ComparePlan) -> str:
    """About how long it would take, from a rate that was measured once and the number of pixels."""
    from tune.search.dry_run import PHOTOS_PER_SECOND, count_photos

    rate, edge_px = PHOTOS_PER_SECOND[plan.scale]
    drawn = count_photos(call.data, call.skip_bad) * TRAIN_SHARE * (1 - 1 / plan.folds)
    recipes = {
        (arm.recipe.digest, arm.trained): arm.recipe for planned in plan.comparisons for arm in planned.arms
    }.values()
    views = sum(
        drawn * recipe.epochs * len(recipe.split.models) * (recipe.image_size / edge_px) ** 2 for recipe in recipes
    )
    return f"Time: very roughly {duration(plan.repeats * views / rate / plan.parallel)}; backbones and machines vary."


def resume_command(run: ComparisonRun) -> str:
    """What goes on with the run."""
    return f"python -m tune.compare --resume {run.path}"


def _hand_over(run: ComparisonRun, ready: _Ready, outcome: Outcome) -> None:
    """Tables, plot and page over what is complete, and the table said."""
    from rich.console import Console

    from maskcls.files import write_atomically
    from tune.compare import table as compare_table
    from tune.compare.report import write_report
    from tune.compare.results import read_results
    from tune.states import TrialState

    comparisons = ready.comparisons
    results = read_results(run, comparisons, ready.splits, ready.faces)
    write_atomically(run.table_csv, compare_table.to_csv(results))
    write_atomically(run.table_md, compare_table.to_markdown(results, comparisons, ready.left_out))
    write_report(run, results, comparisons)
    Console(file=sys.stdout).print(compare_table.render(results, comparisons), highlight=False)
    typer.echo(f"Comparison {outcome.reason}. Page: {run.report}, table: {run.table_csv}")
    if outcome.remaining:
        typer.echo(f"{outcome.remaining} fits are left to do ({outcome.reason}). To go on:\n  {resume_command(run)}")
    if any(row.states.get(TrialState.OUT_OF_MEMORY) for row in results.rows):
        typer.echo("Some fits ran out of memory: go on with less --parallel, or more --gpus-per-trial.")


def _keep_study(call: CompareCall, run: ComparisonRun) -> None:
    """A copy of a study of one's own, which a resume goes on with."""
    if call.study and Path(call.study).is_absolute():
        shutil.copyfile(call.study, run.study_copy)


def _prepare_data(call: CompareCall, run: ComparisonRun, options: Mapping[str, Any]) -> None:
    prepared(call, options).save(run.data)


def _digests(faces: FaceDataset) -> dict[str, Any]:
    return {
        "photos": len(faces.photos),
        "people": int(faces.photos["person"].nunique()),
        "holdout_people": len(faces.split.holdout),
        "digest": faces.digest,
        "split_digest": faces.split.digest,
    }


def _check_weights(plan: ComparePlan) -> None:
    """Every backbone must be there before anything is begun. Raises CallError or RunError."""
    from maskcls.models.backbones import check_backbones

    checked = {
        (arm.recipe.backbones, arm.recipe.weights): arm.recipe for planned in plan.comparisons for arm in planned.arms
    }
    for recipe in checked.values():
        check_backbones(recipe)


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(note, err=True)
