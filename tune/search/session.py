"""What `tune.search` does around the search: a run made or found, data made ready, Ray connected; then the choice, and what is left."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from maskcls.cli import INTERRUPTED as INTERRUPTED_STATUS
from maskcls.errors import CallError
from tune.runs import cluster
from tune.runs.folder import SearchRun, remove
from tune.runs.record import environment, now
from tune.runs.stopping import Outcome, Reason
from tune.search.dry_run import show
from tune.search.ending import SearchOutcome, choose, design_of, finish, hand_over, handed_over, resume_command, retrain
from tune.search.first_trials import refuse_contradictions
from tune.search.gpu_sharing import share_gpus
from tune.search.options import IDENTITY, SPACE_COPY, Call, Resolved, cache_options, prepared, resolve
from tune.search.plan import SearchPlan, vet


def run(options: Mapping[str, Any], stated: Set[str]) -> int:
    """The door's work. `stated` names the options that the call gave itself. Returns the exit status."""
    options = {
        **options,
        "address": options["address"] or os.environ.get("RAY_ADDRESS"),
    }  # set in a job that was submitted
    if options["resume"] is not None:
        found = SearchRun.open(options["resume"], options["runs"])
        return _resume(recorded_call(found, options, stated), found, options)
    if options["space"] is None:
        from search_spaces import names

        raise CallError(
            f"--space is missing. Spaces: {', '.join(names())}, or a Python file that defines SPACE. See --list-spaces."
        )
    return _begin(Call.of(options), options)


def recorded_call(found: SearchRun, options: Mapping[str, Any], stated: Set[str]) -> Call:
    """The run's own call, with this one's say in how much work is done where, and in which space. Raises CallError for contradictions."""
    call = Call.recorded(found, options)
    this = Call.of({**options, "space": options["space"] or call.space})
    told = {**call.record(), "name": found.name}
    given = {**this.record(), "name": options["name"]}
    identity = [name for name in (*IDENTITY, "name") if name != "space"]
    compared = [name for name in identity if name in stated and not (name == "scale" and this.scale == "auto")]
    refuse_contradictions({name: told[name] for name in compared}, {name: given[name] for name in compared}, found.name)
    return replace(call, space=this.space) if "space" in stated else call


def _begin(call: Call, options: Mapping[str, Any]) -> int:
    with ExitStack() as stack:
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        resolved = resolve(call, machine)
        _say_notes(resolved)
        if options["name"]:
            SearchRun.check_free(options["runs"], options["name"])
        vet(resolved.plan)
        if call.finalists:
            design_of(call)  # refuses what cannot be repeated so
        _check_weights(resolved)
        resolved = share_gpus(resolved, call, machine, cache_options(options).folder)
        if options["plan"]:
            show(call, resolved, options["feature_store_gb"])
            return 0
        name = options["name"] or f"{resolved.space.name}-{datetime.now():%Y%m%d-%H%M%S}"
        made = SearchRun.create(options["runs"], name, _search_record(call, resolved))
        stack.enter_context(made.driving())
        ray = stack.enter_context(cluster.starting(options["address"]))
        try:
            _prepare_data(call, resolved, made, options)
        except BaseException:
            remove(made)
            raise
        return _search(call, resolved, made, ray(), options)


def _resume(call: Call, found: SearchRun, options: Mapping[str, Any]) -> int:
    from tune.runs.study import records
    from tune.states import TrialState

    with ExitStack() as stack:
        if not options["plan"]:
            stack.enter_context(found.driving())
        trials = records(found)
        ended = sum(trial.state != TrialState.UNFINISHED for trial in trials)
        if call.trials is not None and ended >= call.trials:
            if options["plan"] or handed_over(found, call):
                typer.echo(
                    f"Nothing is left to do: {found.name} has {ended} trials, and {call.trials} are wanted. More with --trials N."
                )
                return 0
            if not (call.finalists or call.retrain_on_all) or all(trial.f1 is None for trial in trials):
                return hand_over(found, SearchOutcome(Outcome(Reason.FINISHED, 0)), options)
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        space_file, is_other = _space_of(call, found)
        resolved = resolve(call, machine, space_file, found.search().get("has_weights"))
        if call.finalists:
            design_of(call)
        if is_other:
            vet(resolved.plan)
            typer.echo(
                f"The search goes on under another space, {resolved.space.name}, with all that it knows.", err=True
            )
        _say_notes(resolved)
        resolved = share_gpus(resolved, call, machine, cache_options(options).folder)
        if options["plan"]:
            show(call, resolved, options["feature_store_gb"], ended)
            return 0
        found.write_search({**found.search(), "call": call.record()})
        if is_other:
            _take_space(call, resolved, found)
        if not (found.data / "photos.csv").exists() or not (found.data / "split.json").exists():
            _prepare_data(call, resolved, found, options)
        return _search(call, resolved, found, stack.enter_context(cluster.connected(options["address"])), options)


def _space_of(call: Call, found: SearchRun) -> tuple[Path | None, bool]:
    """The file of the space to go on with, where it is one's own, and whether it is another space than the run's."""
    copy, before = found.path / SPACE_COPY, found.search()["call"]["space"]
    if not call.space.endswith(".py"):
        return None, call.space != before
    if call.space == before and (copy.exists() and not Path(call.space).is_file()):
        return copy, False
    return Path(call.space), not copy.exists() or copy.read_bytes() != Path(call.space).read_bytes()


def _take_space(call: Call, resolved: Resolved, run: SearchRun) -> None:
    """Say in the run's record which space it goes on with, and keep a copy of one's own."""
    told = {"space": _space_told(resolved), "has_weights": dict(resolved.has_weights), "notes": list(resolved.notes)}
    run.write_search({**run.search(), **told})
    (run.path / SPACE_COPY).unlink(missing_ok=True)
    _keep_space(call, run)


def _search(call: Call, resolved: Resolved, run: SearchRun, there: cluster.Cluster, options: Mapping[str, Any]) -> int:
    from tune.fitting.worker import run_fit
    from tune.runs.study import open_study
    from tune.search.driver import drive
    from tune.search.warm_start import study_for_space
    from tune.selection.record import CHOICE

    plan = resolved.plan
    trials = "trials" if call.trials is None else f"{call.trials} trials"
    typer.echo(f"Run {run.name}: {trials} of space {resolved.space.name}, {plan.parallel} at a time, in {run.path}")
    if there.dashboard:
        typer.echo(
            f"Ray's dashboard: http://{there.dashboard} (it asks for a token: `{cluster.TOKEN_COMMAND}` prints it)"
        )
    objective = functools.partial(run_fit, cache=cache_options(options), shared=plan.shares_features)
    began = time.monotonic()
    # What was chosen was chosen among other trials; its fits are kept, so choosing again trains only what is missing.
    run.write_search({name: value for name, value in run.search().items() if name != CHOICE})
    with _noted(run, plan) as note:
        study_for_space(open_study(run), plan, _fingerprint(call, run))
        ending = SearchOutcome(drive(plan, run, objective))
        if ending.goes_on and call.finalists:
            ending = replace(ending, chosen=choose(run, call, plan, _left_s(plan, began), options))
        if ending.goes_on and ending.chosen is not None:
            ending = replace(ending, finished=finish(run, plan, ending.chosen, _left_s(plan, began), options))
        if ending.goes_on and call.retrain_on_all:
            ending = replace(ending, retrained=retrain(run, plan, ending.chosen, _left_s(plan, began), options))
        note(ending.reason)
    status = hand_over(run, ending, options)
    return INTERRUPTED_STATUS if ending.reason == Reason.INTERRUPTED else status


def _left_s(plan: SearchPlan, began: float) -> float | None:
    return None if plan.time_budget_s is None else max(0.0, plan.time_budget_s - (time.monotonic() - began))


@contextmanager
def _noted(run: SearchRun, plan: SearchPlan) -> Iterator[Callable[[str], None]]:
    """Notes in the run's record that a driver works on it; the block says how that ended."""
    begun = {"began": now(), "argv": sys.argv[1:], "trials": plan.trials, "parallel": plan.parallel, **environment()}
    begun |= {"sampler": plan.sampler, "scheduler": plan.scheduler}
    parts = run.search()["parts"]

    def write(**how: str) -> None:
        run.write_search({**run.search(), "parts": [*parts, {**begun, **how}]})

    write(why="killed, or still running")
    try:
        yield lambda why: write(ended=now(), why=why)
    except BaseException as error:
        with suppress(OSError):  # the disk may be what was full
            write(ended=now(), why="aborted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
        if isinstance(error, KeyboardInterrupt):
            typer.echo(f"Aborted. What was done is kept; to go on:\n  {resume_command(run)}", err=True)
        raise


def _fingerprint(call: Call, run: SearchRun) -> str:
    """Another one for another space."""
    copy = run.path / SPACE_COPY
    return hashlib.sha256(copy.read_bytes()).hexdigest()[:12] if copy.exists() else call.space


def _prepare_data(call: Call, resolved: Resolved, run: SearchRun, options: Mapping[str, Any]) -> None:
    """The run's photos and split, and the pixels of the preset's size, decoded before trials wait for them."""
    from maskcls.training.fit_data import check_trainable

    faces = prepared(call, options)
    check_trainable(resolved.plan.base, faces)
    base = resolved.plan.base
    faces.pixels(base.image_size, progress=True, face_crop=base.face_crop)
    if "face_crop" in resolved.plan.space.parameters(
        resolved.plan.setting
    ):  # its log says how many photos have no face, at any size
        faces.pixels(base.image_size, progress=True, face_crop="haar")
    _keep_space(call, run)
    faces.save(run.data)
    digests = {"photos": len(faces.photos), "people": faces.photos["person"].nunique(), "digest": faces.digest}
    run.write_search({**run.search(), "data": digests, "split_digest": faces.split.digest})


def _keep_space(call: Call, run: SearchRun) -> None:
    """A copy of a space of one's own, which a resume goes on with."""
    if call.space.endswith(".py") and not (run.path / SPACE_COPY).exists():
        shutil.copyfile(call.space, run.path / SPACE_COPY)


def _space_told(resolved: Resolved) -> dict[str, str]:
    return {"name": resolved.space.name, "question": resolved.space.question}


def _check_weights(resolved: Resolved) -> None:
    """The preset's backbone must be there before anything is begun. Raises CallError or RunError."""
    from maskcls.models.weights import HUB, check_reachable

    base = resolved.plan.base
    if base.weights == HUB or any("backbone" in key for key in resolved.plan.explicit):
        from maskcls.models.backbones import check_backbones  # imports timm: 4 s

        check_backbones(base)
    check_reachable(base.backbone, base.weights)


def _search_record(call: Call, resolved: Resolved) -> dict[str, Any]:
    plan = resolved.plan
    # A resume must search what was searched, so the scale is kept as it was found.
    told = {**call.record(), "scale": plan.setting.scale}
    return {
        "format": 1,
        "created": now(),
        "call": told,
        "space": _space_told(resolved),
        "base_recipe": plan.base.model_dump(),
        "notes": list(resolved.notes),
        "has_weights": dict(resolved.has_weights),
        "parts": [],
    }


def _say_notes(resolved: Resolved) -> None:
    for note in resolved.notes:
        typer.echo(note, err=True)
