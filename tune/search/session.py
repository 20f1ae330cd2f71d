"""What `tune.search` does around a search: it makes or finds the run, prepares data, connects Ray, and chooses."""

from __future__ import annotations

import functools
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from maskcls.models.weights import HUB
from tune.fitting.sharing import share_machine
from tune.fitting.shipping import shipping
from tune.runs import cluster
from tune.runs.cluster import Cluster
from tune.runs.estimates import pixel_room
from tune.runs.folder import SearchRun, as_name, remove
from tune.runs.joined_ray import nodes_aside
from tune.runs.nodes import check_nodes
from tune.runs.record import DataRecord, Session, noted
from tune.runs.session import (
    begin_or_resume,
    check_data,
    check_layouts,
    check_repeats,
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
    saying_how_to_go_on,
    wait_for_killed_driver,
)
from tune.runs.shares import Demand
from tune.runs.stopping import Outcome, Reason
from tune.runs.stored import keeping as stored
from tune.search.dry_run import print_plan
from tune.search.ending import (
    SearchOutcome,
    choose,
    design_of,
    fits_left,
    hand_over,
    has_no_work,
    import_meanwhile,
    keeping_of,
    retrain,
)
from tune.search.options import DEFAULT_SPACE, SPACE_COPY, SPACE_FILE, Resolved, SearchOptions, at_a_time, resolve
from tune.search.plan import SearchPlan, drawn_recipes, geometries, vet
from tune.search.tracking import check_trackers
from tune.search.warm_start import known_trials, n_importable, study_for_space

if TYPE_CHECKING:
    from tune.search.tracking.study_copy import StudyCopy


@dataclass(frozen=True)
class Caller:
    """What a search is started by: the command, to which the process belongs, or another program."""

    is_guest: bool = False
    """Whether the process belongs to another program, as a notebook does (`cluster.starting`)."""
    found: Callable[[SearchRun], object] = lambda run: None
    """Is given the run as soon as there is one."""
    words: tuple[str, ...] | None = None
    """The call, for the run's record; None: this process's command line."""
    called_at: float = 0.0
    """When `run` was called, by the monotonic clock; `run` says it."""


COMMAND = Caller()


def run(options: SearchOptions, caller: Caller = COMMAND) -> int:
    """The command's work. Returns the exit status."""
    caller = replace(caller, called_at=time.monotonic())
    if options.new_run_from is not None:
        options = _like(options, options.new_run_from)
    if options.resume is not None:
        return _resume(options, options.resume, caller)
    begin, resume = functools.partial(_begin, caller=caller), functools.partial(_resume, caller=caller)
    return begin_or_resume(options, begin, resume) if options.begin_or_resume else begin(options)


def _like(options: SearchOptions, place: str) -> SearchOptions:
    """Return the other run's options, its own copy of a user-supplied space included, with what this command states."""
    other = SearchRun.open(place, options.runs)
    copy = other.path / SPACE_COPY
    return options.like(other.record(), **({"space": str(copy)} if copy.exists() else {}))


def _begin(options: SearchOptions, caller: Caller) -> int:
    options = options.model_copy(update={"space": options.space or DEFAULT_SPACE})
    with ExitStack() as stack:
        stack.enter_context(options.limits.within())
        if options.name:
            SearchRun.check_free(options.runs, options.name)
        stored.check_free(SearchRun, options)
        machine = machine_of(options, stack)
        resolved = resolve(options, machine)
        say_all(resolved.notes)
        vet(resolved.plan)
        _check_design(options)
        check_trackers(options.log, options.study_storage)
        check_layouts(options)  # the hub may take long to answer
        _check_weights(resolved)
        if options.plan:
            resolved = _shared(resolved, options, machine)
            print_plan(options, resolved, known=n_importable(resolved.plan))
            return 0
        name = options.name or f"{as_name(resolved.space.name)}-{datetime.now():%Y%m%d-%H%M%S}"
        lease = stack.enter_context(stored.begun(SearchRun, options, name))
        # Ray starts in a thread meanwhile: `_shared` imports torch where memory may be short, which takes seconds too.
        starting = stack.enter_context(ExitStack())
        ray = starting.enter_context(cluster.starting(options.address, is_guest=caller.is_guest))
        resolved = _shared(resolved, options, machine)
        made = SearchRun.create(options.runs, name, resolved.record(options))
        stack.enter_context(made.driving())
        stack.enter_context(starting.pop_all())  # Ray ends before another driver may have the run
        emit_run(made, options.trials)
        try:
            _write_config(options, resolved, made)
            _prepare_data(options, resolved, made)
            there = ray()
        except BaseException:
            remove(made)
            raise
        caller.found(made)
        stack.enter_context(saying_how_to_go_on(made))
        stack.enter_context(stored.keeping(made, lease))
        return _search(options, resolved, made, there, caller)


def _resume(stated: SearchOptions, place: str, caller: Caller) -> int:
    from tune.runs.study import records, trials_of  # these import optuna
    from tune.upkeep.repair import check_trials

    with ExitStack() as stack:
        found, lease = stored.found(SearchRun, stated, place, stack)
        options = stated.resumed(found)
        caller.found(found)
        stack.enter_context(options.limits.within())
        stack.enter_context(saying_how_to_go_on(found))
        if not options.plan:
            stack.enter_context(found.driving())
            wait_for_killed_driver(found)
            emit_run(found, options.trials)
            _set_aside_damaged(found)
            stack.enter_context(stored.keeping(found, lease))
        check_trials(found)
        trials = records(found)
        ended = sum(trial.state.ended for trial in trials)
        enough = _enough(options, found, ended)
        if enough:
            if has_no_work(found, options, enough):
                return 0
            if not (options.finalists or options.retrain_on_all) or all(trial.f1 is None for trial in trials):
                return hand_over(found, options, SearchOutcome(Outcome(Reason.FINISHED, 0)))
        machine = machine_of(options, stack)
        space_file, is_other = _space_of(options, found)
        record = found.record()
        resolved = resolve(
            options,
            machine,
            space_file,
            record.has_weights,
            record.base_recipe,
            fixes_views=record.fixes_views,
            ranking=record.ranking,
        )
        # Where the trials are enough, only what follows them is left to do.
        resolved = replace(resolved, plan=replace(resolved.plan, trials=ended if enough else resolved.plan.trials))
        _check_design(options)
        check_trackers(options.log, options.study_storage)
        if is_other:
            vet(resolved.plan)
            say(f"The search goes on under another space, {resolved.space.name}: {known_trials(resolved.plan, found)}")
        say_all(resolved.notes)
        resolved = _shared(resolved, options, machine)
        if options.plan:
            known = known_trials(resolved.plan, found).known + n_importable(resolved.plan)
            print_plan(options, resolved, trials_of(found), ended, known)
            return 0
        _check_pixel_room(options, resolved.plan, found.record().data.photos)
        _check_or_prepare_data(options, resolved, found)
        found.write_record(found.record().changed(call={**found.record().call, **options.to_record()}))
        if is_other:
            _take_space(options, resolved, found)
        _write_config(options, resolved, found)
        ray = stack.enter_context(cluster.starting(options.address, is_guest=caller.is_guest))
        return _search(options, resolved, found, ray(), caller)


def _check_design(options: SearchOptions) -> None:
    """Raise CallError for what cannot be repeated so."""
    if options.finalists:
        design_of(options)


def _set_aside_damaged(run: SearchRun) -> None:
    """Set aside what cannot be read of the fits after the search, and say so: they are done again."""
    from tune.fitting.result import set_aside_damaged
    from tune.selection.predictions import PREDICTIONS, read_predictions

    fits = sorted(run.finalists.glob("[!.]*"))
    say_all(set_aside_damaged(fits, {PREDICTIONS: read_predictions}))


def _enough(options: SearchOptions, run: SearchRun, ended: int) -> str:
    """Why the run needs no more trials, as the rest of a sentence; "" where it does."""
    if options.trials is not None:
        wanted = f"has {ended} trials, and {options.trials} are wanted. More with --trials N."
        return wanted if ended >= options.trials else ""
    # A resume is given more time; the same command again means the same time. A session that had only to do what
    # follows the trials has a number of trials, and says nothing of the time.
    sessions = run.record().sessions if options.begin_or_resume else []
    if [one.reason for one in sessions if one.is_timed or not one.trials][-1:] == [Reason.TIME_UP]:
        return f"has {ended} trials, and its time is up. More with {run.resume_command} --time-budget TIME"
    return ""


def _shared(resolved: Resolved, options: SearchOptions, machine: Cluster) -> Resolved:
    """The plan with as many trials at a time as the GPU is to take, or as the memory holds; why is said."""
    plan = resolved.plan
    demand = Demand(drawn_recipes(plan), options, machine, plan.setting.scale, at_a_time(plan.trials), "trial")
    shared, notes = share_machine(resolved.share, demand, say)
    say_all(notes)
    return resolved.shared(shared, notes)


def _space_of(options: SearchOptions, found: SearchRun) -> tuple[Path | None, bool]:
    """The file of the space to go on with, if it is user-supplied, and whether it is another space than the run's."""
    copy, before = found.path / SPACE_COPY, SearchOptions.recorded(found.record()).space
    if not options.space.endswith(".py"):
        return None, options.space != before
    if options.space == before and (copy.exists() and not Path(options.space).is_file()):
        return copy, False
    given = Path(options.space)
    return given, not copy.exists() or SPACE_FILE.read_bytes(copy) != SPACE_FILE.read_bytes(given)


def _write_config(options: SearchOptions, resolved: Resolved, run: SearchRun) -> None:
    """Write the call for --config, with the scale as it was found and the run's own copy of a user-supplied space."""
    same: dict[str, str] = {"scale": resolved.plan.setting.scale}
    if options.space.endswith(".py"):
        same["space"] = str(run.path / SPACE_COPY)
    run.write_config(options.model_copy(update=same).to_config())


def _take_space(options: SearchOptions, resolved: Resolved, run: SearchRun) -> None:
    """Note in the run's record which space it goes on with, and keep a copy of a user-supplied one."""
    changed = run.record().changed(
        space=resolved.space_record, has_weights=dict(resolved.has_weights), notes=list(resolved.notes)
    )
    run.write_record(changed)
    (run.path / SPACE_COPY).unlink(missing_ok=True)
    _keep_space(options, run)


def _search(options: SearchOptions, resolved: Resolved, run: SearchRun, there: Cluster, caller: Caller) -> int:
    from tune.fitting.worker import run_fit
    from tune.runs.study import open_study
    from tune.search.driver import drive
    from tune.search.epochs import within_the_budget
    from tune.search.ranking import rank_first
    from tune.search.tracking import loggers

    plan = resolved.plan
    trials = "trials" if options.trials is None else f"{options.trials} trials"
    typer.echo(f"Run {run.name}: {trials} of space {resolved.space.name}, {plan.parallel} at a time, in {run.path}")
    say_dashboard(there)
    say_all(loggers.where(name, run) for name in options.log)
    shared = {"shares_run": options.storage is None, "sees_photos": not options.ships}
    check_nodes(run, [plan.base.weights], plan.cpus, plan.gpus, **shared)
    objective = functools.partial(run_fit, cache=options.cache_options, shared=plan.shares_features)
    # What was chosen was chosen among other trials; its fits are kept, so choosing again trains only what is missing.
    run.write_record(run.record().changed(choice=None))
    session = Session.begun(
        caller.words, trials=plan.trials, parallel=plan.parallel, sampler=plan.sampler, scheduler=plan.scheduler
    )
    nodes_aside.allow(options.max_failures)
    ships = options.ships and (options.address is not None or caller.is_guest)  # its program may have joined a cluster
    with noted(run, session) as note, shipping(run.path, options.cache_options, wanted=ships):
        ranked, plan = rank_first(plan.after_preparation(caller.called_at), run, options)
        if ranked.reason == Reason.INTERRUPTED:
            note(ranked.reason)
            return hand_over(run, options, SearchOutcome(replace(ranked, remaining=plan.trials)))
        began = time.monotonic()
        plan = within_the_budget(plan, run, options)
        study_for_space(open_study(run), plan, _fingerprint(options, run))
        to_follow = fits_left(run, options, plan)
        imports = import_meanwhile()
        with _study_copied(options, run) as copies:
            searched = drive(
                *(replace(plan, time_budget_s=plan.left_s(began)), run, objective),
                log=options.log,
                fits_left=to_follow,
                keeping=keeping_of(options),
                callbacks=copies,
            )
        imports.join()
        outcome = SearchOutcome(searched.finished_if_last(is_last=not (options.finalists or options.retrain_on_all)))
        if outcome.goes_on and options.finalists:
            outcome = replace(outcome, chosen=choose(run, options, plan, plan.left_s(began)))
        if outcome.goes_on and options.retrain_on_all:
            last = retrain(run, options, plan, plan.left_s(began), outcome.chosen)
            outcome = replace(outcome, retrained=last and last.finished_if_last(is_last=True))
        note(outcome.reason)
    return hand_over(run, options, outcome)


@contextmanager
def _study_copied(options: SearchOptions, run: SearchRun) -> Iterator[list[StudyCopy]]:
    """Within the block, copy the study to the storage of --study-storage, if there is one, by the callback yielded."""
    if options.study_storage is None:
        yield []
        return
    from tune.search.tracking.study_copy import StudyCopy  # imports Ray

    copy = StudyCopy(options.study_storage, run)
    try:
        yield [copy]
    finally:
        copy.close()


def _fingerprint(options: SearchOptions, run: SearchRun) -> str:
    """The space's name, or a digest of a user-supplied one: another one for another space."""
    copy = run.path / SPACE_COPY
    return hashlib.sha256(SPACE_FILE.read_bytes(copy)).hexdigest()[:12] if copy.exists() else options.space


def _check_or_prepare_data(options: SearchOptions, resolved: Resolved, run: SearchRun) -> None:
    """Compare the run's photos with what they are now; where a killed driver left none, put them in place."""
    if has_data(run):
        check_data(run, options)
        before = SearchOptions.recorded(run.record())
        is_other = (options.repeats, options.repeat_by) != (before.repeats, before.repeat_by) or not before.finalists
        if options.finalists and options.repeat_by == "folds" and is_other:
            check_repeats(faces_of(run, options), options.repeats)
    else:
        _prepare_data(options, resolved, run)


def _prepare_data(options: SearchOptions, resolved: Resolved, run: SearchRun) -> None:
    """Put the run's photos and split in place, and decode the pixels of the preset's size before trials need them."""
    from maskcls.training.fit_data import check_trainable

    faces = prepared(options)
    if options.finalists and options.repeat_by == "folds":
        check_repeats(faces, options.repeats)
    base, plan = resolved.plan.base, resolved.plan
    check_trainable(base, faces)
    _check_pixel_room(options, plan, len(faces.photos))
    faces.pixels(base.image_size, progress=True, face_crop=base.face_crop)
    for face_crop in sorted({crop for _, crop in geometries(plan)} - {"none", base.face_crop}):
        # Its log says in how many photos no face is found, and so it is at any size.
        faces.pixels(base.image_size, progress=True, face_crop=face_crop)
    _keep_space(options, run)
    noted = note_files(run, faces, options)
    faces.save(run.data)
    data = DataRecord(photos=len(faces.photos), people=n_people(faces), digest=faces.digest, **noted)
    run.write_record(run.record().changed(data=data, split_digest=faces.split.digest))


def _check_pixel_room(options: SearchOptions, plan: SearchPlan, photos: int) -> None:
    """Say what decoded photos need, if it is more than they may take. Raises CallError if some trials could not run.

    Args:
        photos: 0 where they have not been read yet.
    """
    say_all(pixel_room(geometries(plan), photos, options.pixel_store_gb, at_a_time=plan.parallel, unit="trial"))


def _keep_space(options: SearchOptions, run: SearchRun) -> None:
    """Copy a user-supplied space into the run, for a resume to go on with."""
    if options.space.endswith(".py") and not (run.path / SPACE_COPY).exists():
        shutil.copyfile(options.space, run.path / SPACE_COPY)


def _check_weights(resolved: Resolved) -> None:
    """Check the preset's backbone before anything is begun. Raises CallError or RunError."""
    base = resolved.plan.base
    names = base.weights == HUB or any("backbone" in key for key in resolved.plan.explicit)
    check_weights([base], names=names)
