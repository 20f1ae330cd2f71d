"""A real search and its disk: no more than --plan says, all along; and a disk that fills up in each of its phases.

`pytest -m soak tests/tune/search/test_soak_disk.py`; it mounts file systems in memory, as only root may.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.full_disk import empty, fill, small_disk
from tests.tune.search.test_command import call
from tests.tune.search.test_events import TINY, chosen, started
from tests.tune.searches import reported, table
from tune.runs.folder import SearchRun

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
MEGABYTES = 64
TRIALS = 60
WORDS = ("--name", "one", "--trials", "3", "--epochs", "2", "--finalists", "2", "--repeats", "2")
LIMIT_S = 600
FITS = 5
"""After the search: two repeats of each finalist, one of which is the preset, and one finalist to its end."""
When = Callable[[SearchRun], bool]


def fits_done(n: int) -> When:
    return lambda run: len(list(run.finalists.glob("*/result.json"))) >= n


def chosen_and_tidied(run: SearchRun) -> bool:
    """Whether the choice is made and the states that it needed are removed, which gives room for a bundle."""
    return fits_done(FITS)(run) and not any(run.trials.glob("*/state.pt"))


FILLED: dict[str, tuple[When, int, str]] = {
    "checkpoint": (lambda run: (run.trial("0000") / "recipe.json").exists(), 100_000, r"(state\.pt|best-\d)"),
    "curve or journal": (lambda run: (run.trial("0001") / "epochs.jsonl").exists(), 0, "could not|No space left"),
    "repeat": (lambda run: any(run.finalists.glob("*/recipe.json")), 100_000, "No space left on device"),
    "second repeat": (fits_done(1), 0, "No space left on device|could not be written"),
    "bundle": (chosen_and_tidied, 100_000, "could not be written"),
    "report": (lambda run: (run.best / "bundle.json").exists(), 0, "could not be written"),
}
"""When the disk is filled, all but how many bytes, and what is said."""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, few_faces: tuple[str, ...], ray_cluster: str) -> SearchRun:
    runs = tmp_path_factory.mktemp("unbroken")
    finish(started(runs, few_faces, ray_cluster, *WORDS))
    return SearchRun(runs / "one")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", MEGABYTES) as mounted:
        yield mounted


def finish(search: subprocess.Popen[str], status: int = 0) -> str:
    """What it printed to stderr."""
    _, err = search.communicate(timeout=LIMIT_S)
    assert search.returncode == status, err
    return err


@pytest.mark.parametrize("kind", FILLED)
def test_a_search_goes_on_where_the_disk_was_full(
    unbroken: SearchRun, disk: Path, few_faces: tuple[str, ...], ray_cluster: str, kind: str
) -> None:
    when, but, message = FILLED[kind]
    run = SearchRun(disk / "one")
    search = started(disk, few_faces, ray_cluster, *WORDS)
    deadline = time.monotonic() + LIMIT_S
    while not run.record_file.exists() or not when(run):
        assert search.poll() is None, search.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    fill(disk, but=but)
    err = finish(search, status=1)
    assert "Traceback" not in err
    last = err[err.rindex("Error: ") :]
    assert "Free some space" in last
    assert "go on" in last
    assert re.search(message, last), last
    empty(disk)
    finish(started(disk, few_faces, ray_cluster, "--resume", str(run.path)))
    assert table(run, seconds=False) == table(unbroken, seconds=False)
    assert reported(run) == reported(unbroken)
    assert chosen(run)["winner"] == chosen(unbroken)["winner"]
    assert (run.best / "bundle.json").exists()
    assert run.report.exists()


def taken(folder: Path) -> int:
    """Bytes of all files of the folder; one that goes away meanwhile counts nothing."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def test_the_bound_of_the_plan_holds_all_along_a_search_of_sixty_trials(
    tmp_path: Path, few_faces: tuple[str, ...], ray_cluster: str
) -> None:
    check_bound(tmp_path, few_faces, ray_cluster, TRIALS)


def check_bound(folder: Path, few_faces: tuple[str, ...], ray_cluster: str, trials: int) -> None:
    """Count the run's bytes as often as that goes, from its first trial to its end, and compare with the plan's."""
    words = ("--name", "one", "--trials", str(trials), "--epochs", "2", "--finalists", "2", "--repeats", "2")
    plan = " ".join(call(*TINY, *words, "--plan", "--runs", folder, *few_faces).split())
    at_work, left = map(int, re.findall(r"up to (\d+) MB in the run, of which (\d+) MB stay", plan)[0])
    run, most, counts = SearchRun(folder / "one"), 0, 0
    search = started(folder, few_faces, ray_cluster, *words)
    while search.poll() is None:
        most, counts = max(most, taken(run.path)), counts + 1
        time.sleep(0.02)
    finish(search)
    assert counts > 10 * trials
    assert most < at_work * 1e6
    assert taken(run.path) < left * 1e6
    print(f"{counts} counts: at most {most / 1e6:.1f} of {at_work} MB, left {taken(run.path) / 1e6:.1f} of {left} MB")
