"""The contents of a folder in the contest's layout: people and their photo files, and everything wrong with them.

Only names and sizes are read here; `checks.py` decodes the photos. The layout and its oddities: ids are strings with
leading zeros, some end in -1 or -2, one stands in two rows, so `path` is the key; files that begin with `.` are
litter; .jpg, .jpeg and .png stand in one folder. Folders are found by the rows' paths as `names.match` compares them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from maskcls.data.decoding.kinds import READ_SUFFIXES, is_photo
from maskcls.data.layouts.contents import MAX_AGE, NOT_PHOTOS, Contents, Person, Photo, years
from maskcls.data.names import match, normal
from maskcls.data.problems import Problem
from maskcls.data.tables import Row, read_table
from maskcls.errors import DataError
from maskcls.files import unreadable
from maskcls.labels import GENDERS
from maskcls.text import counted, is_utf8, shown

TABLE = "train/train.csv"
IMAGES = "train/images"
COLUMNS = ("id", "gender", "race", "age", "path")

LAYOUT = (
    f"Expected the contest's layout: {TABLE} and {IMAGES}/<path>/, or photos.csv with one row per photo, or "
    "folders <mask>/<gender>/<age_group>/, under the folder that --data names."
)

MASK_OF = {**{f"mask{i}": 0 for i in range(1, 6)}, "incorrect_mask": 1, "normal": 2}
"""A photo's name, without its extension -> index into MASKS."""
SEVEN = "mask1 to mask5, incorrect_mask and normal"


def scan(data: Path) -> Contents:
    """Read train/train.csv and list train/images under `data`, all problems in one pass; no photo is opened."""
    contents = Contents(data, Path(TABLE).name, of_people=True)
    try:
        contents.problems += missing(data)
    except OSError as error:
        contents.problems.append(Problem("folder", ".", unreadable(error.filename or data, error)))
    if contents.problems:
        return contents
    rows = _read_table(data / TABLE, contents)
    contents.rows = len(rows)
    folders = _folders(data / IMAGES, contents)
    folder_of = _find_folders(rows, folders, contents)
    contents.paths = {row["path"] for _, row in rows}
    people = {person.path: person for person in _good_people(rows, contents)}
    # Paths of invalid rows as well: their folders are known, and their photos are checked, too.
    paths = dict.fromkeys(row["path"] for _, row in rows if _is_folder_name(row["path"]))
    if folders:
        _list_photos(data / IMAGES, {path: people.get(path) for path in paths}, folder_of, contents)
    return contents


def missing(data: Path) -> Iterator[Problem]:
    """What the folder lacks of the contest's layout, before its table is read."""
    if not data.is_dir():
        what = "is a file, but no table of photos (.csv or .parquet)"
        yield Problem("folder", ".", f"{shown(data)} {what}. {LAYOUT} Check the path.")
    elif not is_utf8(str(data)):
        message = f"{shown(data)}: the folder's name is not UTF-8. Rename it, or name a link to it."
        yield Problem("folder", ".", message)
    elif (data / "train.csv").is_file() and not (data / TABLE).exists():  # --data names train/ itself
        yield Problem(
            "folder", ".", f"{data} has train.csv itself, but no {TABLE}. {LAYOUT} Did you mean --data {data.parent}?"
        )
    elif not any(data.iterdir()):
        yield Problem("folder", ".", f"{data} is empty. {LAYOUT} Check the path.")
    elif not (data / TABLE).is_file():
        yield Problem("folder", TABLE, f"{data} has no {TABLE}. {LAYOUT} Check the path.")
    elif not (data / IMAGES).is_dir():
        yield Problem(
            "folder", IMAGES, f"{data} has {TABLE}, but no folder {IMAGES}. {LAYOUT} Put the people's folders there."
        )


def _read_table(table: Path, contents: Contents) -> list[Row]:
    def refuse(kind: str, message: str) -> list[Row]:
        contents.problems.append(Problem(kind, TABLE, f"{table} {message}"))
        return []

    try:
        found = read_table(table)
    except DataError as error:
        contents.problems.append(Problem("table", TABLE, str(error)))
        return []
    if not found.columns:
        return refuse(
            "table", f"is empty. Expected a heading {','.join(COLUMNS)} and one row per person. Copy it again."
        )
    lacking = found.lacking(COLUMNS)
    if lacking:
        return refuse("column", lacking)
    if not found.rows:
        return refuse("table", "has a heading, but no rows. Expected one row per person. Copy it again.")
    contents.notes += filter(None, [found.note])
    return [(line, {name: row[name] for name in COLUMNS}) for line, row in found.rows]


def _folders(images: Path, contents: Contents) -> list[str]:
    """Return the names of the people's folders, as the disk has them."""
    try:
        with os.scandir(images) as entries:
            folders = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except OSError as error:
        contents.problems.append(Problem("folder", IMAGES, unreadable(images, error)))
        return []
    if not folders:
        message = (
            f"{images} is empty. Expected one folder per person, named like the rows' path in {TABLE}. "
            "Copy the photos there."
        )
        contents.problems.append(Problem("folder", IMAGES, message))
    return folders


def _find_folders(rows: list[Row], folders: list[str], contents: Contents) -> dict[str, str | None]:
    """Return the folder of each path that has one, and put the folder's name, normalised, into the rows.

    None stands for a folder whose name is not UTF-8, for which a problem is added.
    """
    matches = match((row["path"] for _, row in rows), folders)
    contents.notes += filter(None, [matches.note(f"the paths in {TABLE}")])
    not_utf8 = [folder for folder in folders if not is_utf8(folder)]
    strangers = sorted(set(folders) - set(matches.found.values()) - set(not_utf8))
    if strangers and rows:
        contents.notes.append(
            f"Not used: {counted(len(strangers), 'folder')} of {IMAGES} without a row in {TABLE}, as "
            f"{shown(strangers[0])}."
        )
    folder_of: dict[str, str | None] = {}
    for folder in not_utf8:
        guess = _in_cp949(folder)
        says = f" (in cp949 it is {guess})" if guess else ""
        contents.problem(
            "person folder",
            f"{IMAGES}/{folder}",
            f"has a name that is not UTF-8{says}, so no row can name it. "
            "Rename it, or unpack the archive again under the right encoding (unzip -O cp949).",
        )
        folder_of[normal(guess)] = None
    for _, row in rows:
        found = matches.found.get(row["path"])
        row["path"] = normal(found or row["path"])
        if found:
            folder_of[row["path"]] = found
    return folder_of


def _in_cp949(name: str) -> str:
    """Return what a name that is not UTF-8 is in the encoding of Korean Windows; empty if it is none there."""
    try:
        return os.fsencode(name).decode("cp949")
    except UnicodeDecodeError:
        return ""


def _good_people(rows: list[Row], contents: Contents) -> Iterator[Person]:
    """Yield the people whose rows are valid; add a problem for each of the others."""
    paths = Counter(row["path"] for _, row in rows)
    first = {row["path"]: line for line, row in reversed(rows)}  # reversed, so that the first line of a path stays
    for line, row in rows:
        path, where, who = (
            row["path"],
            f"{TABLE}, line {line}",
            f"{TABLE}, line {line} ({shown(row['path'] or row['id'] or 'no id')})",
        )
        problems = []
        if not _is_folder_name(path):
            message = f"{who}: path is {path!r}. Expected the name of a folder in {IMAGES}. Correct the row."
            problems.append(Problem("person folder", where, message))
        elif paths[path] > 1 and first[path] != line:
            message = (
                f"{who}: the path stands in line {first[path]} too. Expected one row per person. Remove the wrong one."
            )
            problems.append(Problem("duplicate path", where, message))
        gender, age = row["gender"].lower(), years(row["age"])
        if gender not in GENDERS:
            message = f"{who}: gender is {row['gender']!r}. Expected {' or '.join(GENDERS)}. Correct the row."
            problems.append(Problem("gender", where, message))
        if age is None:
            message = f"{who}: age is {row['age']!r}. Expected a number of years from 1 to {MAX_AGE}. Correct the row."
            problems.append(Problem("age", where, message))
        contents.problems += problems
        # Of several rows with one path none is taken: which one is right is not known.
        if age is not None and not problems and paths[path] == 1:
            yield Person(row["id"], GENDERS.index(gender), row["race"], age, path)


def _is_folder_name(path: str) -> bool:
    return path not in ("", ".", "..") and not {"/", "\\", "\0"} & set(path)


def _list_photos(
    images: Path, people: Mapping[str, Person | None], folder_of: Mapping[str, str | None], contents: Contents
) -> None:
    """Add the photos of people, given by their path; the person is None where the row is invalid."""
    litter: list[str] = []
    for path, person in people.items():
        folder = folder_of.get(path, "")
        if folder:
            try:
                _list_person(images / folder, person, contents, litter)
            except OSError as error:  # of one folder: the others are listed
                where = f"{IMAGES}/{folder}"
                contents.problems.append(Problem("person folder", where, unreadable(where, error)))
        elif folder is not None:
            contents.problem(
                "person folder",
                f"{IMAGES}/{path}",
                f"is missing, but stands in {TABLE}. Expected a folder with seven photos. Copy it again.",
            )
    if litter:
        contents.notes.append(
            f"Not used: {counted(len(litter), *NOT_PHOTOS)} (hidden, or of another kind), as {shown(litter[0])}."
        )


def _list_person(folder: Path, person: Person | None, contents: Contents, litter: list[str]) -> None:
    """Add a person's photos, one for each name of MASK_OF."""
    found: dict[str, str] = {}  # the photo's name without its extension -> the file
    oddities: dict[str, str] = {}  # likewise -> which file of that name is no photo, and why
    where = f"{IMAGES}/{folder.name}"

    with os.scandir(folder) as entries:
        # Sorted, because scandir's order depends on the file system, and of two photos of one name the first counts.
        files = sorted(((entry.name, entry) for entry in entries), key=lambda pair: pair[0])
    for name, entry in files:
        stem, suffix = os.path.splitext(name.lower())  # noqa: PTH122 - a Path for each photo would double the time
        odd = _odd(entry, suffix)
        if odd:
            oddities.setdefault(stem, f"{name} {odd}")
            litter.append(f"{where}/{name}")
        elif stem not in MASK_OF:
            contents.problem(
                "photo name",
                f"{where}/{name}",
                f"is none of {SEVEN}. Expected one of these names. Rename or remove it.",
            )
        elif stem in found:
            contents.problem(
                "photo name",
                f"{where}/{name}",
                f"stands beside {shown(found[stem])}. Expected one photo of each name. Remove one of them.",
            )
        else:
            found[stem] = name  # before its size: an empty photo is not missing
            status = entry.stat()
            if not status.st_size:
                contents.problem("photo", f"{where}/{name}", "is empty (0 bytes). Expected a photo. Copy it again.")
            elif person is None:
                contents.unlabelled.append(entry.path)
            else:
                stamp = (status.st_size, status.st_mtime_ns)
                contents.photos.append(Photo(person, entry.path, f"{person.path}/{name}", MASK_OF[stem], *stamp))
    missing = [name for name in MASK_OF if name not in found]
    if missing:
        there = "; ".join(shown(oddities[name]) for name in missing if name in oddities)
        remedy = f"But {there}. Replace it by a photo." if there else "Copy the folder again."
        contents.problem(
            "missing photos",
            where,
            f"has {len(found)} photos instead of seven: {', '.join(missing)} missing. {remedy}",
        )


def _odd(entry: os.DirEntry[str], suffix: str) -> str:
    """Return why an entry of a person's folder is no photo, in words that follow its name; empty if it is one."""
    if entry.name.startswith("."):
        return "is hidden"
    try:
        if not entry.is_file():
            link = entry.is_symlink() and not entry.is_dir()
            return "is a link to what is not there" if link else "is not a file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if suffix in READ_SUFFIXES or is_photo(Path(entry.path)) else "is not a photo"
