"""The options of a search in a file: read again they are the same, a resume takes them, and a run keeps its own."""

from __future__ import annotations

import json
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskcls.command_line.config_file import write_config
from tests.commands import call, read
from tests.tune.search.test_command import recorded_run
from tune.compare import __main__ as compare
from tune.compare.options import CompareOptions
from tune.runs.folder import SearchRun
from tune.search import __main__ as search
from tune.search.options import SearchOptions

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0~"), min_size=1)
"""What a word of the command line may hold; "~" is left out, for a path would be another user's home."""
NUMBERS = st.integers(min_value=1, max_value=10**12)
GB = st.floats(min_value=0, allow_nan=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "space": TEXT,
    "trials": NUMBERS,
    "epochs": NUMBERS,
    "time-budget": st.sampled_from(["90s", "1h30m"]),
    "sampler": st.sampled_from(["tpe", "random"]),
    "finalists": st.integers(0, 9),
    "repeat-by": st.sampled_from(["folds", "seeds"]),
    "gpus-per-trial": st.one_of(st.just("auto"), st.floats(min_value=0, allow_infinity=False, allow_nan=False)),
    "weights": st.sampled_from(["hub", "none"]),
    "image-size": st.integers(),
    "seed": st.integers(min_value=0),
    "split-seed": st.integers(min_value=0),
    "preset": TEXT,
    "set": st.lists(TEXT.map(lambda text: f"head={text}"), max_size=1).map(lambda one: [*one, "lr_head=1e-3"]),
    "runs": TEXT,
    "name": TEXT,
    "address": TEXT,
    "cache": TEXT,
    "pixel-store-gb": GB,
    "feature-store-gb": GB,
}
CALLS = st.tuples(
    st.fixed_dictionaries({}, optional=VALUES),
    st.lists(st.sampled_from(["--skip-bad", "--retrain-on-all", "--ship-data", "--shared-cache"]), unique=True),
    st.sampled_from([[], ["--plan"], ["--quiet"], ["--json"], ["--quiet", "--json"]]),
    st.sampled_from([[], ["--begin-or-resume", "--name=one"]]),
).map(lambda drawn: [*_words(drawn[0]), *(word for words in drawn[1:] for word in words)])


def _words(values: dict[str, Any]) -> list[str]:
    """With `=`, for a value may begin with a dash."""
    pairs = [(name, one) for name, value in values.items() for one in (value if isinstance(value, list) else [value])]
    return [f"--{name}={value}" for name, value in pairs]


def asked(*words: object) -> SearchOptions:
    return read(search.main, SearchOptions.stated, *words)


@settings(deadline=None, max_examples=30)
@given(CALLS)
def test_saved_options_read_again_are_the_same(words: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "saved.toml"
        stated = asked(*words, "--save-config", file)
        again = asked("--config", file)
        assert again == stated
        assert again.model_fields_set == stated.model_fields_set
        asked("--config", file, "--save-config", file)  # equal, so it is not refused


@settings(deadline=None, max_examples=30)
@given(CALLS)
def test_what_a_run_keeps_read_again_is_the_same_but_for_its_name(words: list[str]) -> None:
    stated = asked(*words)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.toml"
        write_config(file, stated.to_config(), "tune.search")
        again = asked("--config", file)
    of_this_call = {"name": None, "plan": False, "quiet": False, "as_json": False, "begin_or_resume": False}
    assert again == stated.model_copy(update={**of_this_call, "runs": again.runs})
    assert again.runs.absolute() == stated.runs.absolute()


def test_a_resume_takes_what_a_file_states(tmp_path: Path) -> None:
    recorded_run(tmp_path / "runs")
    file = tmp_path / "f.toml"
    file.write_text(f"trials = 14\nruns = {json.dumps(str(tmp_path / 'runs'))}\n")
    run = SearchRun.open("one", tmp_path / "runs")
    assert SearchOptions.recorded(run.record()).trials == 4
    assert asked("--resume", "one", "--config", file).resumed(run).trials == 14
    said = call(search.main, "--resume", "one", "--config", file, "--plan")
    assert "Trials: 14, " in said.out, said.err
    file.write_text("epochs = 5\n")
    said = call(search.main, "--resume", "one", "--config", file, "--runs", tmp_path / "runs")
    assert said.status == 2
    assert "--epochs is 3 in the run, but 5 was given" in said.err
    assert "(f.toml has epochs = 5.)" in said.err.replace(str(file), "f.toml")


def test_only_what_differs_from_the_defaults_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faces").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "of-the-job:1")
    options = SearchOptions(data=Path("faces"), weights="hub", time_budget="1h", trials=12, space="freezing", name="x")
    assert options.to_config() == {
        "space": "freezing",
        "data": str(tmp_path / "faces"),
        "preset": "faces-2026",  # another version may have another default
        "trials": 12,  # without it, the time alone would bound them
        "time_budget": "1h",
    }


@pytest.mark.parametrize(("main", "words"), [(search.main, ("--space", "freezing")), (compare.main, ("--seeds", "2"))])
def test_an_address_of_ray_client_is_refused_before_anything_begins(
    main: Any, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "Expected host:port of the cluster itself, by default head:6379, or `auto` on one of its machines."
    given = call(main, *words, "--runs", tmp_path, "--address", "ray://head:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    for said in (given, call(main, *words, "--runs", tmp_path)):
        assert said.status == 2
        assert said.err.startswith("Error: --address ray://head:10001 is one of Ray Client")
        assert expected in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_keeps_its_values_as_vary_takes_them(tmp_path: Path) -> None:
    words = ["--vary", "loss=focal,cross_entropy", "--vary", 'head=["mlp", null, "a,b=c"]', "--seeds", 3, "--folds", 2]
    stated = read(compare.main, CompareOptions.stated, *words)
    file = tmp_path / "config.toml"
    write_config(file, stated.to_config(), "tune.compare")
    assert tomllib.loads(file.read_text()) == {
        "preset": "contest-2021",
        "vary": ['loss=["focal", "cross_entropy"]', 'head=["mlp", null, "a,b=c"]'],
        "folds": 2,
        "seeds": 3,
    }
    assert read(compare.main, CompareOptions.stated, "--config", file) == stated
