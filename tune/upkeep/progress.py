"""How far a run has come, from its record and its journal, which a driver may be writing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from maskcls.errors import CallError, MaskclsError
from maskcls.storage.address import checked
from maskcls.storage.store import START_S, Store
from tune.runs import leaderboard
from tune.runs.folder import KINDS, ComparisonRun, SearchRun
from tune.runs.record import Session
from tune.runs.stored.folder import StoredFolder
from tune.runs.study import Record, records
from tune.selection.record import read_choice
from tune.states import TrialState
from tune.upkeep.inventory import state_of

_FAILURES = (TrialState.FAILED, TrialState.DIVERGED, TrialState.OUT_OF_MEMORY)


@dataclass(frozen=True)
class Best:
    """The trial with the highest validation macro F1."""

    trial: str
    f1: float
    epoch: int


@dataclass(frozen=True)
class HandedOver:
    """The winner of the choice, or where it is none yet the trial of the bag, whose bundle is in best/."""

    trial: str
    models: int
    """That answer for a photo: 1, or those of a bag."""
    holdout: float | None
    """Macro F1 there; None before the bundle was scored."""


@dataclass(frozen=True)
class Failure:
    """A trial that gave no result, or a bad one."""

    trial: str
    state: str
    message: str


@dataclass(frozen=True)
class RunStatus:
    """A run as it stands. Counts are of trials; of a comparison `ended` counts fits, and there is no more."""

    name: str
    kind: str
    state: str
    """How its last driver ended, or that it has not."""
    began: str
    path: str
    written: float = 0.0
    """When its journal was last written, seconds since 1970; 0 without one."""
    ended: int = 0
    wanted: int = 0
    """0: as many as the time allows."""
    epochs: int = 0
    """Of all trials together."""
    states: dict[str, int] = field(default_factory=dict)
    best: Best | None = None
    handed_over: HandedOver | None = None
    """None before a choice has picked a winner."""
    failures: tuple[Failure, ...] = ()
    nodes_aside: tuple[str, ...] = ()
    """Of each node that the last driver has set aside, why."""
    problem: str = ""
    """Why not all could be read."""


def status_of(run: SearchRun | ComparisonRun) -> RunStatus:
    """Return how a run stands; what cannot be read is said in it."""
    kind = KINDS[run.record_name][0].removeprefix("a ")
    try:
        record = run.record()
        began = record.created[:16].replace("T", " ")
        aside = tuple(record.sessions[-1].nodes_aside) if record.sessions else ()
        so_far = RunStatus(run.name, kind, state_of(record), began, str(run.path), nodes_aside=aside)
        if isinstance(run, ComparisonRun):
            return RunStatus(**{**vars(so_far), "ended": sum(1 for _ in run.path.glob("fits/*/result.json"))})
        last = record.sessions[-1] if record.sessions else Session()
        written = run.journal.stat().st_mtime if run.journal.exists() else 0.0
        return RunStatus(
            **{
                **vars(so_far),
                "wanted": 0 if last.is_timed else last.trials,
                "written": written,
                **_of_trials(records(run)),
                "handed_over": _of_choice(run),
            }
        )
    except MaskclsError as error:
        return RunStatus(run.name, kind, "damaged", "", str(run.path), problem=str(error))


def _of_choice(run: SearchRun) -> HandedOver | None:
    choice = read_choice(run.record())
    bag = choice.bag if choice is not None and choice.is_bag else None
    trial = choice and (choice.winner_id or (bag and bag.trial))
    if choice is None or not trial:
        return None
    return HandedOver(trial, bag.models if bag else 1, choice.holdout.f1 if choice.holdout else None)


def stored_status(name: str, address: str) -> RunStatus:
    """Return how a search stands by what a storage keeps of it. Raises CallError if it has no such search.

    Args:
        name: or a path that ends with it.
        address: as --storage takes it.
    """
    name = Path(name).name
    store = Store(checked(address) or "", name).trying(START_S, at_start=True)
    # The record says how long the journal is, so it is read first: the journal only grows.
    record = store.read(SearchRun.record_name)
    if record is None:
        raise CallError(f"There is no search {name!r} in the storage {store}. Expected the name of one.")
    with TemporaryDirectory() as there:
        run = SearchRun(Path(there) / name)
        StoredFolder(store, run.path, deep=False).fetch()
        run.record_file.write_bytes(record)
        return replace(status_of(run), path=str(store))


def _of_trials(trials: list[Record]) -> dict[str, object]:
    """Return the fields of a RunStatus that follow from the trials."""
    best = leaderboard.best(trials)
    return {
        "ended": sum(trial.state.ended for trial in trials),
        "epochs": sum(trial.epochs for trial in trials),
        "states": dict(Counter(str(trial.state) for trial in trials).most_common()),
        "best": best and Best(best.trial_id, best.f1 or 0.0, best.best_epoch),
        "failures": tuple(Failure(one.trial_id, one.state, one.message) for one in trials if one.state in _FAILURES),
    }
