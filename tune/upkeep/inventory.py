"""What lies under --runs: each run's state, scores and size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from maskcls.errors import CallError, MaskclsError
from maskcls.files import expanded
from maskcls.text import counted
from tune.runs import leaderboard
from tune.runs.folder import KINDS, ComparisonRun, RunFolder, SearchRun
from tune.runs.holdout_record import holdout_evaluations
from tune.runs.record import NOT_ENDED, RunRecord
from tune.runs.study import records

_TYPES = (SearchRun, ComparisonRun)


@dataclass(frozen=True)
class RunSummary:
    """One run in words and numbers. `best` and `holdout` are macro F1; None where there is none."""

    name: str
    kind: str
    state: str
    began: str
    done: str
    best: float | None
    holdout: float | None
    n_bytes: int
    scores: tuple[str, ...] = ()
    """Lines about its best trial and its holdout score."""
    problem: str = ""
    """Why not all could be read."""


def summaries(runs: Path) -> list[RunSummary]:
    """Return every run under the folder, the latest first. One that is damaged is among them, with its problem."""
    found = [_type_of(folder)(folder.absolute()) for folder in runs.glob("[!.]*") if _is_run(folder)]
    return sorted(map(summary, found), key=lambda one: one.began, reverse=True)


def open_any(run: str, runs: Path) -> SearchRun | ComparisonRun:
    """Return an existing run of either kind, by path or by its name. Raises CallError, listing the runs there are."""
    for place in (expanded(run), runs / run):
        if _is_run(place):
            return _type_of(place)(place.absolute())
    there = ", ".join(sorted(folder.name for folder in runs.glob("[!.]*") if _is_run(folder))) or "none"
    raise CallError(f"There is no run {run!r}. Expected a run's folder, or its name under {runs}. Runs there: {there}.")


def summary(run: SearchRun | ComparisonRun) -> RunSummary:
    """Return a run's summary; what cannot be read is said in it."""
    kind = KINDS[run.record_name][0].removeprefix("a ")
    size = sum(n_bytes for _, n_bytes in parts_of(run))
    try:
        record = run.record()
        began = record.created[:16].replace("T", " ")
        state = state_of(record)
        if isinstance(run, ComparisonRun):
            fits = len(list(run.path.glob("fits/*/result.json")))
            return RunSummary(run.name, kind, state, began, counted(fits, "fit"), None, None, size)
        return _of_search(run, RunSummary(run.name, kind, state, began, "", None, None, size))
    except MaskclsError as error:
        return RunSummary(run.name, kind, "damaged", "", "", None, None, size, problem=str(error))


def _of_search(run: SearchRun, so_far: RunSummary) -> RunSummary:
    trials = records(run)
    best = leaderboard.best(trials)
    evaluations = holdout_evaluations(run.record())
    scores = [] if best is None else [f"Best: trial {best.trial_id}, validation macro F1 {best.f1:.4f}."]
    if evaluations:
        last = evaluations[-1]
        scores.append(f"Holdout, {last.what}: {last.f1:.4f} {last.interval}, {last.people_text}.")
    return replace(
        so_far,
        done=counted(sum(trial.state.ended for trial in trials), "trial"),
        best=best.f1 if best else None,
        holdout=evaluations[-1].f1 if evaluations else None,
        scores=tuple(scores),
    )


def parts_of(run: RunFolder) -> list[tuple[str, int]]:
    """Return the size in bytes of each folder of the run, and of its files together, the largest first."""
    sizes: dict[str, int] = {}
    for file, n_bytes in _files(run.path):
        place = file.relative_to(run.path).parts
        name = f"{place[0]}/" if len(place) > 1 else "other files"
        sizes[name] = sizes.get(name, 0) + n_bytes
    return sorted(sizes.items(), key=lambda one: -one[1])


def state_of(record: RunRecord) -> str:
    """Return how the last session ended, in its own words."""
    return record.sessions[-1].reason if record.sessions else NOT_ENDED


def _is_run(folder: Path) -> bool:
    return any((folder / kind.record_name).is_file() for kind in _TYPES)


def _type_of(folder: Path) -> type[SearchRun] | type[ComparisonRun]:
    return SearchRun if (folder / SearchRun.record_name).is_file() else ComparisonRun


def _files(folder: Path) -> Iterator[tuple[Path, int]]:
    return matching(folder, "**/*")


def matching(folder: Path, pattern: str) -> Iterator[tuple[Path, int]]:
    """Yield the files and their sizes; a file that goes away meanwhile is left out, and links are not followed."""
    for file in folder.glob(pattern):
        try:
            found = file.lstat()
        except FileNotFoundError:
            continue
        if not file.is_dir() or file.is_symlink():
            yield file, found.st_size
