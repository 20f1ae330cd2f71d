"""A race among finalists: who is clearly worse is not repeated further, and the choice is final without it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from maskcls.data.dataset import FaceDataset
from tests.tune.answered_run import let_answer
from tests.tune.selection.small_run import add_trial, small_run
from tune.report.choice import sections
from tune.runs.folder import SearchRun
from tune.runs.study import PRESET, SAMPLED, records
from tune.selection import choice
from tune.selection.finalists import Design, RepeatBy, read_finalists, repeat_requests
from tune.selection.race import TimeLeft, fit_seconds, fits_in, losers, with_repeats
from tune.selection.record import read_choice
from tune.states import TrialState

DESIGN = Design(3, 3)


def last_is_bad(candidate: int, truth: np.ndarray) -> np.ndarray:
    """Candidates 0 and 1 err in every fifth photo, the others always."""
    errs = (np.arange(len(truth)) % 5 == candidate) | (candidate > 1)
    return np.eye(18)[np.where(errs, (truth + 1) % 18, truth)]


def raced(folder: Path, cache: Path, *, origin: str = SAMPLED) -> tuple[SearchRun, FaceDataset]:
    """Three finalists, of which the third was stopped early, lacks its last repeat and is bad in the others."""
    run, faces = small_run(folder, cache)
    for number, f1 in enumerate((0.6, 0.5)):
        add_trial(run, [f1], {"lr_head": 1e-2 + number})
    stopped = origin != PRESET
    state = TrialState.STOPPED_EARLY if stopped else TrialState.COMPLETE
    add_trial(run, [0.4], {"lr_head": 1e-3}, state=state, origin=origin)
    let_answer(run, faces, DESIGN, (0, 1, 2), last_is_bad)
    last = repeat_requests(run, records(run), faces, DESIGN, cpus=1, gpus=0.0)[-1]
    assert (last.trial, last.repeat) == ("0002", 2)
    shutil.rmtree(last.folder)
    return run, faces


@pytest.mark.usefixtures("ray_cluster")
def test_who_is_clearly_worse_is_left_out_and_the_choice_is_final(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = raced(tmp_path, demo_cache)
    trials = records(run)
    assert choice.fits_to_do(run, trials, faces, DESIGN) == [], "neither its repeat nor its training to the end"
    chosen = choice.choose(run, trials, faces, DESIGN, parallel=1, cpus=1, gpus=0.0, cache=faces.cache)
    assert chosen.is_final
    assert (chosen.outcome.remaining, chosen.others.remaining) == (0, 0)
    assert [one.has_lost for one in chosen.finalists] == [False, False, True]
    made = read_choice(run.record())
    assert made is not None
    assert [one.has_lost for one in made.finalists] == [False, False, True]
    (line,) = made.finalists[2].missing
    assert line.startswith("repeat 3: left out, worse by 2 repeats (-")
    assert f"Trial 0002, {line}" in choice.summary(run)
    assert line in "".join(sections(made))


def test_what_one_has_lost_by_stays_when_the_others_are_repeated_further(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = raced(tmp_path, demo_cache)
    finalists = read_finalists(run, records(run), faces, DESIGN)
    then = [replace(one, repeats=one.repeats[:2]) for one in finalists]
    assert losers(finalists, faces) == losers(then, faces)
    assert losers(finalists, faces).keys() == {"0002"}


def test_with_two_finalists_nobody_is_left_out(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = raced(tmp_path, demo_cache)
    trials = [one for one in records(run) if one.trial_id != "0001"]
    labels = [one.label for one in choice.fits_to_do(run, trials, faces, replace(DESIGN, finalists=2))]
    assert labels == ["trial 0002, repeat 3 of 3", "trial 0002, to its end"]


def test_the_preset_is_repeated_for_the_gain_however_bad_it_is(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = raced(tmp_path, demo_cache, origin=PRESET)
    labels = [one.label for one in choice.fits_to_do(run, records(run), faces, DESIGN)]
    assert labels == ["trial 0002, repeat 3 of 3"]


def test_fewer_repeats_are_the_first_of_the_same_folds(tmp_path: Path, demo_cache: Path) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    add_trial(run, [0.5], {"lr_head": 1e-2})
    fewer = with_repeats(Design(1, 3), 2)
    assert (fewer.repeats, fewer.n_folds) == (2, 3)
    assert with_repeats(fewer, 3) == Design(1, 3)
    assert with_repeats(Design(1, 3, RepeatBy.SEEDS), 1).repeats == 1

    def fits(design: Design) -> list[str]:
        return [one.trial_id for one in repeat_requests(run, records(run), faces, design, cpus=1, gpus=0.0)]

    assert fits(fewer) == fits(Design(1, 3))[:2]
    assert not set(fits(fewer)) & set(fits(Design(1, 2)))


def test_a_repeat_that_would_not_end_in_time_does_not_begin(
    tmp_path: Path, demo_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, faces = small_run(tmp_path, demo_cache)
    add_trial(run, [0.5], {"lr_head": 1e-2})
    first, second, third = repeat_requests(run, records(run), faces, Design(1, 3), cpus=1, gpus=0.0)
    now = [0.0]
    monkeypatch.setattr("tune.selection.race.time", SimpleNamespace(monotonic=lambda: now[0]))
    (trial,) = records(run)
    left, unbounded = (TimeLeft(budget_s, [replace(trial, seconds=60.0)]) for budget_s in (100.0, None))
    now[0] = 73.1
    assert left.why_not(first) == "no time is left for it", "nine tenths of half of what the trial took are 27 s"
    now[0] = 72.9
    assert not left.why_not(first)
    for each in (left, unbounded):
        now[0] = 0.0
        assert not each.why_not(first)
        assert not each.why_not(second)
        now[0] = 30.0
        each.ended(first)
        now[0] = 40.0
        each.ended(second)
    now[0] = 72.9
    assert not left.why_not(third), "27 s are left, nine tenths of the faster one's"
    now[0] = 73.1
    assert left.why_not(third) == "no time is left for it"
    assert not left.why_not(replace(third, repeat=None)), "only repeats take what repeats took"
    assert not unbounded.why_not(third)
    assert (left.turned_away, unbounded.turned_away) == (True, False)


def test_fits_in_turn_have_room_by_the_pace_of_the_best(tmp_path: Path, demo_cache: Path) -> None:
    run, _ = small_run(tmp_path, demo_cache)
    assert fit_seconds([], 6) == 0
    assert fits_in(100.0, 0.0, 2) == float("inf"), "nothing is known of the pace"
    trials = [
        replace(add_trial(run, [f1], {"lr_head": f1}), seconds=s)
        for f1, s in ((0.5, 8.0), (0.2, 5.0), (0.3, 4.0), (0.1, 90.0))
    ]
    assert fit_seconds(trials, 6) == pytest.approx(48.0), "an epoch each; the slowest of the three best"
    assert [fits_in(seconds, 48.0, 2) for seconds in (150.0, 95.0, 10.0)] == [6, 2, 2], "one turn in any case"
