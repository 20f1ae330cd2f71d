"""What `tune.search` does around the search: a run made or found, data made ready, Ray connected, the best exported, a summary."""

import functools
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Set
from contextlib import ExitStack, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

from maskcls.cli import INTERRUPTED as INTERRUPTED_STATUS
from maskcls.errors import CallError, MaskclsError
from tune import cluster
from tune.call import IDENTITY, SPACE_COPY, Call, Resolved, prepared, resolve
from tune.environment import environment, now
from tune.forecast import show
from tune.plan import vet
from tune.resume import refuse_contradictions
from tune.run_dir import RunDir, remove
from tune.stopping import FINISHED, INTERRUPTED, Outcome

if TYPE_CHECKING:
    from tune.study import Record


def run(options: Mapping[str, Any], stated: Set[str]) -> int:
    """The door's work. `stated` names the options that the call gave itself. Returns the exit status."""
    options = {**options, "address": options["address"] or os.environ.get("RAY_ADDRESS")}  # set in a job that was submitted
    if options["resume"] is not None:
        found = RunDir.open(options["resume"], options["runs"])
        call = recorded_call(found, options, stated)
        return _resume(call, found, options)
    if options["space"] is None:
        from search_spaces import names

        raise CallError(f"--space is missing. Spaces: {', '.join(names())}, or a Python file that defines SPACE. See --list-spaces.")
    return _begin(Call.of(options), options)


def recorded_call(found: RunDir, options: Mapping[str, Any], stated: Set[str]) -> Call:
    """The run's own call, with this one's say in how much work is done where. Raises CallError for what contradicts the run."""
    call = Call.recorded(found, options)
    this = Call.of({**options, "space": options["space"] or call.space})
    told = {**call.record(), "name": found.name}
    given = {**this.record(), "name": options["name"]}
    compared = [name for name in (*IDENTITY, "name") if name in stated and not (name == "scale" and this.scale == "auto")]
    refuse_contradictions({name: told[name] for name in compared}, {name: given[name] for name in compared}, found.name)
    return call


def _begin(call: Call, options: Mapping[str, Any]) -> int:
    with ExitStack() as stack:
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        resolved = resolve(call, machine)
        _say_notes(resolved)
        if options["name"]:
            RunDir.check_free(options["runs"], options["name"])
        vet(resolved.plan)
        _check_weights(resolved)
        if options["plan"]:
            show(call, resolved)
            return 0
        name = options["name"] or f"{resolved.space.name}-{datetime.now():%Y%m%d-%H%M%S}"
        made = RunDir.create(options["runs"], name, _search_record(call, resolved))
        stack.enter_context(made.driving())
        try:
            _prepare_data(call, resolved, made, options)
        except BaseException:
            remove(made)
            raise
        return _search(resolved, made, stack, options)


def _resume(call: Call, found: RunDir, options: Mapping[str, Any]) -> int:
    from tune.study import records
    from tune.trainable import UNFINISHED

    with ExitStack() as stack:
        if not options["plan"]:
            stack.enter_context(found.driving())
        ended = sum(trial.state != UNFINISHED for trial in records(found))
        if ended >= call.trials:
            typer.echo(f"Nothing is left to do: {found.name} has {ended} trials, and {call.trials} are wanted. More with --trials N.")
            return 0 if options["plan"] or _handed_over(found) else _hand_over_late(found)
        machine = stack.enter_context(cluster.connected(options["address"])) if options["address"] else cluster.here()
        copy = found.path / SPACE_COPY
        resolved = resolve(call, machine, copy if copy.exists() else None, found.search().get("has_weights"))
        _say_notes(resolved)
        if options["plan"]:
            show(call, resolved, ended)
            return 0
        found.write_search({**found.search(), "call": call.record()})
        if not (found.data / "photos.csv").exists() or not (found.data / "split.json").exists():
            _prepare_data(call, resolved, found, options)
        return _search(resolved, found, stack, options)


def _search(resolved: Resolved, run: RunDir, stack: ExitStack, options: Mapping[str, Any]) -> int:
    from tune.driver import drive
    from tune.trainable import fit_trial

    there = stack.enter_context(cluster.connected(options["address"]))
    plan = resolved.plan
    typer.echo(f"Run {run.name}: {plan.trials} trials of space {resolved.space.name}, {plan.parallel} at a time, in {run.path}")
    if there.dashboard:
        typer.echo(f"Ray's dashboard: http://{there.dashboard} (it asks for a token: `{cluster.TOKEN_COMMAND}` prints it)")
    cache = options["cache"] and options["cache"].expanduser().resolve()
    objective = functools.partial(fit_trial, cache=cache, pixel_store_gb=options["pixel_store_gb"])
    begun = {"began": now(), "argv": sys.argv[1:], "trials": plan.trials, "parallel": plan.parallel, **environment()}
    parts = run.search()["parts"]

    def note(**how: str) -> None:
        run.write_search({**run.search(), "parts": [*parts, {**begun, **how}]})

    note(why="killed, or still running")
    try:
        outcome = drive(plan, run, objective)
    except BaseException as error:
        with suppress(OSError):  # the disk may be what was full
            note(ended=now(), why="aborted" if isinstance(error, KeyboardInterrupt) else f"failed: {error}")
        if isinstance(error, KeyboardInterrupt):
            typer.echo(f"Aborted. What was done is kept; to go on:\n  {_resume_command(run)}", err=True)
        raise
    note(ended=now(), why=outcome.why)
    status = _hand_over(run, outcome)
    return INTERRUPTED_STATUS if outcome.why == INTERRUPTED else status


def _resume_command(run: RunDir) -> str:
    return f"python -m tune.search --resume {run.path}"


def _handed_over(run: RunDir) -> bool:
    """Whether best/ and the report tell the study's last word: a driver may be killed between its last trial and these."""
    made = [file for file in (run.best / "bundle.json", run.report) if file.exists()]
    return len(made) == 2 and min(file.stat().st_mtime for file in made) >= run.journal.stat().st_mtime


def _hand_over_late(run: RunDir) -> int:
    from tune import leaderboard
    from tune.study import records

    leaderboard.write(run, records(run))
    return _hand_over(run, Outcome(FINISHED, 0))


def _hand_over(run: RunDir, outcome: Outcome) -> int:
    """best/, report.html and the summary; what cannot be exported is said, and does not hide the rest. Returns the exit status."""
    from tune import leaderboard
    from tune.export import export_trial
    from tune.report import write_report
    from tune.study import records

    trials = records(run)
    best = leaderboard.best(trials)
    exported = best is not None and _try("The best trial could not be exported", lambda: export_trial(run, best.trial_id, run.best, True))
    reported = _try("The report could not be written", lambda: write_report(run))
    typer.echo("\n".join(summary(run, trials, outcome.why, exported, reported)))
    if outcome.left > 0:
        typer.echo(f"{outcome.left} trials are left to do ({outcome.why}). To go on:\n  {_resume_command(run)}")
    return 0 if exported else 1


def summary(run: RunDir, trials: "list[Record]", why: str, exported: bool, reported: bool) -> list[str]:
    """What the search found, in a few lines."""
    from tune import leaderboard

    states = [trial.state for trial in trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none"
    lines = [f"Search {why}. Trials: {counts}. Leaderboard: {run.leaderboard}" + (f", report: {run.report}" if reported else "")]
    best, preset = leaderboard.best(trials), leaderboard.preset(trials)
    if best is None or best.f1 is None:
        return [*lines, "No trial has finished an epoch, so there is no best one."]
    lines.append(f"Best: trial {best.trial_id}, validation macro F1 {best.f1:.4f} at epoch {best.best_epoch} of {best.epochs}.")
    if preset is not None and preset.f1 is not None:
        itself = " It is the preset itself." if best is preset else ""
        lines.append(f"Gain over the preset (trial {preset.trial_id}, {preset.f1:.4f}): {best.f1 - preset.f1:+.4f}.{itself}")
    if best.overrides:
        lines.append("Its choices: " + ", ".join(f"{key}={_short(value)}" for key, value in best.overrides.items()))
    if exported:
        lines.append(f"To predict:\n  python -m maskcls.predict --bundle {run.best} --images DIR --out submission.csv")
    return lines


def _prepare_data(call: Call, resolved: Resolved, run: RunDir, options: Mapping[str, Any]) -> None:
    """The run's photos and split, and the pixels of the preset's size, decoded before trials wait for them."""
    from maskcls.training.fit_data import check_trainable

    faces = prepared(call, options)
    check_trainable(resolved.plan.base, faces)
    base = resolved.plan.base
    faces.pixels(base.image_size, progress=True, face_crop=base.face_crop)
    if "face_crop" in resolved.plan.space.parameters(resolved.plan.setting):  # its log says how many photos have no face, at any size
        faces.pixels(base.image_size, progress=True, face_crop="haar")
    if call.space.endswith(".py"):
        shutil.copyfile(call.space, run.path / SPACE_COPY)
    faces.save(run.data)
    digests = {"photos": len(faces.photos), "people": faces.photos["person"].nunique(), "digest": faces.digest}
    run.write_search({**run.search(), "data": digests, "split_digest": faces.split.digest})


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
        "space": {"name": resolved.space.name, "question": resolved.space.question},
        "base_recipe": plan.base.model_dump(),
        "notes": list(resolved.notes),
        "has_weights": dict(resolved.has_weights),
        "parts": [],
    }


def _say_notes(resolved: Resolved) -> None:
    for note in resolved.notes:
        typer.echo(note, err=True)


def _try(what: str, do: Callable[[], None]) -> bool:
    try:
        do()
    except MaskclsError as error:
        typer.echo(f"{what}: {error}", err=True)
        return False
    return True


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
