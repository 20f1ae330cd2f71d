"""Splits of the people: train, validation and holdout, and folds. No person and no photo is on two sides.

People who share a photo (the same bytes) are one group, and whole groups are drawn. Strata are gender x age group at
the contest's cuts, whatever the cuts of the labels, so that a search over the age boundary moves nobody. People who
cannot be scored, because none of their photos has all labels, and extra people are always in training.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskcls.data.identical import identical_groups, identical_photos
from maskcls.data.names import match
from maskcls.data.tables import read_text
from maskcls.errors import CallError, DataError
from maskcls.files import FileKind, parse_json
from maskcls.labels import AGES, N_CLASSES, UNKNOWN, age_group
from maskcls.text import first

log = logging.getLogger("maskcls")

SIDES = ("train", "validation", "holdout")
SPLIT_FILE = FileKind("a split: a JSON object with a list of people per side", "Restore it from a backup.")
EXTRA = "extra"
"""Column of the photo table: whether the photo is for training alone. Without extra photos there is none."""
FRACTIONS = (0.7, 0.15, 0.15)
NAMED = 5


@dataclass(frozen=True)
class Split:
    """The persons (train.csv's paths) of each side, sorted."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    holdout: tuple[str, ...] = ()

    def side(self, name: str) -> tuple[str, ...]:
        """Return `train`, `validation` or `holdout`."""
        if name not in SIDES:
            raise CallError(f"There is no side {name!r} of a split. Sides: {', '.join(SIDES)}.")
        persons: tuple[str, ...] = getattr(self, name)
        return persons

    @property
    def digest(self) -> str:
        """12 hex digits, the same in every process, for the same people on the same sides."""
        sides = {name: sorted(self.side(name)) for name in SIDES}
        return hashlib.sha256(json.dumps(sides, sort_keys=True).encode()).hexdigest()[:12]

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `to_json` gave from a run's file. Raises Damaged, or Missing."""
        with SPLIT_FILE.reading(file):
            return cls.from_json(SPLIT_FILE.read_text(file), "The split")

    def to_json(self) -> str:
        """Return an object with a list of persons for each side: what `--split` takes."""
        return json.dumps({name: list(self.side(name)) for name in SIDES}, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "A split") -> Self:
        """Read what `to_json` wrote.

        Raises DataError, beginning with `source`, naming what is missing, or who is named twice.
        """
        expected = f"Expected {json.dumps({name: ['<path>', '…'] for name in SIDES}, ensure_ascii=False)}."
        try:
            sides = parse_json(text)
        except ValueError as error:
            raise DataError(f"{source} is not JSON: {error}. {expected}") from None
        if not isinstance(sides, dict) or set(sides) != set(SIDES):
            got = ", ".join(map(str, sides)) or "nothing" if isinstance(sides, dict) else type(sides).__name__
            raise DataError(f"{source} holds {got}, not just {', '.join(SIDES)}. {expected}")
        for name in SIDES:
            if not isinstance(sides[name], list) or not all(isinstance(person, str) for person in sides[name]):
                raise DataError(f"{source}: {name} is not a list of persons. {expected}")
        twice = sorted(_repeated(person for name in SIDES for person in sides[name]))
        if twice:
            raise DataError(
                f"{source} names {_named(twice)} more than once. Expected every person in one place. Remove the others."
            )
        return cls(*(tuple(sorted(sides[name])) for name in SIDES))


def _repeated(persons: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    return {person for person in persons if person in seen or seen.add(person)}  # type: ignore[func-returns-value]


def _named(persons: Sequence[str]) -> str:
    return first(persons, NAMED, "more people")


def read_split(file: Path, photos: pd.DataFrame, ignore: Collection[str] = ()) -> Split:
    """Read a user-supplied split.

    Logs people whom it doesn't name (they are not used), and people who share a photo with another side. Extra people
    are in training without being named.

    Args:
        ignore: people who were left out of the table, so that it is no error to name them.

    Raises CallError where there is no such file, DataError for people who aren't there or are named twice, or if a
    side that is needed has nobody who can be scored.
    """
    if not file.is_file():
        raise CallError(
            f"--split {file}: there is no such file. Expected JSON with lists of people: {', '.join(SIDES)}."
        )
    split = Split.from_json(read_text(file, f"JSON with lists of people ({', '.join(SIDES)})"), str(file))
    there = set(photos["person"])
    split = _with_names_of(split, there | set(ignore))
    named = {person for name in SIDES for person in split.side(name)}
    unknown = sorted(named - there - set(ignore))
    if unknown:
        raise DataError(
            f"{file} names {_named(unknown)}: there is nobody of that name among the data's people. "
            "Expected the people's folders, or what the table has under person. Correct the names."
        )
    split = Split(*(tuple(person for person in split.side(name) if person in there) for name in SIDES))
    for name in SIDES[:2]:
        if not split.side(name):
            raise DataError(f"{file}: nobody stands in {name}. Expected at least one person. Add some.")
    unscored = sorted({*split.validation, *split.holdout} - scored_people(photos))
    if unscored:
        raise DataError(
            f"{file} names {_named(unscored)} in validation or holdout, but none of their photos can be scored: mask, "
            "gender or age is not known, or they are extra people. Move them to train."
        )
    extra = extra_people(photos)
    _log_oddities(file, split, photos, sorted(there - named - extra))
    return Split(tuple(sorted({*split.train, *extra})), split.validation, split.holdout)


def _with_names_of(split: Split, there: Collection[str]) -> Split:
    """Return the split with people named as they are there, where they are."""
    matches = match((person for name in SIDES for person in split.side(name)), sorted(there))
    if matches.by_number:
        log.warning(matches.note("the split's people"))
    return Split(*(tuple(sorted(matches.found.get(person, person) for person in split.side(name))) for name in SIDES))


def _log_oddities(file: Path, split: Split, photos: pd.DataFrame, unnamed: list[str]) -> None:
    if unnamed:
        log.warning("%s does not name %s: not used.", file, _named(unnamed))
    side_of = {person: name for name in SIDES for person in split.side(name)}
    for persons in identical_photos(photos):
        if len({side_of[person] for person in persons if person in side_of}) > 1:
            log.warning(
                "%s puts %s on different sides, though they share a photo: scores will be too good.",
                file,
                _named(sorted(persons)),
            )


def rows(photos: pd.DataFrame, persons: Collection[str]) -> NDArray[np.int64]:
    """Return the rows (rising) of the photo table that belong to these people."""
    return np.flatnonzero(photos["person"].isin(list(persons))).astype(np.int64)


def missing_classes(photos: pd.DataFrame, persons: Collection[str]) -> list[int]:
    """Return the classes (0..17) of which these people have no photo."""
    return sorted(set(range(N_CLASSES)) - set(photos["label"].to_numpy()[rows(photos, persons)].tolist()))


def split_people(photos: pd.DataFrame, seed: int = 0, fractions: tuple[float, float, float] = FRACTIONS) -> Split:
    """Draw train, validation and holdout from `seed` and the people alone, whatever the rows' order.

    With few people, training gets somebody of each stratum first; with one or two people, validation or holdout stay
    empty. People who cannot be scored (`scored_people`) are in training.

    Args:
        photos: the photo table (`photos.read_photos`).
        fractions: of the people, for train, validation, holdout; they add up to one.
    """
    if len(fractions) != len(SIDES) or min(fractions) < 0 or fractions[0] <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise CallError(f"Fractions of a split must be three, not negative, and add up to 1, but got {fractions}.")
    units, others = _units(photos)
    n = len(units)
    if not n:
        return Split(others, ())
    n_validation = min(_share(n, fractions[1], 1), n - 1)  # so that somebody is left to train on
    n_holdout = min(_share(n, fractions[2], 2), n - 1 - n_validation)
    generator = np.random.default_rng(seed)
    reserved = _one_of_each_rare_stratum(
        units, generator, min(f for f in fractions if f > 0), n - n_validation - n_holdout
    )
    # Holdout and then validation are drawn from the others; training gets what is left.
    rest = units.drop(index=reserved)
    rest, holdout = _draw(rest, n_holdout, generator)
    rest, validation = _draw(rest, n_validation, generator)
    train = pd.concat([units.loc[reserved], rest])
    return Split(tuple(sorted((*_persons(train), *others))), _persons(validation), _persons(holdout))


def folds(photos: pd.DataFrame, k: int, seed: int = 0, persons: Collection[str] | None = None) -> list[Split]:
    """Return k splits of `persons` (default: all), whose validation sides are disjoint and together hold all of them.

    People who are not among `persons` are the holdout; those who cannot be scored are in training in every fold.
    Raises CallError for fewer than two folds, or more than there are people.
    """
    chosen = set(photos["person"]) if persons is None else set(persons)
    others = tuple(sorted(set(photos["person"]) - chosen))
    units, train_only = _units(photos[photos["person"].isin(list(chosen))])
    if not 2 <= k <= len(units):
        raise CallError(
            f"`2 <= folds <= people` must hold, but got {k} folds of {len(units)} people "
            "(identical photos make one of several)."
        )
    from sklearn.model_selection import StratifiedKFold  # here: see identical.py

    # Where every stratum has fewer people than folds, scikit-learn refuses them, and people are drawn from all alike.
    strata = units["stratum"] if units["stratum"].value_counts().max() >= k else pd.Series(0, index=units.index)
    splitter = StratifiedKFold(k, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a stratum of fewer people than folds is spread as far as it goes
        warnings.simplefilter("ignore", UserWarning)
        pairs = list(splitter.split(units, strata))
    return [
        Split(tuple(sorted((*_persons(units.iloc[train]), *train_only))), _persons(units.iloc[validation]), others)
        for train, validation in pairs
    ]


def count_groups(photos: pd.DataFrame, persons: Collection[str]) -> int:
    """Return how many groups these people are, of whom no two share a photo: the most folds that `folds` can draw.

    Groups that cannot be scored are not counted.
    """
    return len(_units(photos[photos["person"].isin(list(persons))])[0])


def _share(n: int, fraction: float, keep: int) -> int:
    """Return how many of n make a fraction; at least one, if that leaves `keep` for the sides before it."""
    return max(round(n * fraction), int(n > keep)) if fraction > 0 else 0


def _persons(units: pd.DataFrame) -> tuple[str, ...]:
    return tuple(sorted(person for persons in units["persons"] for person in persons))


def scored_people(photos: pd.DataFrame) -> set[str]:
    """Return the people who can be scored: they have a photo with all labels, and are not extra people."""
    return set(photos.loc[photos["label"] != UNKNOWN, "person"]) - extra_people(photos)


def extra_people(photos: pd.DataFrame) -> set[str]:
    """Return the people whose photos are for training alone, as --extra adds them."""
    return set(photos.loc[photos[EXTRA], "person"]) if EXTRA in photos else set()


def _units(photos: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return what is drawn, one row per group of people, sorted; and the people of groups that cannot be scored.

    Columns: persons (tuple), stratum and age stratum of the first of them who can be scored, and the classes of all.
    """
    scored = scored_people(photos)
    known = photos[photos["label"] != UNKNOWN]
    people = known.drop_duplicates("person").set_index("person")
    masks = known.groupby("person")["mask"].agg(set)
    # By the age, where it is known, because an age group may follow other cuts.
    ages = pd.Series(
        [
            group if np.isnan(age) else age_group(age)
            for age, group in zip(people["age"], people["age_group"], strict=True)
        ],
        people.index,
        dtype=np.int64,
    )
    strata = len(AGES) * people["gender"] + ages
    groups: dict[str, list[str]] = {}
    # Sorted, so that the order of the photo table moves nobody.
    for person, group in sorted(identical_groups(photos).items()):
        groups.setdefault(group, []).append(person)
    drawn = [group for group in groups.values() if scored & set(group)]
    others = tuple(sorted(person for group in groups.values() if not scored & set(group) for person in group))
    first = [next(person for person in group if person in scored) for group in drawn]
    classes = [
        {(mask, int(strata[person])) for person in group if person in people.index for mask in masks[person]}
        for group in drawn
    ]
    return pd.DataFrame(
        {
            "persons": [tuple(group) for group in drawn],
            "stratum": strata[first].to_numpy(),
            "age_stratum": ages[first].to_numpy(),
            "classes": classes,
        }
    ), others


def _one_of_each_rare_stratum(
    units: pd.DataFrame, generator: np.random.Generator, smallest: float, room: int
) -> list[int]:
    """Choose units that go to training in any case: one of each stratum that is rare, then of each class, rarest first.

    A class with nobody in training can't be learned. People of the contest have photos of all three mask states, so
    that their classes are there with their strata; a table's people may not.
    """
    counts = units["stratum"].value_counts()
    # Rare: less than one of the stratum is to be expected on the smallest side.
    rare = sorted((int(count), name) for name, count in counts.items() if count * smallest < 1)
    chosen = [int(generator.choice(units.index[units["stratum"] == name])) for _, name in rare]
    of_class = Counter(class_ for classes in units["classes"] for class_ in classes)
    for _, class_ in sorted((count, class_) for class_, count in of_class.items() if count * smallest < 1):
        there = units.index[[class_ in classes for classes in units["classes"]]].tolist()
        if not set(there) & set(chosen):
            chosen.append(int(generator.choice(there)))
    return chosen[:room]


def _draw(units: pd.DataFrame, n: int, generator: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rest and n drawn units.

    They are drawn by gender x age group, or where people are too few for that by age group, or else from all alike.
    """
    from sklearn.model_selection import StratifiedShuffleSplit  # here: see identical.py

    seed = int(generator.integers(2**31))  # scikit-learn takes no Generator
    if n == 0 or n >= len(units):
        return (units, units[:0]) if n == 0 else (units[:0], units)
    for strata in (_merged(units["stratum"]), _merged(units["age_stratum"]), pd.Series(0, index=units.index)):
        if strata.nunique() <= min(n, len(units) - n):  # scikit-learn wants one of each on either side
            break
    splitter = StratifiedShuffleSplit(1, test_size=n, random_state=seed)
    rest, drawn = next(splitter.split(units, strata))
    return units.iloc[np.sort(rest)], units.iloc[np.sort(drawn)]  # in the order of the units


def _merged(strata: pd.Series[Any]) -> pd.Series[Any]:
    """Join strata of one unit, which scikit-learn refuses, with the largest."""
    counts = strata.value_counts()
    return strata.where(strata.map(counts) > 1, counts.index[0])
