"""What `tune.compare` does around its fits: it makes or finds the run, prepares data and splits, connects Ray, and
writes tables and a page.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maskcls.errors import CallError
from maskcls.files import write_atomically
from maskcls.text import counted, printable
from tune.compare.arms import PlannedComparison, find_inapplicable, find_untrainable, leave_out, repeat_splits
from tune.compare.corrected import with_labels
from tune.compare.options import CompareOptions, ComparePlan, resolve
from tune.compare.treatments import CORRECTIONS
from tune.durations import duration
from tune.fitting.sharing import share_machine
from tune.fitting.shipping import shipping
from tune.runs import cluster, events, output
from tune.runs.cluster import Cluster
from tune.runs.estimates import PHOTOS_PER_SECOND, count_photos, pixel_room
from tune.runs.folder import ComparisonRun, remove
from tune.runs.joined_ray import nodes_aside
from tune.runs.nodes import check_nodes
from tune.runs.record import DataRecord, Session, noted
from tune.runs.session import (
    begin_or_resume,
    check_data,
    check_layouts,
    check_weights,
    emit_run,
    faces_of,
    has_data,
    machine_of,
    n_people,
    note_files,
    prepared,
    say,
    say_all,
    say_dashboard,
    say_too_few_for_folds,
    saying_how_to_go_on,
    wait_for_killed_driver,
)
from tune.runs.shares import Demand
from tune.runs.stopping import Reason
from tune.runs.stored import keeping as stored
from tune.states import TrialState

if TYPE_CHECKING:
    from maskcls.data.dataset import FaceDataset
    from maskcls.data.splits import Split
    from tune.compare.results import Results
    from tune.runs.stopping import Outcome

TRAIN_SHARE = 0.85 * 0.85
"""Of the photos, those of people neither in the holdout nor among those who pick the epoch."""


def run(options: CompareOptions) -> int:
    """The command's work. Returns the exit status."""
    if options.new_run_from is not None:
        options = _like(options, options.new_run_from)
    if options.resume is not None:
        return _resume(options, options.resume)
    return begin_or_resume(options, _begin, _resume) if options.begin_or_resume else _begin(options)


def _like(options: CompareOptions, place: str) -> CompareOptions:
    """Return the other run's options, its own copy of a user-supplied study included, with what this command states."""
    other = ComparisonRun.open(place, options.runs)
    return options.like(other.record(), **({"study": str(other.study_copy)} if other.study_copy.exists() else {}))


def _begin(options: CompareOptions) -> int:
    with ExitStack() as stack:
        stack.enter_context(options.limits.within())
        if options.name:
            ComparisonRun.check_free(options.runs, options.name)
        stored.check_free(ComparisonRun, options)
        machine = machine_of(options, stack)
        plan = resolve(options, machine)
        say_all(plan.notes)
        check_layouts(options)
        check_weights(plan.recipes)
        plan = _shared(plan, options, machine)
        if options.plan:
            _print_plan(options, plan)
            return 0
        name = options.name or f"compare-{datetime.now():%Y%m%d-%H%M%S}"
        lease = stack.enter_context(stored.begun(ComparisonRun, options, name))
        made = ComparisonRun.create(options.runs, name, plan.record(options))
        stack.enter_context(made.driving())
        emit_run(made, options.seeds)
        try:
            _write_config(options, plan, made)
            _keep_study(options, made)
            ready = _make_ready(options, plan, made)
            _connect(options, stack)
        except BaseException:
            remove(made)
            raise
        stack.enter_context(saying_how_to_go_on(made))
        stack.enter_context(stored.keeping(made, lease))
        return _compare(options, plan, made, ready, stack)


def _resume(stated: CompareOptions, place: str) -> int:
    from tune.fitting.result import set_aside_damaged

    # A study's file that is named is read again, for it may have changed; else the run's copy counts.
    other_study = "study" in stated.model_fields_set
    with ExitStack() as stack:
        found, lease = stored.found(ComparisonRun, stated, place, stack)
        options = stated.resumed(found)
        stack.enter_context(options.limits.within())
        stack.enter_context(saying_how_to_go_on(found))
        if not options.plan:
            stack.enter_context(found.driving())
            wait_for_killed_driver(found)
            emit_run(found, options.seeds)
            say_all(set_aside_damaged(sorted(found.path.glob("fits/*")), {}))
            stack.enter_context(stored.keeping(found, lease))
        machine = machine_of(options, stack)
        copied = found.study_copy.exists() and not other_study
        plan = resolve(options, machine, found.study_copy if copied else None)
        say_all(plan.notes)
        check_weights(plan.recipes)
        plan = _shared(plan, options, machine)
        if options.plan:
            _print_plan(options, plan)
            return 0
        if has_data(found):
            check_data(found, options, by_labels=CORRECTIONS not in options.vary)
        ready = _make_ready(options, plan, found)  # what is added must be possible before the run keeps it
        kept, planned = found.record(), plan.record(options)
        found.write_record(
            kept.changed(
                format=planned.format,
                call={**kept.call, **planned.call},
                title=planned.title,
                question=planned.question,
                comparisons=planned.comparisons,
                notes=planned.notes,
            )
        )
        if other_study:
            _keep_study(options, found)
        _write_config(options, plan, found)
        return _compare(options, plan, found, ready, stack)


def _shared(plan: ComparePlan, options: CompareOptions, machine: Cluster) -> ComparePlan:
    """The plan with as many fits at a time as the GPU is to take, or as the memory holds; why is said."""
    demand = Demand(plan.recipes, options, machine, plan.scale, plan.n_fits, "fit")
    shared, notes = share_machine(plan.share, demand, say)
    say_all(notes)
    return replace(plan, share=shared, notes=(*plan.notes, *notes))


@dataclass(frozen=True)
class _Ready:
    """What is compared, on which photos, on which splits: all that was checked before a fit begins."""

    comparisons: tuple[PlannedComparison, ...]
    faces: FaceDataset
    splits: list[Split]
    left_out: tuple[str, ...]
    """What these photos leave out, and why."""


def _make_ready(options: CompareOptions, plan: ComparePlan, run: ComparisonRun) -> _Ready:
    """Put photos, splits and pixels in their places.

    Raises CallError or DataError for what cannot be trained on them.
    """
    if not has_data(run):
        prepared_faces = _prepared(options)
        say_too_few_for_folds(prepared_faces, plan.folds)
        record = run.record()
        noted = note_files(run, prepared_faces, options)
        run.write_record(record.changed(data=record.data.changed(**noted)))
        prepared_faces.save(run.data)
    faces = faces_of(run, options)
    splits = repeat_splits(run, faces, plan.repeats, plan.folds, options.split_seed)
    comparisons, left_out = _possible(plan, faces, splits, study=options.study is not None)
    kinds = {(arm.recipe.image_size, arm.recipe.face_crop) for planned in comparisons for arm in planned.arms}
    say_all(pixel_room(kinds, len(faces.photos), options.pixel_store_gb, at_a_time=plan.share.parallel, unit="fit"))
    for size, face_crop in sorted(kinds):
        faces.pixels(size, progress=True, face_crop=face_crop)
    return _Ready(comparisons, faces, splits, left_out)


def _prepared(options: CompareOptions) -> FaceDataset:
    """The photos; where corrections are varied, with the labels of the last as those that everybody is tested by."""
    varied = options.vary.get(CORRECTIONS)
    if not varied or options.photos is None:
        return prepared(options)
    faces = prepared(options.model_copy(update={"corrections": varied[-1]}))
    return with_labels(faces, varied, options.photos, skip_bad=options.skip_bad, people_from=options.people_from)


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
    say_all(notes)
    if not comparisons:
        raise CallError("Nothing is left to compare on these photos.")
    return comparisons, tuple(notes)


def _compare(options: CompareOptions, plan: ComparePlan, run: ComparisonRun, ready: _Ready, stack: ExitStack) -> int:
    from tune.compare.equal_time import comparisons_at_equal_time

    faces, splits = ready.faces, ready.splits
    measured = run.record().changed(
        data=_data_record(faces, run.record().data),
        repeats=[split.digest for split in splits],
        left_out=list(ready.left_out),
    )
    run.write_record(measured)
    began = time.monotonic()
    with noted(run, Session.begun(repeats=plan.repeats, parallel=plan.share.parallel)) as note:
        outcome = _fit_all(options, plan, run, ready, stack, plan.time_budget_s)
        if plan.equal_time and outcome.remaining == 0 and outcome.reason == Reason.FINISHED:
            later = comparisons_at_equal_time(run, ready.comparisons, splits, faces.digest)
            ready = replace(ready, comparisons=(*ready.comparisons, *later))
            left_s = plan.time_budget_s and max(0.0, plan.time_budget_s - (time.monotonic() - began))
            outcome = _fit_all(options, plan, run, ready, stack, left_s)
        note(outcome.reason)
    results = _hand_over(run, ready, outcome)
    is_failure = results.lack_scores or (outcome.reason == Reason.FINISHED and outcome.remaining > 0)
    status = outcome.exit_status or int(is_failure)
    made = {"table": str(run.table_csv), "report": str(run.report)}
    events.emit(events.Done(outcome.reason, status, remaining=outcome.remaining, **made))
    return status


def _fit_all(
    options: CompareOptions,
    plan: ComparePlan,
    run: ComparisonRun,
    ready: _Ready,
    stack: ExitStack,
    budget_s: float | None,
) -> Outcome:
    """Train what is missing of the fits of these comparisons; Ray is connected where anything is."""
    from tune.compare.fits import fit_and_evaluate, is_evaluated, requests
    from tune.fitting.pool import run_fits, to_do

    share = plan.share
    asked = requests(
        run,
        ready.comparisons,
        ready.splits,
        ready.faces.digest,
        folds=plan.folds,
        cpus=share.cpus,
        gpus=share.gpus,
    )
    typer.echo(f"Run {run.name}: {counted(len(asked), 'fit')}, {share.parallel} at a time, in {run.path}")
    if to_do(asked, is_evaluated):
        _connect(options, stack)
        weights = (recipe.weights for recipe in plan.recipes)
        shared = {"shares_run": options.storage is None, "sees_photos": not options.ships}
        check_nodes(run, weights, share.cpus, share.gpus, **shared)
    work = functools.partial(fit_and_evaluate, cache=ready.faces.cache)
    nodes_aside.allow(options.max_failures)
    ships = options.ships and options.address is not None and cluster.is_up()
    with shipping(run.path, ready.faces.cache, wanted=ships):
        return run_fits(asked, work, parallel=share.parallel, budget_s=budget_s, is_done=is_evaluated)


def _connect(options: CompareOptions, stack: ExitStack) -> None:
    """Connect Ray until the stack ends, if this process is not connected yet."""
    if not cluster.is_up():
        say_dashboard(stack.enter_context(cluster.connected(options.address)))


def _print_plan(options: CompareOptions, plan: ComparePlan) -> None:
    typer.echo(printable("\n".join([*plan.lines(), time_line(options, plan)])))


def time_line(options: CompareOptions, plan: ComparePlan) -> str:
    """About how long it would take, from a rate that was measured once and the number of pixels."""
    rate, edge_px = PHOTOS_PER_SECOND[plan.scale]
    drawn = count_photos(options) * TRAIN_SHARE * (1 - 1 / plan.folds)
    recipes = {
        (arm.recipe.digest, arm.trained): arm.recipe for planned in plan.comparisons for arm in planned.arms
    }.values()
    views = sum(
        recipe.drawn_of(round(drawn)) * recipe.epochs * len(recipe.split.models) * (recipe.image_size / edge_px) ** 2
        for recipe in recipes
    )
    seconds = plan.repeats * views / rate / plan.share.parallel
    return f"Time: very roughly {duration(seconds)}; backbones and machines vary."


def _hand_over(run: ComparisonRun, ready: _Ready, outcome: Outcome) -> Results:
    """Write tables, plot and page over what is complete, print the table, and return its rows."""
    from maskcls.command_line.console import SafeConsole
    from tune.compare import table as compare_table
    from tune.compare.report import write_report
    from tune.compare.results import read_results

    comparisons = ready.comparisons
    results = read_results(run, comparisons, ready.splits, ready.faces)
    write_atomically(run.table_csv, compare_table.to_csv(results))
    write_atomically(run.table_md, compare_table.to_markdown(results, comparisons, ready.left_out))
    write_report(run, results, comparisons)
    _report_variants(results)
    SafeConsole(file=output.results()).print(compare_table.render(results, comparisons), highlight=False)
    lines = [f"Comparison {outcome.reason}. Page: {run.report}, table: {run.table_csv}"]
    if outcome.remaining:
        lines.append(f"{outcome.remaining} fits are left to do ({outcome.reason}). To go on:\n  {run.resume_command}")
    if any(row.states.get(TrialState.OUT_OF_MEMORY) for row in results.rows):
        lines.append("Some fits ran out of memory: go on with less --parallel, or more --gpus-per-trial.")
    if results.lack_scores:
        advice = "" if outcome.remaining else " Lower learning rates may help where fits diverged."
        lines.append(f"No fit has a score, so nothing is compared.{advice}")
    print(printable("\n".join(lines)), file=output.results())
    return results


def _report_variants(results: Results) -> None:
    from tune.compare.table import verdict_text

    for row in results.rows:
        found = row.difference
        events.emit(
            events.VariantCompared(
                comparison=row.comparison,
                variant=row.variant,
                is_base=row.is_base,
                repeats=row.n,
                f1=row.f1_mean,
                difference=found.mean if found else None,
                low=found.low if found else None,
                high=found.high if found else None,
                verdict=verdict_text(row),
            )
        )


def _write_config(options: CompareOptions, plan: ComparePlan, run: ComparisonRun) -> None:
    """Write the call for --config, with the scale as it was found and the run's own copy of a user-supplied study."""
    same = {"scale": plan.scale}
    if options.study and Path(options.study).is_absolute():
        same["study"] = str(run.study_copy)
    run.write_config(options.model_copy(update=same).to_config())


def _keep_study(options: CompareOptions, run: ComparisonRun) -> None:
    """Copy a user-supplied study into the run, for a resume to go on with."""
    if options.study and Path(options.study).is_absolute():
        shutil.copyfile(options.study, run.study_copy)


def _data_record(faces: FaceDataset, before: DataRecord) -> DataRecord:
    return before.changed(
        photos=len(faces.photos),
        people=n_people(faces),
        holdout_people=len(faces.split.holdout),
        digest=faces.digest,
        split_digest=faces.split.digest,
    )
