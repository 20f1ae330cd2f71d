"""One call of `maskcls.predict`: photos, block by block, into what is kept beside the output, and then into tables."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import typer

from maskcls.data.pool import photo_bar
from maskcls.files import check_writable_name
from maskcls.serving.holdout_uses import bundle_digest
from maskcls.serving.predicting.tables import Format, open_table
from maskcls.serving.predicting.unfinished import SUFFIX, Unfinished, resume_note
from maskcls.serving.predictor import Predictor
from maskcls.serving.submission import check_any_predicted, errors_file, write_errors
from maskcls.text import printable

WRITTEN_PHOTOS = 8192
"""Photos whose rows are in memory together when tables are written; a row group of Parquet."""


@dataclass(frozen=True)
class Output:
    """What a call writes."""

    file: Path
    format: Format
    probabilities: bool


def predict(
    predictor: Predictor, files: Sequence[str], keys: Sequence[str], out: Output, *, resume: bool
) -> dict[int, str]:
    """Predict n photos and write their tables; return, for each that cannot be read, by its row, what is wrong.

    Those are listed beside the output.

    Beside the names, memory does not grow with n. What is predicted is kept beside the output as it comes, and goes
    when the tables are written; so an interrupted call goes on with `resume`, and the result is the same to the byte.

    Args:
        keys: names of the photos in the tables.

    Raises:
        CallError: what there is to go on with is of another call.
        DataError: no photo can be read; nothing is written.
    """
    check_writable_name(out.file, "--out", SUFFIX)
    call = {
        "bundle": bundle_digest(predictor.bundle.manifest),
        "temperature": predictor.bundle.temperature,
        "--images": _digest(files, keys),
        "--tta": predictor.flip,
        "--device": predictor.device,
        "--engine": predictor.engine.name,
        "--face-check": predictor.counts_faces,
    }
    with Unfinished(out.file, call, resume=resume) as kept:
        if kept.done:
            typer.echo(f"Going on behind the {kept.done:,} that are predicted.", err=True)
        try:
            with (
                photo_bar("Photos", len(files), True) as advance,
                closing(predictor.blocks(files, start=kept.done, skip_bad=True)) as blocks,
            ):
                advance(kept.done)
                for block in blocks:
                    kept.append(block)
                    advance(len(block.probabilities))
        except KeyboardInterrupt:
            typer.echo(resume_note(kept.done, len(files)), err=True)
            raise
        if len(kept.bad) == len(files):
            kept.remove()
        check_any_predicted(kept.bad, len(files))
        write_errors(errors_file(out.file), keys, kept.bad)
        _write(kept, keys, out, predictor)
        predictor.log_missed_faces(kept.faces_missed, len(files) - len(kept.bad))
        for note in _face_notes(kept.faces, is_cut=predictor.cuts_to_faces):
            typer.echo(printable(note), err=True)
        return kept.bad


def _face_notes(faces: Sequence[int | None], *, is_cut: bool) -> list[str]:
    """Return what to say of photos with no face, or several.

    Args:
        faces: of each photo, None of one that could not be read; empty where nobody looked.
        is_cut: photos are cut to the face; then the log says where none was found.
    """
    looked = [count for count in faces if count is not None]
    none, several = looked.count(0), sum(count > 1 for count in looked)
    of = f"of {len(looked):,} photos"
    notes = [f"No face was found in {none:,} {of}; their answers may mean nothing."] if none and not is_cut else []
    taken = "the largest in the middle was taken" if is_cut else "the answer may be about any of them"
    return [*notes, f"Several faces were found in {several:,} {of}; {taken}."] if several else notes


def _write(kept: Unfinished, keys: Sequence[str], out: Output, predictor: Predictor) -> None:
    how = {"probabilities": out.probabilities, "faces": predictor.counts_faces}
    with open_table(out.file, out.format, predictor.classes, abstain=predictor.abstain, **how) as table:
        for block in kept.read(WRITTEN_PHOTOS):
            table.add(keys[block.start : block.end], block)


def _digest(files: Sequence[str], keys: Sequence[str]) -> str:
    """12 hex digits, the same for the same photos under the same names in the same order."""
    digest = hashlib.sha256()
    for names in (files, keys):
        for name in names:
            digest.update(name.encode(errors="surrogateescape") + b"\0")
    return digest.hexdigest()[:12]
