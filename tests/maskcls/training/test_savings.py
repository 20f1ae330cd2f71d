"""What a fit saves by what fits share: every feature that is read and was not computed here, every decoded photo."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from maskcls.stores.features import FeatureStores
from maskcls.training.fit import Fit
from tests.maskcls.training.small import data
from tests.maskcls.training.test_frozen import FOR_THE_SHAPE, KEPT, computed, known

DECODING_S = 0.5
PHOTOS = len(data().train) + len(data().validation)
"""Read in an epoch: those trained on, then those validated on."""


def hits_of(fit: Fit) -> list[int]:
    return [fit.notes()["feature_hits"] for _ in fit.epochs()]


def test_a_second_fit_reads_what_the_first_one_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computed(monkeypatch)
    stores = FeatureStores(tmp_path, 1.0, True)
    first = hits_of(Fit(KEPT, known(), stores=stores))
    assert sum(first) == KEPT.epochs * PHOTOS - (sum(calls) - FOR_THE_SHAPE)
    assert first[0] < PHOTOS == first[-1], "the last epoch has the views of the first"
    assert hits_of(Fit(KEPT, known(), stores=stores)) == [PHOTOS] * KEPT.epochs


def test_filling_the_stores_is_timed_in_the_epochs_that_do_it(tmp_path: Path) -> None:
    stores = FeatureStores(tmp_path, 1.0, True)

    def filling(fit: Fit) -> list[float]:
        return [fit.notes()["filling_s"] for _ in fit.epochs()]

    first = filling(Fit(KEPT, known(), stores=stores))
    assert first[0] > 0
    assert first[-1] == 0, "the last epoch has the views of the first"
    assert filling(Fit(KEPT, known(), stores=stores)) == [0] * KEPT.epochs


def test_without_a_store_only_decoding_is_saved() -> None:
    fit = Fit(KEPT, dataclasses.replace(known(), decoding_s=DECODING_S))
    for _ in fit.epochs(last=1):
        notes = fit.notes()
    assert (notes["feature_hits"], notes["saved_s"]) == (0, pytest.approx(PHOTOS * DECODING_S))
    assert 0 <= notes["wait_share"] <= 1


def test_a_feature_saves_what_computing_one_took(tmp_path: Path) -> None:
    stores = FeatureStores(tmp_path, 1.0, True)
    for _ in Fit(KEPT, known(), stores=stores).epochs():
        pass
    fit = Fit(KEPT, known(), stores=stores)
    for _ in fit.epochs(last=1):
        notes = fit.notes()
    caches = [one.training_cache.features for one in fit.model_fits]
    assert all(cache is not None and cache.seconds_each > 0 for cache in caches)
    assert notes["saved_s"] > 0
