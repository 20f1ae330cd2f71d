"""The tables that `maskcls.predict` writes: a submission in CSV, or a row of all that is known per photo in JSON lines
or Parquet. They are written block by block, so that memory does not grow with the number of photos.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskcls.data.photos import IMAGE
from maskcls.errors import CallError
from maskcls.files import csv_lines, replacing
from maskcls.labels import AGES, GENDERS, MASKS, decode
from maskcls.serving.marginals import MARGINAL_COLUMNS, PROBABILITY_COLUMNS, marginal_table
from maskcls.serving.predicting.unfinished import Block
from maskcls.serving.rows import NOT_SURE
from maskcls.text import shown

if TYPE_CHECKING:
    import pyarrow as pa

Decide = Callable[[NDArray[np.float64]], NDArray[np.int64]]
"""Probabilities (n, 18) -> classes (n,) of 0..17, as `Predictor.classes`."""
ANSWER, SURE, FACES = "ans", "sure", "faces"
DIGITS = 6
"""Significant digits of a probability in text."""


class Format(StrEnum):
    """How predictions are written; the value is the file's suffix as well."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


def format_of(out: Path, wanted: str | None) -> Format:
    """Return the format that `--format` names, or else the output's suffix. Raises CallError for others."""
    word = wanted if wanted is not None else out.suffix.lower().removeprefix(".")
    if word not in list(Format):
        names = ", ".join(Format)
        if wanted is not None:
            raise CallError(f"--format is one of {names}, but got {shown(wanted)}.")
        raise CallError(
            f"--out {shown(out)} ends in no known format. Name a file that ends in one of {names}, or give --format."
        )
    return Format(word)


def files_of(out: Path, kind: Format, *, probabilities: bool) -> tuple[Path, ...]:
    """Return the files that a call writes; a submission has its probabilities in a table beside it."""
    return (out, probabilities_file(out)) if kind == Format.CSV and probabilities else (out,)


def probabilities_file(out: Path) -> Path:
    """Return where the probabilities go that belong to a submission: beside it."""
    return out.with_suffix(".probabilities.csv")


@contextmanager
def open_table(
    out: Path,
    kind: Format,
    decide: Decide,
    *,
    probabilities: bool,
    abstain: float = 0.0,
    faces: bool = False,
) -> Iterator[Table]:
    """Yield a table to be filled block by block; its files appear, or are replaced, when the block ends without error.

    Args:
        decide: which class is named.
        probabilities: whether the 18 probabilities and those of mask, gender and age group are written as well.
        abstain: where the class that is named has a lower probability, the answer is "not sure".
        faces: whether the blocks say how many faces each photo has; of a submission, the probabilities' table does.
    """
    with ExitStack() as files:
        # The submission last: where it is, its probabilities are, too.
        streams = [files.enter_context(replacing(file)) for file in files_of(out, kind, probabilities=probabilities)]
        table = TABLES[kind](streams, decide, probabilities=probabilities, abstain=abstain, faces=faces)
        try:
            yield table
        finally:
            table.end()


class Table:
    """A table that is written in blocks."""

    def __init__(
        self, streams: Sequence[IO[bytes]], decide: Decide, *, probabilities: bool, abstain: float, faces: bool
    ) -> None:
        self.streams = streams
        self.decide = decide
        self.abstain = abstain
        self.with_probabilities = probabilities
        self.with_faces = faces
        self.begin()

    def begin(self) -> None:
        """Write what stands before the first row."""

    def add(self, keys: Sequence[str], block: Block) -> None:
        """Write the rows of a block of photos, of which these are the keys."""
        raise NotImplementedError

    def end(self) -> None:
        """Write what stands after the last row."""


class _Submission(Table):
    """The contest's `ImageID,ans`, and beside it, if asked, a table of probabilities.

    It has a row for every photo, as the contest wants it: class 0 for one that cannot be read.
    """

    def begin(self) -> None:
        faces = (FACES,) if self.with_faces else ()
        columns = ((IMAGE, ANSWER), (IMAGE, *PROBABILITY_COLUMNS, *MARGINAL_COLUMNS, *faces))
        for stream, names in zip(self.streams, columns, strict=False):
            stream.write(csv_lines([names]).encode())

    def add(self, keys: Sequence[str], block: Block) -> None:
        answers, *beside = self.streams
        probabilities = block.probabilities
        classes, named = _named(block, self.decide)
        said = [NOT_SURE if p < self.abstain else class_ for class_, p in zip(classes, named, strict=True)]
        for row in block.bad:
            said[row - block.start] = 0
        answers.write(csv_lines(zip(keys, said, strict=True)).encode())
        for stream in beside:
            numbers = np.hstack([probabilities, marginal_table(probabilities)])  # (n, 26)
            rows = [[key, *(f"{p:.{DIGITS}g}" for p in row)] for key, row in zip(keys, numbers.tolist(), strict=True)]
            for cells, faces in zip(rows, block.faces, strict=False):  # none, if they are not counted
                cells.append("" if faces is None else str(faces))
            stream.write(csv_lines(rows).encode())


class _JsonLines(Table):
    """One JSON object per photo."""

    def add(self, keys: Sequence[str], block: Block) -> None:
        columns = columns_of(keys, block, self.decide, self.abstain, with_probabilities=self.with_probabilities)
        for row in zip(*columns.values(), strict=True):
            values = (float(f"{cell:.{DIGITS}g}") if isinstance(cell, float) else cell for cell in row)
            line = json.dumps(dict(zip(columns, values, strict=True)), ensure_ascii=False)
            self.streams[0].write(f"{line}\n".encode())


class _Parquet(Table):
    """A Parquet file, whose row groups are the blocks."""

    def begin(self) -> None:
        import pyarrow.parquet as pq

        self._writer = pq.ParquetWriter(self.streams[0], self._schema())

    def add(self, keys: Sequence[str], block: Block) -> None:
        import pyarrow as pa

        columns = columns_of(keys, block, self.decide, self.abstain, with_probabilities=self.with_probabilities)
        self._writer.write_table(pa.table(columns, schema=self._schema()))

    def end(self) -> None:
        self._writer.close()

    def _schema(self) -> pa.Schema:
        return schema(self.with_probabilities, self.abstain, self.with_faces)


TABLES: dict[Format, type[Table]] = {Format.CSV: _Submission, Format.JSONL: _JsonLines, Format.PARQUET: _Parquet}


def _named(block: Block, decide: Decide) -> tuple[list[int], list[float]]:
    """The class of each photo of a block, (m,), and its probability, (m,)."""
    classes = decide(block.probabilities)
    return classes.tolist(), block.probabilities[np.arange(len(classes)), classes].tolist()


def columns_of(
    keys: Sequence[str], block: Block, decide: Decide, abstain: float, *, with_probabilities: bool
) -> dict[str, list[Any]]:
    """Return the columns of a table of all that is known, m rows each; of an unreadable photo that is nothing."""
    probabilities = block.probabilities  # (m, 18)
    classes, named = _named(block, decide)
    found = list(map(decode, classes))
    columns: dict[str, list[Any]] = {
        ANSWER: classes,
        "mask": [MASKS[one.mask] for one in found],
        "gender": [GENDERS[one.gender] for one in found],
        "age_group": [AGES[one.age] for one in found],
        "probability": named,
    }
    if abstain:
        columns[SURE] = [p >= abstain for p in columns["probability"]]
        for row in (row for row, is_sure in enumerate(columns[SURE]) if not is_sure):
            for name in (ANSWER, "mask", "gender", "age_group"):
                columns[name][row] = None
    if block.faces:
        columns[FACES] = list(block.faces)
    if with_probabilities:
        numbers = np.hstack([probabilities, marginal_table(probabilities)])  # (m, 26)
        columns |= dict(zip((*PROBABILITY_COLUMNS, *MARGINAL_COLUMNS), numbers.T.tolist(), strict=True))
    for row in block.bad:
        for column in columns.values():
            column[row - block.start] = None
    return {IMAGE: list(keys), **columns}


def schema(with_probabilities: bool, abstain: float, with_faces: bool) -> pa.Schema:
    """Return the types of what `columns_of` returns."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in ("mask", "gender", "age_group")]
    numbers = (*PROBABILITY_COLUMNS, *MARGINAL_COLUMNS) if with_probabilities else ()
    sure = [(SURE, pa.bool_())] if abstain else []
    faces = [(FACES, pa.int32())] if with_faces else []
    reals = [(name, pa.float64()) for name in numbers]
    known = [(IMAGE, pa.string()), (ANSWER, pa.int8()), *texts, ("probability", pa.float64()), *sure, *faces]
    return pa.schema([*known, *reals])
