"""What a search's driver costs where many trials have ended: seconds of a suggestion, a result and an end, and memory.

    python -m tests.benchmarks.search_growth driver|optuna JOURNAL SPACE SUGGESTIONS

measures in its own process, on a copy of the journal, and prints JSON: seconds, one value for each time, and megabytes.

`driver` does what Ray makes the driver of `tune.search` do, with the real searcher, scheduler, progress and journal,
and without Ray: a trial of six epochs for each suggestion. `optuna` asks plain Optuna for the same:
TPESampler(multivariate=True, group=True), the same trials in its in-memory storage. `fill` makes the journals: trials
drawn at random, a third of them complete, the others pruned after two epochs.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import psutil
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

import search_spaces
from maskcls.training.presets import preset
from search_spaces import Setting
from tune.runs import leaderboard
from tune.runs import study as records
from tune.runs.folder import SearchRun
from tune.search import schedulers
from tune.search.plan import SearchPlan
from tune.search.progress import Progress
from tune.search.searcher import StudySearch
from tune.states import FIDELITY, METRIC, TrialState

EPOCHS = 6
PRUNED_AFTER = 2
MANY = 1_000_000
SETTING = Setting("cpu")
Seconds = Mapping[str, Sequence[float]]


class _Unsynced(JournalFileBackend):  # type: ignore[misc]
    """The same file without waiting for the disk after each line, so that it is filled quickly."""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        with Path(self._file_path).open("ab") as file:
            file.writelines(json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs)


def fill(space_name: str, sizes: Sequence[int], folder: Path) -> dict[int, Path]:
    """Make a journal for each number of trials that ended."""
    journal = folder / f"{space_name}.journal"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.JournalStorage(_Unsynced(str(journal)))
    study = optuna.create_study(
        study_name="one", storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    space, base, draws = search_spaces.get(space_name), _base(), np.random.default_rng(0)
    filled = {}
    for number in range(max(sizes)):
        trial = study.ask()
        overrides = space.suggest(trial, SETTING)
        trial.set_user_attr(records.OVERRIDES, overrides)
        trial.set_user_attr(records.RECIPE, base.override(overrides).model_dump())
        complete, top = number % 3 == 0, draws.uniform(0.2, 0.8)
        for epoch in range(1, (EPOCHS if complete else PRUNED_AFTER) + 1):
            trial.report(top * (1 - 0.5**epoch), epoch)
        trial.set_user_attr(records.SECONDS, 60.0)
        trial.set_user_attr(records.STATE, TrialState.COMPLETE if complete else TrialState.STOPPED_EARLY)
        trial.set_user_attr(records.MESSAGE, "")
        study.tell(
            trial,
            top * (1 - 0.5**EPOCHS) if complete else None,
            state=OptunaState.COMPLETE if complete else OptunaState.PRUNED,
        )
        if number + 1 in sizes:
            filled[number + 1] = folder / f"{space_name}-{number + 1}.journal"
            shutil.copyfile(journal, filled[number + 1])
    return filled


def driver(journal: Path, space_name: str, suggestions: int) -> dict[str, Any]:
    """Seconds of each of the driver's works, and its memory."""
    seconds: dict[str, list[float]] = defaultdict(list)

    def timed(what: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began = perf_counter()
        done = work(*arguments)
        seconds[what].append(perf_counter() - began)
        return done

    plan = SearchPlan(search_spaces.get(space_name), SETTING, _base(), {"epochs": EPOCHS}, trials=MANY)
    scheduler = schedulers.create(plan.scheduler, EPOCHS)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        run = SearchRun.create(Path(folder), "one")
        shutil.copyfile(journal, run.journal)
        searcher = timed("opening: journal and searcher", StudySearch, plan, run)
        there = searcher.study.get_trials(deepcopy=False)
        timed("opening: scheduler", scheduler.replay, there)
        progress = timed("opening: progress", lambda: Progress(plan, run, searcher.study, plain=True))
        for number in range(suggestions):
            config = timed("suggestion", searcher.suggest, f"ray{number}")
            trial = SimpleNamespace(trial_id=f"ray{number}", config=config)
            scheduler.on_trial_add(None, trial)
            progress.on_trial_start(0, [], trial)
            for epoch in range(1, EPOCHS):
                result = _result(epoch, TrialState.RUNNING)
                timed("result: scheduler", scheduler.on_trial_result, None, trial, result)
                timed("result: searcher", searcher.on_trial_result, trial.trial_id, result)
                timed("result: progress", progress.on_trial_result, 0, [], trial, result)
            end = _result(EPOCHS, TrialState.COMPLETE)
            timed("end: scheduler", scheduler.on_trial_complete, None, trial, end)
            timed("end: searcher", searcher.on_trial_complete, trial.trial_id, end)
            timed("end: progress, leaderboard", progress.on_trial_complete, 0, [], trial)
            timed("leaderboard, written", leaderboard.write, run, progress.records())
            timed("table, drawn", progress.picture)
        memory = psutil.Process().memory_full_info()
    return {"trials": len(there), "seconds": seconds, "rss_mb": memory.rss / 1e6, "pss_mb": memory.pss / 1e6}


def plain_optuna(journal: Path, space_name: str, suggestions: int) -> dict[str, Any]:
    """Measure the seconds of plain Optuna's suggestions."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(multivariate=True, group=True, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    study.add_trials(optuna.load_study(study_name="one", storage=storage).get_trials(deepcopy=False))
    del storage
    space, seconds, there = search_spaces.get(space_name), [], len(study.get_trials(deepcopy=False))
    for _ in range(suggestions):
        began = perf_counter()
        trial = study.ask()
        space.suggest(trial, SETTING)
        seconds.append(perf_counter() - began)
        study.tell(trial, 0.3)
    return {"trials": there, "seconds": {"suggestion": seconds}}


def _base() -> Any:
    return preset("contest-2021", "cpu").override({"epochs": EPOCHS})


def _result(epoch: int, state: str) -> dict[str, Any]:
    f1 = 0.3 + epoch / 100
    return {
        FIDELITY: epoch,
        METRIC: f1,
        "validation_f1": f1,
        "seconds": 10.0 * epoch,
        "state": state,
        "done": state == TrialState.COMPLETE,
    }


if __name__ == "__main__":
    measure = {"driver": driver, "optuna": plain_optuna}[sys.argv[1]]
    print(json.dumps(measure(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
