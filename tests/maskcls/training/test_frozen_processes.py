"""Several processes build the stores of frozen features together, and survive each other's end."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskcls.stores.features import FeatureStore, FeatureStores, Key, fill, list_stores
from maskcls.training.fit import Fit
from maskcls.training.frozen import FrozenStages
from tests.maskcls.training.kept_features import FOR_THE_SHAPE, KEPT, VIEWS, computed, curve, drawn, known


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build(cache: Path, counts: Any) -> None:
    """A fit in a process of its own, which adds the photos that it computed."""
    torch.set_num_threads(1)
    real = FrozenStages.of_images

    def counted(frozen: FrozenStages, images: torch.Tensor, precision: torch.dtype, block: int) -> torch.Tensor:
        with counts.get_lock():
            counts.value += len(images) if block > 1 else 0
        return real(frozen, images, precision, block)

    FrozenStages.of_images = counted  # type: ignore[assignment, method-assign]
    curve(Fit(KEPT, known(), stores=FeatureStores(cache, shared=True)))


def die_amid_building(cache: Path) -> None:
    torch.set_num_threads(1)
    real = FrozenStages.of_images
    calls: Iterator[int] = iter(range(100))

    def killed(frozen: FrozenStages, images: torch.Tensor, precision: torch.dtype, block: int) -> torch.Tensor:
        if next(calls) == 4:
            os._exit(9)
        return real(frozen, images, precision, block)

    FrozenStages.of_images = killed  # type: ignore[assignment, method-assign]
    curve(Fit(KEPT, known(), stores=FeatureStores(cache, shared=True)))


def test_fits_in_several_processes_build_together_and_nothing_twice(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    counts = fork.Value("i", 0)
    workers = [fork.Process(target=build, args=(tmp_path, counts), daemon=True) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert counts.value == drawn(KEPT)


def test_a_killed_builder_leaves_what_it_finished_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork = multiprocessing.get_context("fork")
    killed = fork.Process(target=die_amid_building, args=(tmp_path,), daemon=True)
    killed.start()
    killed.join(120)
    assert killed.exitcode == 9
    finished = sum(info.held or 0 for info in list_stores(tmp_path))
    assert 0 < finished < drawn(KEPT), "it was not killed amid building"
    calls = computed(monkeypatch)
    mended = curve(Fit(KEPT, known(), stores=FeatureStores(tmp_path, shared=True)))
    assert sum(calls) - FOR_THE_SHAPE == drawn(KEPT) - finished
    assert mended == curve(Fit(KEPT, known()))
    assert len(list_stores(tmp_path)) == VIEWS + 1


def test_what_another_process_computes_is_waited_for(tmp_path: Path) -> None:
    """That one computes nothing, and ends: the row is then computed here."""
    here, other, may_end = claimed_elsewhere(tmp_path)
    asked: list[list[int]] = []

    def compute(numbers: list[int]) -> torch.Tensor:
        asked.append(numbers)
        may_end.set()
        return torch.full((len(numbers), 2), 7.0)

    fill([(here, 0), (here, 1), (here, 2)], compute, block=16)
    assert asked == [[0, 2], [1]], "first what nobody has claimed"
    assert not here.lacks(np.arange(3)).any()
    other.join(60)


def test_a_process_that_is_suspended_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskcls.stores.features.WAIT_S", 0.2)
    here, other, may_end = claimed_elsewhere(tmp_path)
    fill([(here, 0), (here, 1)], lambda numbers: torch.zeros(len(numbers), 2), block=16)
    assert here.lacks(np.arange(3)).tolist() == [False, True, True]
    may_end.set()
    other.join(60)


def claimed_elsewhere(cache: Path) -> tuple[FeatureStore, Any, Any]:
    """A store of three rows, a process that has claimed row 1, and the event on which it ends without writing it."""
    here = FeatureStores(cache).open(Key({"backbone": "none"}, 3, (2,), torch.float32))
    fork = multiprocessing.get_context("fork")
    claimed, may_end = fork.Event(), fork.Event()

    def claim() -> None:
        assert here.claim(1)
        claimed.set()
        may_end.wait(60)
        os._exit(9)

    other = fork.Process(target=claim, daemon=True)
    other.start()
    assert claimed.wait(60)
    assert not here.claim(1)
    return here, other, may_end


def test_a_process_opens_a_store_once(tmp_path: Path) -> None:
    """Closing a second one would end the first one's claims."""
    key, kept = Key({"backbone": "none"}, 2, (2,), torch.float32), FeatureStores(tmp_path)
    first = kept.open(key)
    assert kept.open(key) is first
    kept.kind.discard(first.folder)
    assert kept.open(key) is not first
