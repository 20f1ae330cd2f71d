"""A kill at any moment costs at most the block at work, and never gives another result."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from maskcls.errors import CallError
from maskcls.serving.predicting.unfinished import BLOCKS, PROBABILITIES, Block, Unfinished, folder_of

CALL = {"bundle": "b" * 12, "--images": "i" * 12}
DRAWN = np.random.default_rng(0).dirichlet(np.ones(18), 7)  # (7, 18)
FACES = (1, 0, None, 2, 1, None, 0)
FIRST = Block(0, DRAWN[:4], {2: "2 is empty."}, 1, FACES[:4])
SECOND = Block(4, DRAWN[4:], {5: "5 is cut."}, 2, FACES[4:])


def kill(out: Path, *blocks: Block, resume: bool = False) -> None:
    """Leave blocks behind, as a call that was killed."""
    with Unfinished(out, CALL, resume=resume) as work:
        for block in blocks:
            work.append(block)
        raise KeyboardInterrupt


def kept(out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        kill(out, FIRST, SECOND)


def test_what_was_kept_is_read_again_to_the_bit(tmp_path: Path) -> None:
    kept(tmp_path / "s.csv")
    with Unfinished(tmp_path / "s.csv", CALL, resume=True) as work:
        assert (work.done, work.bad, work.faces_missed) == (7, {2: "2 is empty.", 5: "5 is cut."}, 3)
        blocks = list(work.read(3))
        assert np.array_equal(np.concatenate([block.probabilities for block in blocks]), DRAWN)
        assert sum((block.faces for block in blocks), ()) == FACES
        assert [block.bad for block in blocks] == [{2: "2 is empty."}, {5: "5 is cut."}, {}]
    assert not folder_of(tmp_path / "s.csv").exists(), "what is done leaves nothing"


@pytest.mark.parametrize("name", [PROBABILITIES, BLOCKS])
@pytest.mark.parametrize("lost", [1, 40])
def test_a_block_that_is_not_whole_does_not_count(name: str, lost: int, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    kept(out)
    file = folder_of(out) / name
    file.write_bytes(file.read_bytes()[:-lost])
    with pytest.raises(KeyboardInterrupt):
        kill(out, resume=True)
    with pytest.raises(KeyboardInterrupt):
        kill(out, SECOND, resume=True)
    with Unfinished(out, CALL, resume=True) as work:
        assert (work.done, work.bad, work.faces_missed) == (7, {2: "2 is empty.", 5: "5 is cut."}, 3)
        assert np.array_equal(next(work.read(7)).probabilities, DRAWN)


def test_bytes_that_changed_on_the_disk_are_predicted_again(tmp_path: Path) -> None:
    kept(tmp_path / "s.csv")
    file = folder_of(tmp_path / "s.csv") / PROBABILITIES
    file.write_bytes(file.read_bytes()[:-8] + bytes(8))
    with Unfinished(tmp_path / "s.csv", CALL, resume=True) as work:
        assert work.done == 4


def test_without_resume_it_begins_again_and_another_call_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    kept(out)
    message = r"s\.csv is of another call: it differs in bundle and --images\. Repeat that call, leave out --resume"
    with pytest.raises(CallError, match=message):
        Unfinished(out, {"bundle": "c" * 12, "--images": "j" * 12}, resume=True)
    with Unfinished(out, CALL, resume=False) as work:
        assert (work.done, work.bad) == (0, {})
        with pytest.raises(CallError, match=r"Another call is predicting for .*s\.csv\. Wait until it has ended"):
            Unfinished(out, CALL, resume=True)
    with Unfinished(out, CALL, resume=True) as work:
        assert work.done == 0, "nothing is left, so there is nothing to go on with"
