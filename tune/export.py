"""`python -m tune.export --run RUN --out DIR`: a trial of a search as a bundle, an ONNX graph, or for timm."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskcls.cli import run as run_command
from maskcls.errors import CallError
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import first, predict_command, printable

if TYPE_CHECKING:
    from tune.runs.folder import SearchRun
    from tune.runs.study import Record

NAMED = 20
_OF_ONE = "timm's format is of one model"


_Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="Folder for the bundle; must not exist, or be a bundle with --overwrite. With --timm, for its files.",
        show_default="with --onnx, the bundle gets the graph where it is",
    ),
]
_Trial = Annotated[
    str | None,
    typer.Option(
        "--trial",
        help="Which trial, as its number on the leaderboard.",
        show_default="the best; with --onnx the winner, in best/; with --timm its own model",
    ),
]
_Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="A bundle of this run, as of tune.ensemble, instead of a trial.")
]
_Bag = Annotated[
    bool,
    typer.Option("--bag", help="The winner, its repeats and other trials as one bundle, which averages them."),
]
_Single = Annotated[bool, typer.Option("--single", help="The winner's own model alone, where best/ is a bag.")]
_Onnx = Annotated[
    bool,
    typer.Option(
        "--onnx", help="Add one ONNX graph of the whole bundle, compared with torch on the validation photos."
    ),
]
_Int8 = Annotated[
    bool, typer.Option("--int8", help="With --onnx: a graph in 8-bit integers as well, unless macro F1 falls by 0.01.")
]
_Timm = Annotated[
    bool,
    typer.Option("--timm", help="Write a folder that timm and the Hub load, with a model card; of a single model."),
]
_Push = Annotated[
    str | None,
    typer.Option("--push", help="With --timm: USER/NAME of a repository at the Hub to upload to.", show_default="none"),
]


def main(
    run: Annotated[str, typer.Option("--run", help="The search: its folder, or its name under --runs.")],
    out: _Out = None,
    trial: _Trial = None,
    bundle: _Bundle = None,
    bag: _Bag = False,
    single: _Single = False,
    onnx: _Onnx = False,
    int8: _Int8 = False,
    timm: _Timm = False,
    push: _Push = None,
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the bundle in --out.")] = False,
) -> None:
    """Export the best epoch, by validation macro F1, of a search's best trial, or of any other, as a bundle.

    With --bag the models of the winner, its repeats and other trials answer together; with --single its own alone.
    With --onnx the bundle has a graph by which predict and serve need no torch (--engine onnx). With --timm a folder in
    timm's format is written instead of a bundle.
    """
    from tune.runs.folder import SearchRun

    _check_winner(out, trial, bundle, bag=bag, single=single, timm=timm)
    _check_call(out, trial, bundle, onnx=onnx, int8=int8, timm=timm, push=push)
    found = SearchRun.open(run, runs)
    if bundle is None and trial is None and (onnx or timm) and (found.best / "bundle.json").exists():
        bundle = found.best
    if timm and out is not None:
        _export_timm(found, trial, bundle, out, push, single=single)
        return
    if bag and out is not None:
        _export_bag(found, out, overwrite)
    elif single and out is not None:
        _export_single(found, out, overwrite)
    elif bundle is None and out is not None:
        _export_trial(found, trial, out, overwrite)
    elif bundle is not None and out is not None:
        _copy(bundle, out, overwrite)
    target = out or bundle
    if target is None:
        raise CallError(f"{found.name} has no bundle in {found.best}. Name a folder for a trial's with --out.")
    if onnx:
        from tune.selection.graphs import add_graph

        typer.echo("\n".join(add_graph(found, target, int8=int8)))
        typer.echo(f"To predict without torch:\n  {predict_command(target)} --engine onnx")


def _check_call(
    out: Path | None, trial: str | None, bundle: Path | None, *, onnx: bool, int8: bool, timm: bool, push: str | None
) -> None:
    if out is None and (timm or not onnx):
        raise CallError("Name a folder with --out; only --onnx works without one, on the bundle that is there.")
    if timm and onnx:
        raise CallError("--timm and --onnx write different folders. Call the command once for each.")
    if bundle is not None and trial is not None:
        raise CallError("Give either --trial or --bundle.")
    if bundle is not None and not (onnx or timm):
        raise CallError(f"{bundle} is a bundle already. Say in which format it is wanted: --onnx or --timm.")
    for option, is_given, needed, is_there in (("--int8", int8, "--onnx", onnx), ("--push", push, "--timm", timm)):
        if is_given and not is_there:
            raise CallError(f"{option} belongs to {needed}, which is not given.")


def _check_winner(
    out: Path | None, trial: str | None, bundle: Path | None, *, bag: bool, single: bool, timm: bool
) -> None:
    """Refuse what contradicts --bag and --single, which are both of the winner."""
    for option, is_given, what, others in (
        ("--bag", bag, "the winner and all its models", (("--single", single), ("--timm", timm))),
        ("--single", single, "the winner's own model", (("--bag", bag),)),
    ):
        if not is_given:
            continue
        if out is None:
            raise CallError(f"{option} writes a bundle. Name its folder with --out.")
        for other, is_there in (("--trial", trial is not None), ("--bundle", bundle is not None), *others):
            if is_there:
                raise CallError(f"{option} is of {what}. Leave out {other}.")


def _export_bag(found: SearchRun, out: Path, overwrite: bool) -> None:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.export import check_writable
    from tune.selection.bag import export_bag, find_bag, summary

    check_writable(out, overwrite=overwrite)
    faces = FaceDataset.load(found.data, CacheOptions(found.path))  # photos are read from their files
    bag = find_bag(found, faces)
    lines = summary(bag, export_bag(found, faces, bag, out, overwrite=overwrite))
    typer.echo(printable("\n".join([*lines, f"The bundle is {out}. To predict:\n  {predict_command(out)}"])))


def _export_single(found: SearchRun, out: Path, overwrite: bool) -> None:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.export import check_writable
    from tune.report.group_record import note_groups
    from tune.selection.bag import winner_of
    from tune.selection.export import export_winner

    check_writable(out, overwrite=overwrite)
    faces = FaceDataset.load(found.data, CacheOptions(found.path))  # photos are read from their files
    winner, _ = winner_of(found, faces, "--single is the winner's own model")
    export_winner(found, winner, out=out)
    note_groups(found, out)
    typer.echo(
        printable(
            f"The own model of the winner, trial {winner.trial_id} of {found.name}, is in {out}. "
            f"To predict:\n  {predict_command(out)}"
        )
    )


def _export_trial(found: SearchRun, trial: str | None, out: Path, overwrite: bool) -> None:
    from tune.report.group_record import note_groups
    from tune.runs.session import say_all
    from tune.runs.study import records
    from tune.selection.export import by_score, export_first, export_trial

    trials = records(found)
    chosen = choose(found, trials, trial)
    if trial is not None:
        export_trial(found, chosen.trial_id, out, overwrite)
    else:
        exported, passed_over = export_first(found, by_score(found, trials, out, overwrite), out)
        chosen = next(one for one in trials if one.trial_id == exported)
        say_all(passed_over)
    note_groups(found, out)
    typer.echo(
        f"Epoch {chosen.best_epoch} of trial {chosen.trial_id} of {found.name}, validation macro F1 "
        f"{chosen.f1:.4f}, is in {out}. "
        f"To predict:\n  {predict_command(out)}"
    )


def _copy(bundle: Path, out: Path, overwrite: bool) -> None:
    """Copy a bundle, so that the one that is there stays as it is."""
    from maskcls.serving.bundle import read_bundle
    from maskcls.serving.export import check_writable

    check_writable(out, overwrite=overwrite)
    read_bundle(bundle, with_models=False)
    if bundle.resolve() == out.resolve():
        return
    passing = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        shutil.copytree(bundle, passing)
        shutil.rmtree(out, ignore_errors=True)  # only now, so that a kill leaves no part of a bundle under the name
        passing.rename(out)
    finally:
        shutil.rmtree(passing, ignore_errors=True)


def _export_timm(
    found: SearchRun, trial: str | None, bundle: Path | None, out: Path, push: str | None, *, single: bool
) -> None:
    from maskcls.data.dataset import FaceDataset
    from maskcls.serving.bundle import read_bundle
    from maskcls.serving.timm_export import check_single, export_timm
    from tune.report.model_card import write_card
    from tune.runs.study import records
    from tune.selection.bag import winner_of
    from tune.selection.export import export_trial, export_winner
    from tune.selection.graphs import check_same_split

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CallError(f"{out} exists. Name a new folder for timm's files.")
    is_bag = bundle == found.best and len(read_bundle(found.best, with_models=False).classifiers) > 1
    with tempfile.TemporaryDirectory() as place:
        if single or is_bag:  # timm's format is of one model
            bundle = Path(place) / "bundle"
            winner, _ = winner_of(found, FaceDataset.load(found.data, CacheOptions(found.path)), _OF_ONE)
            export_winner(found, winner, out=bundle)
            typer.echo(f"{_OF_ONE}: the winner's own, trial {winner.trial_id}.")
        elif bundle is None:
            bundle = Path(place) / "bundle"
            export_trial(found, choose(found, records(found), trial).trial_id, bundle)
        model = read_bundle(bundle)
        check_single(model)
        faces = check_same_split(found, bundle)
        export_timm(out, model)
        write_card(out, found, model, faces)
    typer.echo(f"timm's files and a model card are in {out}: timm.create_model('local-dir:{out}', pretrained=True)")
    if push is not None:
        from maskcls.serving.hub import push as upload

        typer.echo(f"Uploaded, as a private repository: {upload(out, push)}")


def choose(run: SearchRun, trials: Sequence[Record], trial_id: str | None) -> Record:
    """The trial of that number, or the best. Raises CallError: there is none, or it has no finished epoch."""
    from tune.runs.leaderboard import ranked

    scored = [record for record in ranked(trials) if record.f1 is not None]
    if trial_id is None:
        if not scored:
            raise CallError(f"No trial of {run.name} has finished an epoch. Go on with it: {run.resume_command}")
        return scored[0]
    wanted = trial_id.zfill(4)
    chosen = next((record for record in trials if record.trial_id == wanted), None)
    there = _listed(scored)
    if chosen is None:
        raise CallError(
            f"There is no trial {trial_id!r} in {run.name}. Trials with a finished epoch, best first: {there}."
        )
    if chosen.f1 is None:
        message = f": {chosen.message}" if chosen.message else ""
        raise CallError(
            f"Trial {wanted} of {run.name} has no finished epoch ({chosen.state}{message}). Trials that have one, "
            f"best first: {there}."
        )
    return chosen


def _listed(scored: Sequence[Record]) -> str:
    return first([record.trial_id for record in scored], NAMED) or "none"


if __name__ == "__main__":
    run_command(main)
