"""A fit with nobody to validate on: it trains as any other, is never scored, and keeps its latest epoch."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from maskcls.training import checkpoint as state
from maskcls.training.fit import Fit
from maskcls.training.metrics import UNSCORED
from tests.maskcls.training.small import RECIPE, data

NOBODY = np.zeros(0, np.int64)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.slow
def test_it_trains_to_the_bit_as_one_that_is_validated() -> None:
    scored, unscored = Fit(RECIPE, data()), Fit(RECIPE, replace(data(), validation=NOBODY))
    losses = [[result.train_loss for result in fit.epochs()] for fit in (scored, unscored)]
    assert losses[0] == losses[1]
    for one, other in zip(scored.models, unscored.models, strict=True):
        there = other.state_dict()
        assert all(torch.equal(tensor, there[name]) for name, tensor in one.state_dict().items())


def test_the_latest_epoch_is_kept_and_nothing_is_scored() -> None:
    fit = Fit(RECIPE, replace(data(), validation=NOBODY))
    for epoch, result in enumerate(fit.epochs(), start=1):
        assert fit.best_epoch == epoch
        assert math.isnan(result.validation_f1)
        assert result.scores == UNSCORED
        now = [model.state_dict() for model in fit.models]
        assert all(
            torch.equal(kept[name], model[name])
            for kept, model in zip(fit.best_states(), now, strict=True)
            for name in kept
        )
    assert UNSCORED.to_dict()["class_f1"] == [None] * 18


@pytest.mark.soak
def test_a_killed_one_goes_on_to_the_bit(tmp_path: Path) -> None:
    unbroken, killed, resumed = (Fit(RECIPE, replace(data(), validation=NOBODY)) for _ in range(3))
    losses = [result.train_loss for result in unbroken.epochs()]
    next(iter(killed.epochs()))
    killed.save(tmp_path)
    assert resumed.resume(tmp_path)
    assert [result.train_loss for result in resumed.epochs()] == losses
    resumed.save(tmp_path)
    _, last, best = state.load_best(tmp_path)
    assert last.epoch == RECIPE.epochs
    for kept, mine in zip(best, unbroken.best_states(), strict=True):
        assert all(torch.equal(tensor, mine[name]) for name, tensor in kept.items())
