"""The numbers of tests/structure.py: what each counts in a few lines of source, and their bounds for this tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import structure
from tests.structure import Module, Source

# Bounds of this tree, to be tightened where they can be, never widened.
MOST_FILES_IN_A_FOLDER = 20
MOST_FILES_IN_TUNE_ITSELF = 6
LONGEST_FUNCTION_LINES = 60
COPIES_OF_THE_LOOP = 1


@pytest.fixture(scope="module")
def here() -> Source:
    return Source.read(structure.ROOT)


def source(**texts: str) -> Source:
    """A source of a few modules: a key is the module's path, with __ for each slash."""
    modules = tuple(Module(f"{name.replace('__', '/')}.py", text) for name, text in texts.items())
    return Source(modules, {module.path: module.text for module in modules})


def test_no_folder_is_too_full(here: Source) -> None:
    for package in ("tune", "maskcls"):
        counts = structure.files_by_folder(here, package)
        assert len(counts) > 5
        assert max(counts.values()) <= MOST_FILES_IN_A_FOLDER, counts
    assert structure.files_by_folder(here, "tune")["tune"] <= MOST_FILES_IN_TUNE_ITSELF


def test_a_function_fits_on_a_screen(here: Source) -> None:
    lines, where = structure.longest_function(here)
    assert 0 < lines <= LONGEST_FUNCTION_LINES, where


def test_the_loop_over_a_fits_epochs_is_not_copied(here: Source) -> None:
    copies = structure.runs_of_a_fit(here)
    assert len(copies) <= COPIES_OF_THE_LOOP, copies


def test_imports_stand_at_the_top_unless_they_defer_something_heavy(here: Source) -> None:
    assert structure.light_imports_in_functions(here) == []


def test_the_words_of_the_old_private_language_are_gone(here: Source) -> None:
    assert structure.old_words(here) == []


def test_files_are_counted_by_the_folder_that_holds_them() -> None:
    paths = ("tune/__init__.py", "tune/export.py", "tune/states.py", "tune/runs/study.py", "maskcls/recipe.py")
    tree = Source(tuple(Module(path, "") for path in paths), dict.fromkeys(paths, ""))
    assert structure.files_by_folder(tree, "tune") == {"tune": 2, "tune/runs": 1}, "an empty __init__ is none"


def test_the_longest_function_may_be_a_method() -> None:
    tree = source(tune__a="class A:\n    def long(self):\n        x = 1\n        return x\n\ndef short(): ...\n")
    assert structure.longest_function(tree) == (3, "tune/a.py: long")


def test_a_comment_counts_beside_a_step_too_but_not_inside_a_string() -> None:
    modules = [Module("a.py", '# why\nx = 1  # (n, 18)\n\ny = "# none"\nz = 2\n')]
    assert structure.comment_share(modules) == 2 / 4


def test_a_fits_loop_is_a_save_beside_epochs_or_resume_of_one_object() -> None:
    loop = "def run(fit):\n    {}\n    fit.save(folder)\n"
    for call in ("for result in fit.epochs(): ...", "fit.resume(folder)"):
        assert structure.runs_of_a_fit(source(tune__a=loop.format(call))) == ["tune/a.py: run"]
    for call in ("faces.epochs()", "fit.load()"):
        assert structure.runs_of_a_fit(source(tune__a=loop.format(call))) == []


def test_an_import_in_a_function_is_light_where_nothing_heavy_comes_with_it() -> None:
    tree = source(
        tune__light="import json",
        tune__heavy="from tune import heavier",
        tune__heavier="import torch",
        tune__typed="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch",
        tune__command="def main():\n    import ray.tune\n    from tune.light import a\n    from tune.heavy import b\n"
        "    from tune import typed\n",
    )
    assert structure.imports_in_functions(tree) == 4
    assert structure.light_imports_in_functions(tree) == [
        "tune/command.py:3: from tune.light import a",
        "tune/command.py:5: from tune import typed",
    ]


def test_old_words_are_found_over_a_line_break_and_in_names_but_not_in_other_words() -> None:
    tree = source(tune__a='"""What it hangs\non."""\ndef told_of(): ...\n', tune__b="# a row and a column, untold\n")
    assert structure.old_words(tree) == ["tune/a.py:1: hangs on", "tune/a.py:3: told"]


def test_a_private_name_counts_unless_the_module_defines_it() -> None:
    text = "from optuna._typing import X\nclass A:\n    def _own(self):\n        self._kept = self.study._storage\n"
    tree = source(tune__a=text + "        return self._own, self._kept, os._exit\n")
    assert structure.private_uses(tree) == ["tune/a.py:1: _typing", "tune/a.py:4: _storage"]


def test_signatures_and_subscripts_by_string() -> None:
    text = (
        'def f(a: int, *, call: Mapping[str, Any]) -> Literal["x"]:\n    return call["seed"]\ndef g(call: Call): ...\n'
    )
    tree = source(tune__a=text)
    assert structure.untyped_signatures(tree) == ["tune/a.py:1: f"]
    assert structure.string_subscripts(tree, "tune/") == ["tune/a.py:2: call['seed']"]


def test_each_state_of_the_source_is_a_column(here: Source, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A row a photo.\n")
    for package in structure.PACKAGES:
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("# one comment\ndef f(): ...\n")
    rows = structure.table_rows(Source.read(tmp_path))
    assert rows["told, hangs on, anew, a row a"] == "1"
    lines = structure.table({"before": rows, "after": structure.table_rows(here)}).splitlines()
    assert lines[0].split() == ["before", "after"]
    assert len(lines) == 1 + len(rows)
    assert "comments in tune/, % of lines               50.0" in "\n".join(lines)
