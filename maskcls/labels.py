"""Map mask, gender and age to a class 0..17 and back, by the contest's numbering: `class = 6*mask + 3*gender + age`.

This is the only place that states the numbering; tasks are derived from it.
"""

from __future__ import annotations

from typing import NamedTuple

from maskcls.errors import CallError

MASKS = ("worn", "incorrect", "not worn")
GENDERS = ("male", "female")
AGES = ("under 30", "30 to 59", "over 59")
N_CLASSES = len(MASKS) * len(GENDERS) * len(AGES)

UNKNOWN = -1
"""In place of an index or a class that is not known of a photo, in the photo table and in arrays of labels."""

AGE_CUTS = (30, 60)
"""First year of the middle and of the old age group, as the contest has them."""


class Attributes(NamedTuple):
    """A class taken apart: indices into MASKS, GENDERS and AGES."""

    mask: int
    gender: int
    age: int


def encode(mask: int, gender: int, age: int) -> int:
    """Return the class (0..17) of indices into MASKS, GENDERS and AGES. Raises CallError for an index outside."""
    for name, value, names in (("mask", mask, MASKS), ("gender", gender, GENDERS), ("age", age, AGES)):
        if not 0 <= value < len(names):
            raise CallError(f"`0 <= {name} < {len(names)}` must hold, but got {value}.")
    return 6 * mask + 3 * gender + age


def decode(class_: int) -> Attributes:
    """Return the attributes of a class; the inverse of `encode`. Raises CallError outside 0..17."""
    if not 0 <= class_ < N_CLASSES:
        raise CallError(f"`0 <= class < {N_CLASSES}` must hold, but got {class_}.")
    return Attributes(class_ // 6, class_ // 3 % 2, class_ % 3)


def age_group(age_years: float, cuts: tuple[int, int] = AGE_CUTS) -> int:
    """Return the index into AGES of an age in years: 0 below `cuts[0]`, 2 from `cuts[1]` on, else 1."""
    if not 0 < cuts[0] < cuts[1]:
        raise CallError(f"Age cuts must rise: `0 < young < old` must hold, but got {cuts}.")
    return int(age_years >= cuts[0]) + int(age_years >= cuts[1])


def stratum(gender: int, age_years: float) -> int:
    """Return gender x age group as one number, by which people are split and resampled.

    Its age groups always end at AGE_CUTS: a search over the ages where training cuts moves nobody to another side.
    """
    return len(AGES) * int(gender) + age_group(age_years)


def stratum_of(class_: int) -> int:
    """Return the `stratum` of a class 0..17, of whose people the age in years need not be known."""
    _, gender, age = decode(class_)
    return len(AGES) * gender + age


AgeBands = tuple[tuple[int, int], ...]
"""First and last year of each band, both included."""


def parse_age_bands(text: str) -> AgeBands:
    """Read `57-59`, several as in `27-29,57-59`, or single years; "" is none.

    Raises CallError on anything else.
    """
    bands = []
    for part in filter(None, text.split(",")):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(first) > int(last or first):
            raise CallError("Bands of ages are written as 57-59 or 27-29,57-59, the younger year first.")
        bands.append((int(first), int(last or first)))
    return tuple(bands)


def class_name(class_: int) -> str:
    """Return the class in words, as in `worn, male, under 30`."""
    mask, gender, age = decode(class_)
    return f"{MASKS[mask]}, {GENDERS[gender]}, {AGES[age]}"


CLASS_NAMES = tuple(class_name(c) for c in range(N_CLASSES))
