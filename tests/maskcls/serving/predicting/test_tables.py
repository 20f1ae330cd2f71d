"""What each format holds, how much of it is in memory, and what is left where the writing fails."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from maskcls.errors import CallError
from maskcls.labels import CLASS_NAMES
from maskcls.serving.marginals import MARGINAL_COLUMNS, PROBABILITY_COLUMNS, marginals
from maskcls.serving.predicting.tables import Format, format_of, open_table, probabilities_file
from maskcls.serving.predicting.unfinished import Block
from maskcls.serving.submission import read_classes

KEYS = ("b.jpg", "a.jpg", "c, d.jpg")
DRAWN = np.random.default_rng(0).dirichlet(np.ones(18), 3)  # (3, 18)
ONE_BAD = Block(0, np.vstack([DRAWN[:1], np.full((1, 18), 1 / 18), DRAWN[2:]]), {1: "a.jpg is empty."})


def likeliest(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.argmax(axis=1)


def written(out: Path, kind: Format, keys: Sequence[Sequence[str]] = (KEYS,)) -> Path:
    with open_table(out, kind, likeliest, probabilities=True) as table:
        for of_block in keys:
            table.add(of_block, ONE_BAD)
    return out


def test_a_submission_has_every_row_in_its_order(tmp_path: Path) -> None:
    file = written(tmp_path / "s.csv", Format.CSV)
    classes = ONE_BAD.probabilities.argmax(axis=1)
    assert file.read_bytes() == f'ImageID,ans\nb.jpg,{classes[0]}\na.jpg,0\n"c, d.jpg",{classes[2]}\n'.encode()
    assert read_classes(file) == dict(zip(KEYS, classes.tolist(), strict=True))
    heading, *rows = probabilities_file(file).read_text().splitlines()
    assert heading == ",".join(("ImageID", *PROBABILITY_COLUMNS, *MARGINAL_COLUMNS))
    assert len(rows) == 3
    assert sorted(left.name for left in tmp_path.iterdir()) == ["s.csv", "s.probabilities.csv"]


@pytest.mark.parametrize("kind", [Format.JSONL, Format.PARQUET])
def test_other_tables_have_all_that_is_known(kind: Format, tmp_path: Path) -> None:
    file = written(tmp_path / f"p.{kind}", kind)
    if kind == Format.JSONL:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pq.read_table(file).to_pylist()
    assert [row["ImageID"] for row in rows] == list(KEYS)
    assert set(rows[0]) == {
        *("ImageID", "ans", "mask", "gender", "age_group", "probability"),
        *PROBABILITY_COLUMNS,
        *MARGINAL_COLUMNS,
    }
    assert {name for name, value in rows[1].items() if value is not None} == {"ImageID"}
    for row, probabilities in ((rows[0], DRAWN[0]), (rows[2], DRAWN[2])):
        assert row["ans"] == probabilities.argmax()
        assert f"{row['mask']}, {row['gender']}, {row['age_group']}" == CLASS_NAMES[row["ans"]]
        assert row["probability"] == pytest.approx(probabilities.max(), rel=1e-5)
        assert [row[name] for name in PROBABILITY_COLUMNS] == pytest.approx(probabilities, rel=1e-5)
        expected = [value for of_task in marginals(probabilities).values() for value in of_task.values()]
        assert [row[name] for name in MARGINAL_COLUMNS] == pytest.approx(expected, rel=1e-5)


def test_faces_are_a_column_where_they_are_counted(tmp_path: Path) -> None:
    for kind in Format:
        with open_table(tmp_path / f"p.{kind}", kind, likeliest, probabilities=True, faces=True) as table:
            table.add(KEYS, ONE_BAD._replace(faces=(1, None, 3)))
    heading, *lines = (tmp_path / "p.probabilities.csv").read_text().splitlines()
    assert heading.endswith(",age_group_over_59,faces")
    assert [line.rpartition(",")[2] for line in lines] == ["1", "", "3"]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for found in (rows, pq.read_table(tmp_path / "p.parquet").to_pylist()):
        assert [row["faces"] for row in found] == [1, None, 3]


def test_below_the_limit_the_answer_is_not_sure(tmp_path: Path) -> None:
    sure = DRAWN.max(axis=1) >= (limit := float(np.sort(DRAWN[[0, 2]].max(axis=1))[1]))
    for kind in Format:
        with open_table(tmp_path / f"p.{kind}", kind, likeliest, probabilities=False, abstain=limit) as table:
            table.add(KEYS, ONE_BAD)
    answers = [row.rpartition(",")[2] for row in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    assert answers == [
        str(DRAWN[0].argmax()) if sure[0] else "not sure",
        "0",
        str(DRAWN[2].argmax()) if sure[2] else "not sure",
    ]
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    for found in (rows, pq.read_table(tmp_path / "p.parquet").to_pylist()):
        assert [row["sure"] for row in found] == [bool(sure[0]), None, bool(sure[2])]
        assert [row["ans"] is None for row in found] == [not sure[0], True, not sure[2]]
        assert [row["mask"] is None for row in found] == [not sure[0], True, not sure[2]]
        assert [row["probability"] is None for row in found] == [False, True, False]


def test_the_suffix_names_the_format_unless_one_is_given(tmp_path: Path) -> None:
    assert format_of(tmp_path / "a.Parquet", None) == Format.PARQUET
    assert format_of(tmp_path / "a.txt", "jsonl") == Format.JSONL
    with pytest.raises(
        CallError, match=r"a\.json ends in no known format\. Name a file that ends in one of csv, jsonl"
    ):
        format_of(tmp_path / "a.json", None)
    with pytest.raises(CallError, match=r"--format is one of csv, jsonl, parquet, but got xml\."):
        format_of(tmp_path / "a.csv", "xml")


@pytest.mark.parametrize("kind", list(Format))
def test_a_writing_that_fails_leaves_the_old_table(kind: Format, tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    file.write_text("old")
    with pytest.raises(ValueError, match="zip|[Ll]ength"):
        written(file, kind, keys=(KEYS, KEYS[:2]))
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
