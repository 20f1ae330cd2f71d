"""What a call of `maskcls.predict` has predicted so far, in a folder beside its output, so that another can go on.

`probabilities.bin` has 18 float64 per photo. `blocks.jsonl` has one line per block that is whole: the row behind its
last photo, a checksum, the photos that could not be read, how many faces were missed, and how many each photo has. A
block counts from its line on, so that a kill at any moment costs at most the block at work. `call.json` says what is
predicted, and with what.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple, Self
from zlib import crc32

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from maskcls.errors import CallError, Damaged
from maskcls.files import FileKind, parse_object, write_atomically
from maskcls.labels import N_CLASSES
from maskcls.text import counted, shown

CALL, PROBABILITIES, BLOCKS, LOCK = "call.json", "probabilities.bin", "blocks.jsonl", "lock"
ROW_BYTES = 8 * N_CLASSES
SUFFIX = ".unfinished"
_KEPT = FileKind("what a call of maskcls.predict has kept", "Leave out --resume to begin again.", most_bytes=1 << 40)


class Block(NamedTuple):
    """Predictions for m photos that follow each other."""

    start: int
    """The first one's row among all photos."""
    probabilities: NDArray[np.float64]
    """(m, 18), rows summing to one; 1/18 each for a photo that cannot be read."""
    bad: dict[int, str]
    """For each photo that cannot be read, by its row among all photos, what is wrong."""
    faces_missed: int = 0
    faces: tuple[int | None, ...] = ()
    """(m,) how many faces each photo has, None of one that cannot be read; empty where nobody looked."""

    @property
    def end(self) -> int:
        """The row behind the last photo."""
        return self.start + len(self.probabilities)


class Unfinished:
    """The folder of one call, locked while it is open. As a context, it is kept after an error and removed otherwise.

    Args:
        out: the call's output, beside which the folder stands.
        call: what decides the predictions, ready for JSON.
        resume: go on with what is there, instead of beginning again.

    Raises CallError: what is there is another call's, or is being written.
    """

    def __init__(self, out: Path, call: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder_of(out)
        self.done = 0
        """Photos that are predicted."""
        self.bad: dict[int, str] = {}
        self.faces_missed = 0
        self.faces: list[int | None] = []
        """Of the photos that are predicted; empty where nobody looked."""
        self.folder.mkdir(exist_ok=True)
        self._lock = FileLock(self.folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CallError(
                f"Another call is predicting for {shown(out)}. Wait until it has ended, or name another --out."
            ) from None
        try:
            if not (resume and self._take_up(call, out)):
                self._begin(call)
            self._probabilities: IO[bytes] = self._open(PROBABILITIES, self.done * ROW_BYTES)
            self._blocks: IO[bytes] = self._open(BLOCKS, self._line_bytes)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._probabilities.close()
        self._blocks.close()
        self._lock.release()
        if error is None:
            self.remove()

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, block: Block) -> None:
        """Keep a block that follows the ones before it."""
        content = block.probabilities.astype("<f8").tobytes()
        self._probabilities.write(content)
        self._probabilities.flush()
        line = {"end": block.end, "crc": crc32(content), "bad": block.bad, "faces_missed": block.faces_missed}
        line["faces"] = block.faces
        self._blocks.write(f"{json.dumps(line)}\n".encode())
        self._blocks.flush()
        self._count(block.end, block.bad, block.faces_missed, block.faces)

    def read(self, size: int) -> Iterator[Block]:
        """Yield what was kept, in blocks of `size` photos."""
        with _KEPT.opened(self.folder / PROBABILITIES) as stream:
            for start in range(0, self.done, size):
                content = stream.read(min(size, self.done - start) * ROW_BYTES)
                probabilities = np.frombuffer(content, "<f8").reshape(-1, N_CLASSES).astype(np.float64)
                rows = range(start, start + len(probabilities))
                bad = {row: self.bad[row] for row in rows if row in self.bad}
                yield Block(start, probabilities, bad, faces=tuple(self.faces[start : rows.stop]))

    def _begin(self, call: Mapping[str, Any]) -> None:
        for name in (BLOCKS, PROBABILITIES, CALL):  # BLOCKS first: without it nothing counts
            file = self.folder / name
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            file.unlink(missing_ok=True)
        self._line_bytes = 0
        write_atomically(self.folder / CALL, json.dumps(call))

    def _take_up(self, call: Mapping[str, Any], out: Path) -> bool:
        """Count the blocks that are whole; False where no call was begun."""
        try:
            before = _KEPT.read_object(self.folder / CALL)
            lines = _KEPT.whole_lines(self.folder / BLOCKS)
        except Damaged:
            return False
        differing = [key for key, value in call.items() if before.get(key) != value]
        if differing:
            raise CallError(
                f"What was predicted so far for {shown(out)} is of another call: it differs in "
                f"{' and '.join(differing)}. Repeat that call, leave out --resume to begin again, or name "
                "another --out."
            )
        self._line_bytes = 0
        try:
            with _KEPT.opened(self.folder / PROBABILITIES) as stream:
                for line in lines:
                    # A failing machine may lose what a killed process does not.
                    with _KEPT.reading(self.folder / BLOCKS):
                        self._take_line(parse_object(line), stream)
                    self._line_bytes += len(line) + 1
        except Damaged:  # what comes before it counts
            return self.done > 0
        return True

    def _take_line(self, block: Mapping[str, Any], stream: IO[bytes]) -> None:
        """Count a line's block. Raises ValueError and the like where it is not the block that was predicted."""
        content = stream.read(max(0, block["end"] - self.done) * ROW_BYTES)
        probabilities = np.frombuffer(content, "<f8")
        if crc32(content) != block["crc"] or len(content) != (block["end"] - self.done) * ROW_BYTES:
            raise ValueError("another checksum")
        if not np.isfinite(probabilities).all():
            raise ValueError("probabilities that are not finite")
        rows = range(self.done, block["end"])
        bad = {int(row): str(said) for row, said in block["bad"].items()}
        faces = block.get("faces", [])
        if not rows or bad.keys() - set(rows) or len(faces) not in (0, len(rows)):
            raise ValueError("rows of other blocks")
        if not all(count is None or isinstance(count, int) for count in faces):
            raise ValueError("numbers of faces that are none")
        self._count(block["end"], bad, int(block["faces_missed"]), tuple(faces))

    def _count(self, end: int, bad: Mapping[int, str], faces_missed: int, faces: Sequence[int | None]) -> None:
        self.done = end
        self.bad.update(bad)
        self.faces_missed += faces_missed
        self.faces += faces

    def _open(self, name: str, size: int) -> IO[bytes]:
        """Open a file to append to its first `size` bytes; what follows was not whole."""
        stream = (self.folder / name).open("ab")
        stream.truncate(size)
        return stream


def folder_of(out: Path) -> Path:
    """Return the folder in which the work on an output is kept until it is done."""
    return out.with_name(out.name + SUFFIX)


def resume_note(done: int, total: int) -> str:
    """Return what to say of a call that was interrupted."""
    return f"{done:,} of {counted(total, 'photo')} are predicted. The same call with --resume goes on from there."
