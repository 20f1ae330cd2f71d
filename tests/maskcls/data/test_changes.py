"""By what photos, and what says which there are, are known to have changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from maskcls.data.changes import Changes, fingerprints, sources_digest


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with a table and photos in two folders."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        file = tmp_path / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(name.encode() * 4000)
    (tmp_path / "data" / "photos.csv").write_text("file,person\na/1.jpg,a\n")
    return tmp_path / "data"


def test_a_copy_is_the_same_and_so_is_a_photo_of_another_content(data: Path) -> None:
    before = sources_digest(data, None)
    copy = Path(shutil.copytree(data, data.with_name("copy")))
    (copy / "a" / "1.jpg").write_bytes(b"other pixels")
    assert sources_digest(copy, None) == before, "photos are compared by their fingerprints"
    assert sources_digest(data / "photos.csv") == sources_digest(copy / "photos.csv")


def test_other_names_and_other_tables_are_seen(data: Path) -> None:
    found = [sources_digest(data, None)]
    (data / "photos.csv").write_text("file,person\na/1.jpg,b\n")
    found.append(sources_digest(data, None))
    (data / "b" / "1.jpg").rename(data / "b" / "2.jpg")
    found.append(sources_digest(data, None))
    (data / "b" / "3.jpg").touch()
    found += [sources_digest(data, None), sources_digest(data, data / "photos.csv"), sources_digest(data / "gone")]
    assert len(set(found)) == 6


def test_a_photo_is_known_by_its_size_middle_and_end(data: Path) -> None:
    file = data / "a" / "1.jpg"
    content = bytearray(file.read_bytes())
    found = fingerprints([str(file)])
    for at in (len(content) // 2, len(content) - 1):
        other = content.copy()
        other[at] ^= 1
        file.write_bytes(other)
        found += fingerprints([str(file)])
    file.write_bytes(content + b"\0")
    found += fingerprints([str(file)])
    assert len(set(found)) == 4
    file.write_bytes(content)
    os.utime(file, (0, 0))
    assert fingerprints([str(file), str(data / "gone.jpg")]) == [found[0], ""]


def test_changes_are_said_in_one_line() -> None:
    assert not Changes()
    said = str(Changes(content=("a", "b\n"), labels=("c", "d", "e", "f"), new=("g",)))
    assert said == (
        "2 photos have other content (a, b\\x0a), 4 photos have other labels (c, d, e and 1 more), 1 photo is new (g)"
    )
