"""Files that appear whole or not at all, whatever interrupts the writing: a kill, a full disk."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(file: Path) -> Iterator[IO[bytes]]:
    """A stream whose content becomes `file`, in one step and on the disk, when the block ends well; else `file` stays as it was.

    Raises OSError naming the file, errno kept, where it cannot be written.
    """
    passing = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with passing.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        passing.replace(file)
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch makes a RuntimeError of it
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(file)) from error
    finally:
        passing.unlink(missing_ok=True)


def write_atomically(file: Path, text: str) -> None:
    """Write UTF-8 text by `replacing`."""
    with replacing(file) as stream:
        stream.write(text.encode())
