"""Searches from Python: their options, Ctrl-C, several in one process, and spaces that are functions."""

from __future__ import annotations

import functools
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, assert_type, get_args

import numpy as np
import pandas as pd
import pytest

from maskcls.data.decoding.decode import decode
from maskcls.errors import CallError, RunError
from search_spaces import Setting, Suggest
from tests import commands
from tests.conftest import DemoFaces
from tests.tune.search.test_command import recorded_run
from tests.tune.search.test_kill import none_left, wait_for
from tests.tune.searches import table
from tune import Run, open_run, run_search
from tune.api.call import SearchCall
from tune.runs.folder import SearchRun
from tune.runs.study import Record
from tune.search import __main__ as search
from tune.search.options import SPACE_COPY, SearchOptions
from tune.search.plan import SAMPLERS, SCHEDULERS

ROOT = Path(__file__).parents[3]
SMALL: dict[str, Any] = {"epochs": 1, "image_size": 32, "parallel": 1, "scale": "cpu", "weights": "none"}
FEW: dict[str, Any] = {"trials": 2, "finalists": 1, "repeats": 2}
TINY = {"batch_size": 128, "backbone": "test_resnet"}
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
def faces(demo_faces: DemoFaces) -> Path:
    return demo_faces(30, 2)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, faces: Path, cache: Path, ray_cluster: None) -> Run:
    """A whole search of two trials over a function, in the tests' own Ray."""
    runs = tmp_path_factory.mktemp("runs")
    return run_search(**SMALL, **FEW, data=faces, space=widths, set=TINY, runs=runs, name="one", cache=cache)


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
from maskcls import Predictor
print(sorted({"torch", "timm", "ray", "optuna"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said == "[]\nTrue True\n[]\n"


@pytest.mark.parametrize(
    ("stated", "words"),
    [
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
    with pytest.raises(
        CallError, match=r"set expects numbers, strings, booleans or lists of them, but lr_head is <obj"
    ):
        run_search(space="freezing", set={"lr_head": object()})
    with pytest.raises(CallError, match=r"space expects a space's name, a Python file, a function .*, but got 3\."):
        run_search(space=3)  # type: ignore[call-overload]


def test_none_stands_for_not_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded_run(tmp_path)
    assert_type(run_search(resume="one", epochs=None, trials=None, runs=tmp_path, plan=True), None)
    assert "Trials: 4" in capsys.readouterr().out


def test_a_plan_of_a_function_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = {"batch_size": np.int64(96), "lr_head": np.float32(0.5)}
    assert_type(run_search(**SMALL, space=of_widths(8, 9), set=numbers, runs=tmp_path / "runs", plan=True), None)
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


@pytest.mark.slow
def test_a_search_makes_the_run_of_the_command(run: Run) -> None:
    assert (run.path / "report.html").is_file()
    assert "WIDTHS = (8, 16, 32)" in (run.path / SPACE_COPY).read_text()
    (session,) = SearchRun(run.path).record().sessions
    assert session.argv[0] == "run_search"
    assert {"trials=2", "space=widths", "scale='cpu'", f"set={TINY!r}", f"runs={str(run.path.parent)!r}"} < {
        *session.argv
    }
    said = commands.call(search.main, "--resume", run.path, "--trials", 9, "--plan")
    assert said.status == 0, said.err
    assert "Space widths: How wide should the head be?" in said.out
    assert "under another space" not in said.err


@pytest.mark.slow
def test_the_leaderboard_is_that_of_the_file(run: Run) -> None:
    board, file = run.leaderboard, table(SearchRun(run.path))
    assert list(board) == list(file[0])
    assert board["trial"].tolist() == [row["trial"] for row in file]
    assert board["best_validation_f1"].round(6).tolist() == [float(row["best_validation_f1"]) for row in file]
    assert board["rank"].tolist() == [1, 2]
    assert all(one.get("head_width", WIDTHS[0]) in WIDTHS for one in board["overrides"])


@pytest.mark.slow
def test_the_study_is_a_copy(run: Run) -> None:
    before = (run.path / "study.journal").read_bytes()
    study = run.study
    assert study.best_value == pytest.approx(run.leaderboard["best_validation_f1"][0])
    study.add_trial(study.trials[0])
    assert len(study.trials) == 3
    assert len(run.study.trials) == 2
    assert (run.path / "study.journal").read_bytes() == before


@pytest.mark.slow
def test_choice_and_holdout_have_their_intervals(run: Run) -> None:
    choice, holdout = run.choice, run.holdout
    assert choice is not None
    assert holdout is not None
    assert choice.winner is not None
    assert len(choice.winner.repeats) == 2
    assert choice.winner.spread >= 0
    assert choice.winner.low <= choice.winner.mean <= choice.winner.high
    assert choice.winner.interval == f"[{choice.winner.low:.4f}, {choice.winner.high:.4f}]"
    assert holdout.low <= holdout.f1 <= holdout.high
    assert choice.holdout == holdout


@pytest.mark.slow
def test_the_winner_predicts(run: Run, faces: Path) -> None:
    files = sorted(faces.glob("train/images/*/normal.*"))[:2]
    predictor = run.predictor("cpu")
    found = predictor.predict([files[0], decode(files[1]).rgb])
    assert_type(found, pd.DataFrame)
    assert found["photo"].tolist() == [str(files[0]), "photos[1]"]
    assert np.allclose(found.filter(regex=r"^p\d").sum(axis=1), 1)
    scores, holdout = predictor.bundle.scores, run.holdout
    assert holdout is not None
    assert [scores["holdout"][name] for name in ("f1", "low", "high")] == [holdout.f1, holdout.low, holdout.high]
    assert [one["on"] for one in scores["groups"]] == ["repeats", "holdout"], "its page says for whom it works"


@pytest.mark.slow
@pytest.mark.parametrize("as_json", [False, True])
def test_a_notebook_shows_all_as_output_and_events_apart(
    run: Run, as_json: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OutStream(io.StringIO):
        __module__ = "ipykernel.iostream"

    out, err = OutStream(), OutStream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    run_search(resume=run, as_json=as_json)
    lines = out.getvalue().splitlines()
    if as_json:
        assert [json.loads(line)["event"] for line in lines] == ["run", "done"]
        lines = err.getvalue().splitlines()
    else:
        assert err.getvalue() == ""
    assert [line.partition(":")[0] for line in lines] == ["Nothing is left to do"]


@pytest.mark.slow
def test_a_run_is_opened_by_name_and_by_path(run: Run) -> None:
    assert open_run("one", run.path.parent) == open_run(run) == open_run(str(run.path)) == run
    with pytest.raises(CallError, match=r"There is no run 'two'.*Runs there: one\."):
        open_run("two", run.path.parent)


@pytest.mark.slow
def test_a_finished_run_is_resumed_and_nothing_is_left_to_do(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_search(resume=run, space=widths) == run
    assert "Nothing is left to do: one has 2 trials, and 2 are wanted." in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_call_again_is_said_to_be_complete(
    run: Run, faces: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own: dict[str, Any] = {"runs": run.path.parent, "name": "one", "begin_or_resume": True, "quiet": True}
    assert run_search(**SMALL, **FEW, **own, data=faces, space=widths, set=TINY, cache=cache) == run
    said = capsys.readouterr()
    assert (said.out.partition(":")[0], said.err) == ("Nothing is left to do", "")
    with pytest.raises(CallError, match=r"^--begin-or-resume found the run one, which has other settings: --set is "):
        run_search(**SMALL, **FEW, **own, data=faces, space=widths, set={**TINY, "epochs": 2}, cache=cache)


@pytest.mark.slow
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
import os, signal, sys, threading
from maskcls.errors import Terminated
from tune import open_run, run_search

def left_alone():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return handlers == before and not sys.modules["ray"].is_initialized()

common = dict(
    data=sys.argv[1], cache=sys.argv[2], weights="none", epochs=1, image_size=32, parallel=1, set={TINY!r}, finalists=0
)
before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
"""
END = """
# Ray 2.60 stops its exporter of metrics once in a process. After a second search its threads go on, and one that is at
# work while C++ frees what it uses crashes.
sys.stdout.flush()
os._exit(0)
"""


@contextmanager
def program(code: str, folder: Path, faces: Path, cache: Path) -> Iterator[subprocess.Popen[str]]:
    """A program of its own, at the head of its process group, in a folder of its own."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        PROGRAM + textwrap.dedent(code) + END,
        str(faces),
        str(cache),
    ]
    started = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        started.kill()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_searches_follow_each_other_also_in_another_thread(tmp_path: Path, faces: Path, cache: Path) -> None:
    code = """
        run_search(space="freezing", trials=1, name="one", **common)
        assert left_alone()
        thread = threading.Thread(target=run_search, kwargs=dict(space="freezing", trials=1, name="two", **common))
        thread.start()
        thread.join()
        assert left_alone()
        one, two = (open_run(name).leaderboard.drop(columns="seconds") for name in ("one", "two"))
        print(len(one), one.equals(two))
    """
    with program(code, tmp_path, faces, cache) as both:
        out, err = both.communicate()
        assert both.returncode == 0, err
        assert out.endswith("1 True\n")
        assert none_left(both)


INTERRUPTED = (
    "Interrupted. What is done is kept: open_run('runs/one') shows it, run_search(resume='runs/one') goes on.\n"
)


def more_than(n: int, found: list[Record]) -> bool:
    """Whether more trials than that have ended."""
    return sum(record.state.ended for record in found) > n


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_ctrl_c_and_sigterm_end_a_search_cleanly_and_the_program_goes_on(
    tmp_path: Path, faces: Path, cache: Path
) -> None:
    code = """
        def end(kind, **options):
            try:
                run_search(**options)
            except KeyboardInterrupt as interrupt:
                assert type(interrupt) is kind
                print(interrupt)
            assert left_alone()
            run = open_run("one")
            assert (run.path / "best" / "bundle.json").is_file()
            print("trials:", sum(run.leaderboard["state"] != "unfinished"), flush=True)

        end(KeyboardInterrupt, space="freezing", trials=50, name="one", **common)
        end(Terminated, resume="one", trials=50, parallel=1, cache=sys.argv[2])
    """
    with program(code, tmp_path, faces, cache) as interrupted:
        assert interrupted.stdout is not None
        ended = 0
        said: list[str] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            wait_for(tmp_path / "runs" / "one", functools.partial(more_than, ended), 300)
            os.kill(interrupted.pid, number)
            while not said or not said[-1].startswith("trials: "):
                said.append(interrupted.stdout.readline())
                assert said[-1], interrupted.communicate()[1]
            ended = int(said.pop().partition(": ")[2])
        assert said.count(INTERRUPTED) == 2
        _, err = interrupted.communicate()
        assert interrupted.returncode == 0, err
        assert err.count("Stopping: what is done is kept.") == 2
        assert none_left(interrupted)


@pytest.mark.parametrize("name", ["weights", "learn_from", "new_run_from", "resume", "cache"])
def test_an_address_in_place_of_a_path_is_refused_as_by_the_command(name: str, tmp_path: Path) -> None:
    option = f"--{name.replace('_', '-')}"
    for given in ("s3://bucket/x", Path("s3://bucket/x")):
        with pytest.raises(CallError, match=f"^{option} s3:/+bucket/x is an address. Expected a path of this machine"):
            run_search(runs=tmp_path, **{name: given})  # type: ignore[call-overload]
    said = commands.call(search.main, option, "s3://bucket/x", "--runs", tmp_path)
    assert said.status == 2
    assert re.match(f"Error: {option} s3:/+bucket/x is an address", said.err)
    assert list(tmp_path.iterdir()) == []
