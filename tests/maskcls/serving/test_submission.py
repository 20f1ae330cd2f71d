from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.errors import CallError, DataError
from maskcls.serving.export import check_writable
from maskcls.serving.submission import check_out, classes_of, read_classes


def table(folder: Path, text: str) -> Path:
    file = folder / "answers.csv"
    file.write_text(text)
    return file


def test_further_columns_and_a_byte_order_mark_are_left_aside(tmp_path: Path) -> None:
    assert read_classes(table(tmp_path, "\ufeffImageID,ans,person\na.jpg, 3,000081\n")) == {"a.jpg": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ImageID,class\na,1\n", r"lacks the column ans; it has ImageID, class\. Expected ImageID, ans\."),
        ("", r"lacks the columns ImageID, ans; it has nothing\."),
        ("ImageID,ans\n", r"has no rows\. Expected one row per photo"),
        ("ImageID,ans\na,1\na,2\n", r"line 3: a stands there a second time"),
        ("ImageID,ans\na,1\nb,18\n", r"line 3: ans must be a class 0\.\.17, but is '18'"),
        ("ImageID,ans\na,-1\n", r"line 2: ans must be a class 0\.\.17, but is '-1'"),
        ("ImageID,ans\na\n", r"line 2: ans must be a class 0\.\.17, but is ''"),
    ],
)
def test_bad_tables_are_refused_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_classes(table(tmp_path, text))


def test_missing_tables_and_rows_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv does not exist\. Expected a CSV file with the columns ImageID,ans"):
        read_classes(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"t\.csv lacks 2 of 3 photos, b the first\. Add their rows"):
        classes_of(["a", "b", "c"], {"a": 1}, Path("t.csv"))


def test_where_no_table_can_go_is_reported_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"--out .* is a folder\. Name a file, as in .*submission\.csv"):
        check_out(tmp_path)
    with pytest.raises(CallError, match=r"there is no folder .*nowhere\. Make it first"):
        check_out(tmp_path / "nowhere/s.csv")


def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path: Path) -> None:
    check_out(tmp_path / ("a" * 255))
    with pytest.raises(CallError, match=r"--out .*: File name too long\. Give it a shorter name\."):
        check_out(tmp_path / ("a" * 256))
    with pytest.raises(CallError, match="File name too long"):
        check_writable(tmp_path / ("a" * 250), overwrite=False)
    check_writable(tmp_path / ("a" * 230), overwrite=False)


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(unprivileged: Path) -> None:
    (unprivileged / "out").mkdir(mode=0o500)
    with pytest.raises(CallError, match=r"--out .*/s\.csv: .*/out may not be written\. Give yourself the right"):
        check_out(unprivileged / "out/s.csv")
