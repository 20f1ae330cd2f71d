"""Searches from Python: their options, Ctrl-C, several in one process, and spaces that are functions."""

from __future__ import annotations

import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type, get_args

import numpy as np
import pandas as pd
import pytest

from maskcls.data.geometry import decode
from maskcls.errors import CallError, RunError
from search_spaces import Setting, Suggest
from tests import commands
from tests.tune.search.test_command import recorded_run
from tests.tune.search.test_kill import none_left, wait_for
from tests.tune.searches import table
from tune import Run, open_run, run_search
from tune.api.call import SearchCall
from tune.runs.folder import SearchRun
from tune.search import __main__ as search
from tune.search.options import SPACE_COPY, SearchOptions
from tune.search.plan import SAMPLERS, SCHEDULERS

ROOT = Path(__file__).parents[3]
SMALL: SearchCall = {"epochs": 1, "image_size": 32, "parallel": 1, "scale": "cpu", "weights": "none"}
TINY = {"batch_size": 128, "backbone": "lcnet_050"}
WIDTHS = (8, 16, 32)


def widths(trial: Suggest, setting: Setting) -> dict[str, Any]:
    """How wide should the head be?"""
    return {"head": "mlp", "head_width": trial.suggest_categorical("head_width", WIDTHS)}


def of_widths(*choices: int) -> Callable[[Suggest, Setting], dict[str, Any]]:
    """A function whose source says nothing of its choices."""

    def enclosed(trial: Suggest, setting: Setting) -> dict[str, Any]:
        return {"head": "mlp", "head_width": trial.suggest_categorical("head_width", choices)}

    return enclosed


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, demo_cache: Path, ray_cluster: None) -> Run:
    """A whole search of three trials over a function, in the tests' own Ray."""
    runs = tmp_path_factory.mktemp("runs")
    return run_search(
        **SMALL, space=widths, trials=3, set=TINY, finalists=2, repeats=2, runs=runs, name="one", cache=demo_cache
    )


def test_the_signature_has_exactly_the_fields_of_the_options() -> None:
    names = set(SearchOptions.model_fields)
    assert set(SearchCall.__annotations__) | {"plan"} == names
    assert set(inspect.signature(run_search).parameters) == names
    for name, words in (("sampler", SAMPLERS), ("scheduler", SCHEDULERS), ("repeat_by", ("folds", "seeds"))):
        assert get_args(SearchOptions.model_fields[name].annotation) == words


def test_the_names_are_there_without_loading_anything_heavy() -> None:
    code = """
import sys
import maskcls, tune
from tune import Run, open_run, run_search
print(sorted({"torch", "ray", "optuna", "pydantic", "numpy", "pandas", "rich"} & set(sys.modules)))
print({"Run", "open_run", "run_search"} <= set(dir(tune)), "Predictor" in dir(maskcls))
"""
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout == "[]\nTrue True\n"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({}, ()),
        ({"space": "freezig"}, ("--space", "freezig")),
        ({"space": "freezing", "trials": 0}, ("--space", "freezing", "--trials", 0)),
        ({"space": "freezing", "set": {"frozen_stages": 7}}, ("--space", "freezing", "--set", "frozen_stages=7")),
        ({"space": "freezing", "data": Path("nowhere")}, ("--space", "freezing", "--data", "nowhere")),
        ({"space": "freezing", "sampler": "tpe2"}, ("--space", "freezing", "--sampler", "tpe2")),
        ({"resume": "two"}, ("--resume", "two")),
        ({"resume": "one", "epochs": 4}, ("--resume", "one", "--epochs", 4)),
    ],
)
def test_a_wrong_option_is_refused_as_the_command_does(
    stated: dict[str, Any], words: tuple[object, ...], tmp_path: Path
) -> None:
    recorded_run(tmp_path)
    with pytest.raises(CallError) as refused:
        run_search(**stated, runs=tmp_path)
    assert commands.call(search.main, *words, "--runs", tmp_path).err.endswith(f"Error: {refused.value}\n")
    assert [folder.name for folder in tmp_path.iterdir()] == ["one"], "nothing was begun"


def test_an_unknown_option_is_refused_even_if_it_is_none() -> None:
    for value in (3, None):
        with pytest.raises(CallError, match=r"There is no option --trails\. Did you mean trials\? Options: data, "):
            run_search(space="freezing", trails=value)  # type: ignore[call-overload]
    with pytest.raises(CallError, match=r"space expects a space's name, a Python file, a function .*, but got 3\."):
        run_search(space=3)  # type: ignore[call-overload]


def test_none_stands_for_not_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run(tmp_path)
    assert_type(run_search(resume="one", epochs=None, trials=None, runs=tmp_path, plan=True), None)
    assert "Trials: 4" in capsys.readouterr().out


def test_a_plan_of_a_function_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_type(run_search(**SMALL, space=of_widths(8, 9), runs=tmp_path / "runs", plan=True), None)
    assert "Space enclosed: What is best of what enclosed draws?" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_an_object_that_the_run_could_not_keep_is_wanted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a resume in another process finds it, where the object was never given."""
    from search_spaces import as_file

    file = Path(as_file.name_or_file(of_widths(8, 9), tmp_path))
    kept = recorded_run(tmp_path, space=str(file), set=[])
    file.rename(kept.path / SPACE_COPY)
    monkeypatch.setattr(as_file, "_GIVEN", {})
    wanted = r"Space enclosed was given as a Python object, .* Pass the same object again, run_search\(resume="
    with pytest.raises(CallError, match=wanted):
        run_search(resume="one", runs=tmp_path, plan=True)
    assert re.search(wanted, commands.call(search.main, "--resume", "one", "--runs", tmp_path, "--plan").err)

    run_search(resume="one", space=of_widths(8, 9), runs=tmp_path, plan=True)
    assert "under another space" not in capsys.readouterr().err
    run_search(resume="one", space=of_widths(8, 9, 10), runs=tmp_path, plan=True)
    assert "The search goes on under another space, enclosed" in capsys.readouterr().err


def test_a_search_makes_the_run_of_the_command(run: Run) -> None:
    assert (run.path / "report.html").is_file()
    assert "WIDTHS = (8, 16, 32)" in (run.path / SPACE_COPY).read_text()
    said = commands.call(search.main, "--resume", run.path, "--trials", 9, "--plan")
    assert said.status == 0, said.err
    assert "Space widths: How wide should the head be?" in said.out
    assert "under another space" not in said.err


def test_the_leaderboard_is_that_of_the_file(run: Run) -> None:
    board, file = run.leaderboard, table(SearchRun(run.path))
    assert list(board) == list(file[0])
    assert board["trial"].tolist() == [row["trial"] for row in file]
    assert board["best_validation_f1"].round(6).tolist() == [float(row["best_validation_f1"]) for row in file]
    assert board["rank"].tolist() == [1, 2, 3]
    assert set(board["overrides"].map(lambda one: one.get("head_width"))) <= {None, *WIDTHS}


def test_the_study_is_a_copy(run: Run) -> None:
    before = (run.path / "study.journal").read_bytes()
    study = run.study
    assert study.best_value == pytest.approx(run.leaderboard["best_validation_f1"][0])
    study.add_trial(study.trials[0])
    assert len(study.trials) == 4
    assert len(run.study.trials) == 3
    assert (run.path / "study.journal").read_bytes() == before


def test_choice_and_holdout_have_their_spread_and_interval(run: Run) -> None:
    choice, holdout = run.choice, run.holdout
    assert choice is not None
    assert holdout is not None
    assert choice.winner is not None
    assert len(choice.winner.repeats) == 2
    assert choice.winner.spread >= 0
    assert holdout.low <= holdout.f1 <= holdout.high
    assert choice.holdout == holdout


def test_the_winner_predicts(run: Run, demo_cache: Path) -> None:
    files = sorted(demo_cache.glob("demo-*/**/normal.*"))[:2]
    found = run.predictor("cpu").predict([files[0], decode(files[1]).rgb])
    assert_type(found, pd.DataFrame)
    assert found["photo"].tolist() == [str(files[0]), "photos[1]"]
    assert np.allclose(found.filter(regex=r"^p\d").sum(axis=1), 1)


def test_a_run_is_opened_by_name_and_by_path(run: Run) -> None:
    assert open_run("one", run.path.parent) == open_run(run) == open_run(str(run.path)) == run
    with pytest.raises(CallError, match=r"There is no run 'two'.*Runs there: one\."):
        open_run("two", run.path.parent)


def test_a_finished_run_is_resumed_and_nothing_is_left_to_do(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_search(resume=run, space=widths) == run
    assert "Nothing is left to do: one has 3 trials, and 3 are wanted." in capsys.readouterr().out


def test_the_connection_to_ray_stays_where_it_was_there_before(run: Run) -> None:
    import ray

    assert ray.is_initialized()


def test_a_search_without_a_bundle_is_an_error(tmp_path: Path) -> None:
    from tests.tune.search.test_session import ended_badly

    ended_badly(tmp_path)
    with pytest.raises(RunError, match=r"No trial of run one could be made into a bundle"):
        run_search(resume="one", runs=tmp_path)
    with pytest.raises(RunError, match=r"Run one has no bundle in .* yet"):
        open_run("one", tmp_path).predictor()


PROGRAM = f"""
import signal, sys, threading
import ray
from tune import open_run, run_search

def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

common = dict(epochs=1, image_size=32, parallel=1, set={TINY!r}, finalists=0, cache=sys.argv[1])
before = handlers()
"""


def program(code: str, folder: Path, cache: Path) -> subprocess.Popen[str]:
    """A program of its own, at the head of its process group, in a folder of its own."""
    command = [sys.executable, "-c", PROGRAM + textwrap.dedent(code), str(cache)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_searches_follow_each_other_also_in_another_thread(tmp_path: Path, demo_cache: Path) -> None:
    both = program(
        """
        run_search(space="freezing", trials=1, name="one", **common)
        assert not ray.is_initialized() and handlers() == before
        thread = threading.Thread(target=run_search, kwargs=dict(space="freezing", trials=1, name="two", **common))
        thread.start()
        thread.join()
        assert not ray.is_initialized() and handlers() == before
        print(open_run("one").leaderboard.equals(open_run("two").leaderboard.assign(
            seconds=open_run("one").leaderboard["seconds"])))
        """,
        tmp_path,
        demo_cache,
    )
    out, err = both.communicate(timeout=250)
    assert both.returncode == 0, err
    assert out.endswith("True\n")
    assert none_left(both)


def test_ctrl_c_ends_a_search_cleanly_and_the_program_goes_on(tmp_path: Path, demo_cache: Path) -> None:
    interrupted = program(
        """
        try:
            run_search(space="freezing", trials=50, name="one", **common)
        except KeyboardInterrupt as error:
            print(error)
        assert not ray.is_initialized() and handlers() == before
        run = open_run("one")
        ended = len(run.leaderboard)
        assert (run.path / "best" / "bundle.json").is_file()
        assert run_search(resume=run, trials=ended + 1, parallel=1, cache=sys.argv[1]) == run
        print(len(run.leaderboard) - ended)
        """,
        tmp_path,
        demo_cache,
    )
    wait_for(tmp_path / "runs" / "one", lambda found: sum(record.state.ended for record in found) >= 2)
    os.kill(interrupted.pid, signal.SIGINT)
    out, err = interrupted.communicate(timeout=250)
    assert interrupted.returncode == 0, err
    assert "Stopping: what is done is kept." in err
    said = "Interrupted. What is done is kept: open_run('runs/one') shows it, run_search(resume='runs/one') goes on.\n"
    assert said in out
    assert out.endswith("\n1\n")
    assert none_left(interrupted)
