"""Phrases of messages: what stands where nothing is left over, one thing is, and many are."""

from __future__ import annotations

import pytest

from maskcls import text


@pytest.mark.parametrize(
    ("n", "shown"), [(0, ""), (1, "a"), (2, "a, b"), (3, "a, b and 1 more"), (1202, "a, b and 1,200 more")]
)
def test_names_beyond_the_limit_are_counted(n: int, shown: str) -> None:
    assert text.first(["a", "b", *["c"] * 1200][:n], 2) == shown


def test_lines_beyond_the_limit_are_counted() -> None:
    assert text.first_lines(["a", "b", "c"], 2) == ["  a", "  b", "  … and 1 more."]
    assert text.first_lines(["a", "b"], 2) == ["  a", "  b"]


def test_a_count_has_the_word_in_its_number() -> None:
    assert [text.counted(n, "photo") for n in (0, 1, 1200)] == ["0 photos", "1 photo", "1,200 photos"]
    assert text.counted(2, "person", "people") == "2 people"


def test_the_nearest_name_is_asked_for() -> None:
    assert text.meant("imagesize", ["epochs", "image_size"]) == "Did you mean image_size?"
    assert text.meant("xyz", ["epochs", "image_size"]) == ""
