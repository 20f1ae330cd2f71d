"""--config and --save-config of every command: what a file may say, what is refused, and what is written."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maskcls import demo, evaluate, serve
from maskcls.command_line.config_file import COMMANDS
from maskcls.command_line.options import module_of, options_of
from tests.commands import call, call_module, read
from tune import ensemble
from tune.compare import __main__ as compare
from tune.compare.options import CompareOptions
from tune.search import __main__ as search
from tune.search.options import SearchOptions

ROOT = Path(__file__).parents[3]
MODULES = sorted(
    file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__main__")
    for package in ("maskcls", "tune")
    for file in (ROOT / package).rglob("*.py")
    if '__name__ == "__main__"' in file.read_text() and file != ROOT / "maskcls" / "__main__.py"  # which has them all
)
"""The commands, as `python -m` takes them."""
FOLDERS = ("tune.search", "tune.compare", "tune.report", "tune.dashboard", "tune.audit")
"""Those that are folders of modules."""
GROUPS = {"maskcls.cache": ("list", "prune"), "tune.upkeep.runs": ("list", "show", "prune", "repair")}
"""Those that have parts, each with options of its own."""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("f.toml")


def searched(*words: object) -> SearchOptions:
    return read(search.main, SearchOptions.stated, *words)


def functions() -> list[Callable[..., Any]]:
    """The function of every command, and of each part of those that have parts."""
    single = [_imported(name).main for name in MODULES if name not in GROUPS]
    return [*single, *(getattr(_imported(name), _function_of(part)) for name in GROUPS for part in GROUPS[name])]


def _function_of(part: str) -> str:
    return f"{part}_" if part == "list" else part


def _imported(name: str) -> Any:
    return importlib.import_module(f"{name}.__main__" if name in FOLDERS else name)


def test_every_command_has_both_options() -> None:
    assert len(MODULES) == 18
    for name in MODULES:
        for part in GROUPS.get(name, (None,)):
            said = call_module(name, *filter(None, [part]), "--help")
            assert said.status == 0, said.err
            assert said.out.count("  --config FILE ") == said.out.count("  --save-config FILE ") == 1, name


def test_a_table_may_have_the_name_of_every_command() -> None:
    single = {name.rpartition(".")[2] for name in MODULES if name not in GROUPS}
    assert single | {f"{name.rpartition('.')[2]}-{part}" for name in GROUPS for part in GROUPS[name]} == COMMANDS


def test_an_option_has_the_same_name_in_a_file_and_on_the_command_line() -> None:
    assert len(functions()) == 22
    for main in functions():
        parts = [main.__name__.removesuffix("_")] if module_of(main) in GROUPS else []
        shown = call_module(module_of(main), *parts, "--help").out
        names = {line.split()[0] for line in shown.partition("Options:")[2].splitlines() if line.startswith("  --")}
        assert {f"--{one.name}" for one in options_of(main)} | {"--config", "--save-config", "--help"} == names


def test_options_by_their_names(file: Path) -> None:
    file.write_text(
        'trials = 12\ntime_budget = "2h"\ngpus-per-trial = 0.5\nset = ["lr_head=0.01"]\nskip-bad = true\n'
        'retrain-on-all = false\npixel-store-gb = 3\nlist_spaces = false\ncache = "~/c"\n'
    )
    assert searched("--config", file) == SearchOptions(
        trials=12,
        time_budget="2h",
        gpus_per_trial="0.5",
        set=["lr_head=0.01"],
        skip_bad=True,
        pixel_store_gb=3.0,
        cache=Path.home() / "c",
    )
    assert searched("--config", file).model_fields_set == {
        *("trials", "time_budget", "gpus_per_trial", "set", "skip_bad", "pixel_store_gb", "cache")
    }


def test_the_command_line_wins_with_its_whole_list_too(file: Path) -> None:
    file.write_text('trials = 12\nset = ["lr_head=0.01", "head=mlp"]\n')
    for words in (("--config", file, "--trials", 3, "--set", "epochs=2"),) * 2:
        asked = searched(*words)
        assert (asked.trials, asked.set) == (3, ("epochs=2",))
    assert searched("--trials", 3, "--config", file).set == ("lr_head=0.01", "head=mlp")


def test_every_flag_in_a_file_can_be_taken_back(file: Path) -> None:
    n_flags = 0
    for main in functions():
        for flag in (one for one in options_of(main) if one.is_flag and one.name != "no-auth"):  # --auth replaces it
            n_flags += 1
            file.write_text(f"{flag.name} = true\n")
            opposite = flag.name.removeprefix("no-") if flag.name.startswith("no-") else f"no-{flag.name}"
            for words, is_set in (((), True), ((f"--{opposite}",), False), ((f"--{flag.name}",), True)):
                given = _given(main, "--config", file, *words, *_needed(main))
                is_given = given.get(flag.parameter, True)  # --list-spaces and its like end the call
                assert bool(is_given) == is_set, (main.__module__, flag.name, words)
    assert n_flags > 40


def _given(main: Callable[..., Any], *words: object) -> dict[str, Any]:
    """What the command's function would be called with."""
    found: dict[str, Any] = {}

    @functools.wraps(main)
    def instead(**arguments: Any) -> None:
        found.update(arguments)

    said = call(instead, *words)
    assert said.status == 0, said.err
    return found


def _needed(main: Callable[..., Any]) -> list[str]:
    """Words without which a call of the command is refused."""
    parameters = inspect.signature(main).parameters.values()
    needed = {one.name for one in parameters if one.default is inspect.Parameter.empty and one.name != "context"}
    named = {one.parameter: f"--{one.name}=x" for one in options_of(main)}
    return [named.get(name, "x") for name in needed]


def test_what_is_taken_back_on_the_command_line_is_not_saved(file: Path) -> None:
    file.write_text("skip-bad = true\nplan = true\n")
    said = call(search.main, "--config", file, "--no-skip-bad", "--space", "freezing", "--save-config", "saved.toml")
    assert said.status == 0, said.err
    assert tomllib.loads(Path("saved.toml").read_text()) == {"space": "freezing", "plan": True}


def test_a_table_is_for_its_command_and_counts_before_what_is_above(file: Path) -> None:
    file.write_text(
        'epochs = 3\nskip_bad = true\n[search]\nepochs = 4\nskip-bad = false\n[compare]\nvary = ["loss=focal"]\n'
        '[cache-prune]\ncache = "nowhere"\n'
    )
    assert searched("--config", file) == SearchOptions(epochs=4)
    asked = read(compare.main, CompareOptions.stated, "--config", file)
    assert asked == CompareOptions(epochs=3, skip_bad=True, vary={"loss": ["focal"]})
    file.write_text('[cache-prune]\ncache = "nowhere"\n')
    assert "--cache nowhere is not a folder" in call_module("maskcls.cache", "prune", "--config", file).err
    assert call_module("maskcls.cache", "list", "--config", file, "--cache", ".").status == 0


def test_an_option_that_is_needed_may_stand_in_the_file(file: Path) -> None:
    file.write_text('out = "drawn"\npersons = 4\n')
    assert "but got 4. (f.toml has persons = 4.)" in call(demo.main, "--config", file).err
    said = call(demo.main, "--config", file, "--persons", 6)
    assert said.status == 0, said.err
    assert len(list(Path("drawn/train/images").iterdir())) == 6
    file.write_text('run = ["one", "two"]\n')
    assert "Missing option '--out'" in call(ensemble.main, "--config", file).err
    assert "There is no run 'one'" in call(ensemble.main, "--config", file, "--out", "x").err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trails = 12", "--config f.toml: search has no option trails. Did you mean trials?"),
        ("[search]\ntrails = 12", "--config f.toml, table search: search has no option trails. Did you mean trials?"),
        ("zzz = 1", "--config f.toml: search has no option zzz. Options: space, data, trials"),
        ("persons = 1", "search has no option persons"),
        ('trials = "12"', 'trials expects a whole number, as in trials = 12, but got trials = "12".'),
        ("trials = true", "trials expects a whole number, as in trials = 12, but got trials = true."),
        ("trials = 12.0", "trials expects a whole number, as in trials = 12, but got trials = 12.0."),
        ("pixel-store-gb = true", "pixel-store-gb expects a number, as in pixel-store-gb = 0.5, but got"),
        ("skip_bad = 1", "skip_bad expects true or false, as in skip-bad = true, but got skip_bad = 1."),
        ("space = true", 'space expects a string, as in space = "…", but got space = true.'),
        ("name = 1979-05-27", 'name expects a string, as in name = "…", but got name = 1979-05-27.'),
        ("data = 3", 'data expects the path of a file or folder as a string, as in data = "…", but got data = 3.'),
        ('set = "a=1"', 'set expects a list, as in set = ["…"], but got set = "a=1".'),
        ('set = ["a=1", ["b"]]', 'set expects a list, as in set = ["…"], but got set = ["a=1", ["b"]].'),
        ("[set]\nlr_head = 1", 'set expects a list, as in set = ["…"], but got a table.'),
        ("feature-store-gb = -1", "feature-store-gb expects a number of at least 0, but got feature-store-gb = -1."),
        ("feature-store-gb = nan", "feature-store-gb expects a number of at least 0, but got feature-store-gb = nan."),
        ("trials = 0", "--trials must be at least 1, but got 0. (f.toml has trials = 0.)"),
        ('space = "freezig"', "Did you mean freezing? Spaces: backbones"),
        ('space = "freezig"', '(f.toml has space = "freezig".)'),
        (
            'set = ["epochs"]',
            "--set expects key=value, as in --set epochs=6, but got 'epochs'. (f.toml has set = [\"ep",
        ),
        ("[serach]\ntrials = 1", "there is no command serach that a table could be for. Did you mean search?"),
        ('config = "g.toml"', "config is for the command line alone. Leave it out of the file."),
        ("save_config = 1", "save_config is for the command line alone."),
        ("split-seed = 1\nsplit_seed = 1", "split_seed is given twice, with a dash and with an underscore."),
        ("epochs = 1\nepochs = 2\n", "--config f.toml is not TOML: Cannot overwrite a value (at line 2, column 11)."),
        ('cache = "~nosuchuser/c"', "--config f.toml: cache: ~nosuchuser/c: no home of ~nosuchuser is known."),
        ("epochs = 1\nepochs 2", "Expected '=' after a key in a key/value pair (at line 2, column 8)."),
        ("epochs = 1\nset = [\n'a=1',\n", "(at line 3, the end of the file)."),
    ],
)
def test_what_a_file_may_not_say(text: str, message: str, file: Path) -> None:
    file.write_text(text)
    said = call(search.main, "--config", file)
    assert said.status == 2
    assert message in said.err
    assert "Traceback" not in said.err
    assert said.err.count("\n") == 1


def test_a_mistake_on_the_command_line_is_not_laid_on_the_file(file: Path) -> None:
    file.write_text("epochs = 3\n")
    said = call(search.main, "--config", file, "--space", "freezig")
    assert said.status == 2
    assert said.err.endswith("(Options were read from f.toml, too.)\n")


def test_a_number_is_bounded_where_the_command_line_bounds_it(file: Path) -> None:
    file.write_text("port = 70000\n")
    said = call(serve.main, "--config", file)
    assert (said.status, said.err) == (
        2,
        "Error: --config f.toml: port expects a number of at most 65535, but got port = 70000.\n",
    )


@pytest.mark.parametrize("name", ["seed", "split-seed", "pixel-store-gb", "feature-store-gb"])
def test_what_cannot_be_below_zero_is_so_in_no_command(name: str) -> None:
    having = [main for main in functions() if name in {one.name for one in options_of(main)}]
    assert len(having) >= 3
    for main in having:
        said = call(main, f"--{name}", -1)
        wrong = f"Invalid value for '--{name}': Input should be greater than or equal to 0"
        assert (said.status, wrong in said.err) == (2, True), main.__module__


def test_a_file_that_cannot_be_read(file: Path) -> None:
    said = call(search.main, "--config", file)
    assert (said.status, said.err) == (
        2,
        "Error: --config f.toml: there is no such file. Expected a TOML file of options.\n",
    )
    file.write_bytes(b"name = '\xfc'")
    assert "--config f.toml is not UTF-8 text" in call(search.main, "--config", file).err
    file.unlink()
    file.mkdir()
    assert "--config f.toml cannot be read: Is a directory." in call(search.main, "--config", file).err


def test_a_byte_order_mark_and_line_ends_of_windows_are_read(file: Path) -> None:
    file.write_bytes("trials = 3\r\nset = [\r\n'a=ü']\r\n".encode("utf-8-sig"))
    assert searched("--config", file) == SearchOptions(trials=3, set=["a=ü"])


def test_a_plan_is_made_of_a_file(file: Path) -> None:
    file.write_text('space = "freezing"\nscale = "cpu"\ntrials = 7\nset = ["head=mlp"]\nplan = true\n')
    said = call_module("tune.search", "--config", file, "--epochs", 5)
    assert said.status == 0, said.err
    assert "Trials: 7, " in said.out
    assert "Epochs: up to 5 each" in said.out
    assert "head is fixed at mlp: the space would vary it." in said.err


def test_what_a_call_states_is_saved_and_nothing_else(file: Path) -> None:
    file.write_text('space = "freezing"\ntrials = 12\nset = ["head=linear"]\n')
    words = ("--plan", "--scale", "cpu", "--set", "head=mlp", "--set", 'loss="focal"', "--data", "faces", "--seed", 0)
    Path("faces").mkdir()
    said = call(search.main, "--config", file, "--save-config", "saved.toml", *words)
    assert "faces is empty" in said.err, "it is the data that is wrong, not the call"
    saved = Path("saved.toml")
    assert tomllib.loads(saved.read_text()) == {
        "space": "freezing",
        "data": "faces",
        "trials": 12,
        "scale": "cpu",
        "seed": 0,
        "set": ["head=mlp", 'loss="focal"'],
        "plan": True,
    }
    assert saved.read_text().startswith("# Options of tune.search, for its --config.\nspace = ")


def test_what_the_environment_states_is_not_saved(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password is given there so that others cannot see it."""
    monkeypatch.setenv("MASKCLS_AUTH", "user:secret")
    Path("b").mkdir()
    said = call(serve.main, "--bundle", "b", "--port", 8123, "--save-config", file)
    assert "b is no bundle" in said.err
    assert tomllib.loads(file.read_text()) == {"bundle": "b", "port": 8123}


def test_a_password_on_the_command_line_is_not_saved(file: Path) -> None:
    Path("b").mkdir()
    said = call(serve.main, "--bundle", "b", "--auth", "user:secret", "--port", 8123, "--save-config", file)
    assert "b is no bundle" in said.err
    assert tomllib.loads(file.read_text()) == {"bundle": "b", "port": 8123}


def test_the_command_goes_on_after_its_options_are_saved(file: Path) -> None:
    for _ in range(2):  # again: the file is there, and is equal
        assert call(demo.main, "--persons", 6, "--out", "drawn", "--save-config", file).status == 0
        assert tomllib.loads(file.read_text()) == {"out": "drawn", "persons": 6}
        shutil.rmtree("drawn")
    assert [left.name for left in Path().iterdir()] == ["f.toml"]


def test_what_a_refused_call_states_is_not_kept(file: Path) -> None:
    said = call(search.main, "--space", "freezig", "--save-config", file)
    assert (said.status, "Did you mean freezing?" in said.err) == (2, True)
    assert not file.exists()
    file.write_text('space = "freezig"\n')
    assert call(search.main, "--space", "freezig", "--save-config", file).status == 2
    assert file.exists(), "it was there before"


def test_a_call_that_names_a_missing_path_is_refused_like_any_other(file: Path) -> None:
    Path("g.toml").write_text('submission = "nowhere.csv"\n')
    said = call(evaluate.main, "--config", "g.toml", "--answers", "a.csv", "--save-config", file)
    assert (said.status, "a.csv does not exist." in said.err) == (2, True)
    assert said.err.endswith("(Options were read from g.toml, too.)\n")
    assert not file.exists()


@pytest.mark.parametrize("there", ["persons = 4\n", "no TOML\n"])
def test_another_file_is_not_overwritten(there: str, file: Path) -> None:
    file.write_text(there)
    said = call(demo.main, "--persons", 5, "--out", "drawn", "--save-config", file)
    assert (said.status, said.err) == (
        2,
        "Error: --save-config f.toml: it exists already and holds something else. Name another file, or remove it.\n",
    )
    assert file.read_text() == there
    assert not Path("drawn").exists()


def test_options_are_saved_in_a_folder_that_exists(file: Path) -> None:
    said = call(demo.main, "--out", "drawn", "--save-config", "nowhere/f.toml")
    assert said.status == 2
    assert "--save-config nowhere/f.toml: there is no folder nowhere. Make it, or name another file." in said.err
    assert not Path("drawn").exists()


def test_the_file_in_the_guide_is_read(file: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "guide.md").read_text(), re.S)
    file.write_text(text)
    Path("faces").mkdir()
    shared = {"data": Path("faces"), "set": ["lr_head=0.01"], "skip_bad": True}
    assert searched("--config", file) == SearchOptions(**shared, space="freezing", trials=12, gpus_per_trial="auto")
    vary = {"loss": ["focal", "cross_entropy"], "frozen_stages": [0, 3, 5]}
    assert read(compare.main, CompareOptions.stated, "--config", file) == CompareOptions(**shared, vary=vary)
