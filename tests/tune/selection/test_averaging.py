"""Which other trials are averaged with the winner: those that make the true classes likelier for people who did not
select them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tune.selection.averaging import MOST_OTHERS, Floats, Other, log_likelihood, select

TRUTH = np.repeat(np.arange(6), 10)
PARTS = np.arange(60) % 5
EVERY, NO = np.ones(60, bool), np.zeros(60, bool)


def answers(right: NDArray[np.bool_], sure: float = 0.9) -> Floats:
    """Probabilities (60, 18): `sure` of the true class where `right`, (60,), is true, else of the one after it."""
    named = np.where(right, TRUTH, (TRUTH + 1) % 18)
    return sure * np.eye(18)[named] + (1 - sure) / 18


def other(name: str, right: NDArray[np.bool_], sure: float = 0.9) -> Other:
    return Other(name, 1, 0.5, answers(right, sure), Path(name))


NUMBER = np.arange(60)
BASE = answers(NUMBER % 3 != 0)
HELPS = other("helps", NUMBER % 3 != 1)
HARMS = other("harms", NO)
SAME = other("same", NUMBER % 3 != 0)


def names(taken: list[Other]) -> list[str]:
    return [one.trial_id for one in taken]


def test_what_errs_elsewhere_is_taken_and_what_knows_nothing_is_not() -> None:
    taken, mean, _ = select(BASE, 1, [HARMS, HELPS], TRUTH, PARTS)
    assert names(taken) == ["helps"]
    np.testing.assert_allclose(mean, (BASE + HELPS.probabilities) / 2)


def test_a_trial_counts_as_one_model_beside_all_that_base_is_the_mean_of() -> None:
    taken, mean, _ = select(BASE, 3, [HELPS], TRUTH, PARTS)
    assert names(taken) == ["helps"]
    np.testing.assert_allclose(mean, (3 * BASE + HELPS.probabilities) / 4)


def test_no_more_are_taken_than_a_photo_is_to_be_worth() -> None:
    many = [other(f"{n}", np.not_equal(NUMBER % 7, n)) for n in range(7)]
    assert len(select(answers(NUMBER % 2 == 0), 1, many, TRUTH, PARTS)[0]) == MOST_OTHERS
    for size in (1, 3):
        assert not select(BASE, size, [SAME, SAME], TRUTH, PARTS)[0], "what adds nothing is not paid for"


def test_people_are_answered_by_what_the_others_selected() -> None:
    """A trial that is right about one part alone is selected by that part, and so never answers it."""
    of_part = [other(f"part {part}", np.equal(PARTS, part), sure=0.99) for part in range(5)]
    base = answers(NO, sure=0.5)  # knows nothing, and is not sure of it
    _, mean, selected = select(base, 1, of_part, TRUTH, PARTS)
    assert selected.tolist() == [MOST_OTHERS] * 60, "of the four other parts"
    for part in range(5):
        here = np.flatnonzero(np.equal(PARTS, part))
        own = (base + of_part[part].probabilities) / 2
        assert not np.allclose(mean[here], own[here])


def test_where_all_people_select_none_nobody_is_answered_by_another_trial() -> None:
    """It is right, and sure, about four parts, and wrong about the fifth, which is most of the photos."""
    parts = np.where(NUMBER < 40, 0, NUMBER % 4 + 1)
    of_few = other("few", NUMBER >= 40, sure=0.99)
    base = answers(EVERY, sure=0.5)
    taken, mean, selected = select(base, 1, [of_few], TRUTH, parts)
    assert log_likelihood(of_few.probabilities, TRUTH, NUMBER >= 40) > log_likelihood(base, TRUTH, NUMBER >= 40)
    assert not taken
    assert not selected.any()
    assert np.array_equal(mean, base)


@pytest.mark.parametrize(("others", "parts"), [([], PARTS), ([HELPS], np.zeros(60, int))], ids=["none", "one part"])
def test_without_others_or_without_people_to_tell_it_by_nothing_is_selected(
    others: list[Other], parts: np.ndarray
) -> None:
    taken, mean, _ = select(BASE, 1, others, TRUTH, parts)
    assert not taken
    assert np.array_equal(mean, BASE)


def test_a_class_that_was_ruled_out_is_very_unlikely_and_not_impossible() -> None:
    sure = answers(NUMBER != 0, sure=1.0)
    assert np.isfinite(log_likelihood(sure, TRUTH, EVERY))
    assert log_likelihood(sure, TRUTH, EVERY) < log_likelihood(answers(NUMBER >= 0), TRUTH, EVERY)
