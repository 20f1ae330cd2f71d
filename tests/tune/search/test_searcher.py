"""What the searcher records of trials whose workers were killed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from maskcls.machine import memory_kills
from tests.tune.asked import SIX, ask, begin, plan_of, search
from tests.tune.searches import new_run
from tune.fitting.attempts import NOTE, Attempt, _counter
from tune.runs.study import records
from tune.states import TrialState

RAY_SAYS = "1 worker(s) were killed due to the node running low on memory.\nRefer to the documentation."
DIED = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."


def failures(folder: Path, *texts: str) -> Path:
    """Ray's file of a trial's failures, one after the other."""
    file = folder / "error.txt"
    file.write_text("".join(f"Failure # {n} (occurred at …)\n{text}\n" for n, text in enumerate(texts, start=1)))
    return file


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ((RAY_SAYS, RAY_SAYS, RAY_SAYS), TrialState.OUT_OF_MEMORY),
        ((DIED, DIED, DIED), TrialState.FAILED),
        ((RAY_SAYS, DIED, DIED), TrialState.FAILED),
    ],
    ids=["by Ray's monitor", "otherwise", "at last otherwise"],
)
def test_a_trial_whose_workers_were_killed_for_memory_is_infeasible(
    said: tuple[str, ...], state: TrialState, tmp_path: Path
) -> None:
    run = new_run(tmp_path)
    searcher = begin(plan_of(SIX, 1), run)
    config = ask(searcher)
    assert config is not None
    name = config["trial"]
    searcher._begun_before[name] = 0
    run.trial(name).mkdir(parents=True)
    (run.trial(name) / "recipe.json").write_text("{}")  # a worker has come to it
    for n in range(1, len(said) + 1):
        # A worker of the machine's that this one took over from leaves its note where it dies.
        before = Attempt.read(run.trial(name)) or Attempt()
        Attempt(_counter(), memory_kills(), 64, killed=before.killed + 1 if before.by_ray else 0).write(run.trial(name))
        searcher.note_error(SimpleNamespace(trial_id=name, error_file=str(failures(tmp_path, *said[:n]))))  # type: ignore[arg-type]
    searcher.on_trial_complete(name, error=True)
    (record,) = records(run)
    assert record.state == state
    assert ("killed 3 times by Ray" in record.message) == (state == TrialState.OUT_OF_MEMORY)
    assert not (run.trial(name) / NOTE).exists()


def test_a_search_goes_on_after_such_a_trial(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    plan = plan_of(SIX, 3)
    searcher = begin(plan, run)
    config = ask(searcher)
    assert config is not None
    run.trial(config["trial"]).mkdir(parents=True)
    Attempt(by_ray=True, killed=2).write(run.trial(config["trial"]))
    searcher.on_trial_complete(config["trial"], error=True)
    search(plan, run)
    assert [record.state for record in records(run)] == [TrialState.OUT_OF_MEMORY, *[TrialState.COMPLETE] * 2]
