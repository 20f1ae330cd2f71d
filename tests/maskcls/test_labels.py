"""The contest's numbering, both ways, exhaustively."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskcls.errors import CallError
from maskcls.labels import AGES, CLASS_NAMES, GENDERS, MASKS, N_CLASSES, age_group, decode, encode, stratum


def test_the_numbering_is_the_contests() -> None:
    rows = itertools.product(range(len(MASKS)), range(len(GENDERS)), range(len(AGES)))
    assert [encode(*row) for row in rows] == list(range(N_CLASSES)) == list(range(18))
    assert encode(0, 0, 0) == 0  # worn, male, under 30
    assert encode(1, 0, 2) == 8  # incorrect, male, over 59
    assert encode(2, 1, 2) == 17  # not worn, female, over 59


def test_decode_is_the_inverse_of_encode() -> None:
    assert [encode(*decode(c)) for c in range(N_CLASSES)] == list(range(N_CLASSES))


def test_class_names_are_different_and_in_order() -> None:
    assert len(set(CLASS_NAMES)) == N_CLASSES
    assert CLASS_NAMES[4] == "worn, female, 30 to 59"


@pytest.mark.parametrize(("years", "group"), [(18, 0), (29, 0), (29.9, 0), (30, 1), (59, 1), (60, 2), (100, 2)])
def test_age_groups_begin_at_their_cuts(years: float, group: int) -> None:
    assert age_group(years) == group


@given(st.floats(0, 120), st.integers(1, 60), st.integers(61, 100))
def test_age_cuts_are_parameters(years: float, young: int, old: int) -> None:
    assert age_group(years, (young, old)) == (0 if years < young else 1 if years < old else 2)


def test_age_cuts_must_rise() -> None:
    with pytest.raises(CallError, match=r"0 < young < old.*\(60, 30\)"):
        age_group(40, (60, 30))


@pytest.mark.parametrize(("attributes", "name"), [((3, 0, 0), "mask"), ((0, -1, 0), "gender"), ((0, 0, 3), "age")])
def test_indices_outside_are_refused_by_name(attributes: tuple[int, int, int], name: str) -> None:
    with pytest.raises(CallError, match=rf"<= {name} <"):
        encode(*attributes)


def test_classes_outside_are_refused() -> None:
    with pytest.raises(CallError, match="class < 18.*got 18"):
        decode(18)


def test_a_stratum_is_gender_and_age_group_at_the_contests_cuts() -> None:
    genders_and_ages = [(0, 29), (0, 30), (0, 60), (1, 29), (1, 59), (1, 90)]
    assert [stratum(gender, age) for gender, age in genders_and_ages] == [0, 1, 2, 3, 4, 5]
