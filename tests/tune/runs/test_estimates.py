"""What decoded photos need is known before anything is begun."""

from __future__ import annotations

from dataclasses import replace

import pytest

from maskcls.errors import CallError
from search_spaces import Setting, get
from tests.tune.searches import make_plan
from tune.runs.estimates import decoded_bytes, pixel_room
from tune.search.plan import geometries

CONTEST = 18_900


def everything() -> set[tuple[int, str]]:
    return geometries(replace(make_plan(), space=get("everything"), setting=Setting("gpu")))


def test_the_room_of_the_largest_space_is_known_from_its_draws() -> None:
    kinds = everything() | {(256, "none")}
    assert {crop for _, crop in kinds} == {"none", "yunet"}
    assert {size for size, _ in kinds} >= {224, 256, 384}
    total = sum(decoded_bytes(CONTEST, size) for size, _ in kinds)
    (note,) = pixel_room(kinds, CONTEST, 20.0, at_a_time=1, unit="trial")
    assert f"need {total / 1e9:.1f} GB, but --pixel-store-gb allows 20 GB: photos are decoded repeatedly" in note
    raised = float(note.split("--pixel-store-gb ")[-1].split()[0])
    assert pixel_room(kinds, CONTEST, raised, at_a_time=8, unit="trial") == [], "the budget that it names suffices"


def test_trials_that_may_have_to_wait_are_announced() -> None:
    kinds = {(64, "none"), (64, "haar")}
    (note,) = pixel_room(kinds, 1000, 0.013, at_a_time=2, unit="trial")
    assert "of all 2 kinds (at 64 px) need 25 MB" in note
    assert "a trial may have to wait until others no longer use theirs" in note


def test_photos_that_have_no_room_at_all_are_refused_before_the_search() -> None:
    with pytest.raises(CallError, match=r"18,900 photos decoded to 384 px need 8\.4 GB, .*Raise it to 8\.4 or more"):
        pixel_room({(112, "none"), (384, "none")}, CONTEST, 5.0, at_a_time=1, unit="trial")
