"""Photo tables in a folder: some files of a few bytes, and photos.csv beside them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

HEADING = "file,person,mask,gender,age,age_group"
GOOD = (
    "a/1.jpg,anna,worn,female,31,",
    "a/2.jpg,anna,not_worn,female,31,",
    "b/1.jpg,ben,incorrect,male,,over_59",
    "b/2.jpg,ben,worn,male,,over_59",
    "c/1.jpg,carl,worn,,,",
)
"""Three people: one of known age, one of known age group, and one of whom nothing is known."""


def write(folder: Path, *rows: str, heading: str = HEADING, files: bool = True) -> Path:
    """Write photos.csv and, unless `files` is false, the photos that its first cells name."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows if files else ():
        file = folder / unicodedata.normalize("NFC", row.partition(",")[0])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"\xff\xd8\xff of " + row.encode())
    table = folder / "photos.csv"
    table.write_text("\n".join([heading, *rows]) + "\n")
    return table
