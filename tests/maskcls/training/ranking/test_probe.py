"""Scores of a backbone's features: the probe leaves people out, LogME is the evidence, the sample is of many people."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.preprocessing import StandardScaler

from maskcls.data.dataset import FaceDataset, prepare
from maskcls.labels import N_CLASSES, UNKNOWN
from maskcls.stores.cache_options import CacheOptions
from maskcls.training.fit_data import FitData
from maskcls.training.presets import base_recipe
from maskcls.training.ranking.logme import logme
from maskcls.training.ranking.probe import probe, probe_f1, sample
from tests.conftest import DemoFaces

GENERATOR = np.random.default_rng(0)


def test_logme_is_the_evidence_at_its_largest() -> None:
    """The evidence is that of targets with a normal distribution, which is maximised here by scipy instead."""
    features, labels = GENERATOR.normal(size=(40, 5)), GENERATOR.integers(0, 2, 40)
    features[:, 0] += 2 * labels
    scaled = StandardScaler().fit_transform(features)
    evidences = []
    for label in (0, 1):
        target = (labels == label).astype(float)

        def negative(logs: np.ndarray, target: np.ndarray = target) -> float:
            alpha, beta = np.exp(logs)
            covariance = np.eye(len(target)) / beta + scaled @ scaled.T / alpha
            return -float(multivariate_normal(np.zeros(len(target)), covariance).logpdf(target)) / len(target)

        evidences.append(-minimize(negative, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-6}).fun)
    assert logme(features, labels) == pytest.approx(np.mean(evidences), abs=1e-4)


def test_logme_takes_more_features_than_photos_and_prefers_those_that_tell() -> None:
    labels = GENERATOR.integers(0, 3, 60)
    noise = GENERATOR.normal(size=(60, 200))
    telling = noise + 3 * np.eye(3)[labels] @ GENERATOR.normal(size=(3, 200))
    assert np.isfinite(logme(noise, labels))
    assert logme(telling, labels) > logme(noise, labels)


def test_the_probe_scores_people_whom_it_left_out() -> None:
    """Features that only name the person tell nothing of others; features of the class tell everything."""
    labels = np.tile(np.arange(N_CLASSES), 8)
    people = np.arange(len(labels)) // 4
    halves = [np.flatnonzero(people % 2 == side) for side in (0, 1)]
    left_out = [(halves[0], halves[1]), (halves[1], halves[0])]
    of_person = np.eye(people.max() + 1)[people]
    of_class = np.eye(N_CLASSES)[labels] + GENERATOR.normal(0, 0.01, (len(labels), N_CLASSES))
    assert probe_f1(of_class, labels, left_out) > 0.95
    assert probe_f1(of_person, labels, left_out) < 0.2


@pytest.fixture(scope="module")
def faces(demo_faces: DemoFaces, tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    return prepare(demo_faces(24, 5), cache=CacheOptions(tmp_path_factory.mktemp("cache")))


def test_a_sample_has_a_photo_of_everybody_before_a_second_of_anybody(faces: FaceDataset) -> None:
    data, people = FitData.without_pixels(faces), faces.photos["person"].to_numpy(object)
    everybody = set(faces.split.train)
    rows = sample(data, people, len(everybody) + 2, seed=0)
    assert list(rows) == sorted(set(rows.tolist()))
    assert set(people[rows]) == everybody
    assert set(sample(data, people, 10**6, seed=0)) == set(data.train)
    assert list(sample(data, people, 5, seed=0)) != list(sample(data, people, 5, seed=1))
    labels = data.labels.copy()
    labels[data.train[0]] = UNKNOWN
    assert data.train[0] not in sample(replace(data, labels=labels), people, 10**6, seed=0)


def test_a_backbone_is_scored_the_same_again(faces: FaceDataset) -> None:
    explicit = {"weights": "none", "backbone": "test_resnet", "image_size": 32}
    recipe = base_recipe("faces-2026", "cpu", explicit, demo=False)
    scored = []
    for _ in range(2):
        torch.manual_seed(0)  # draws the weights
        scored.append(probe(faces, recipe, "cpu", photos=60))
    first, again = scored
    assert min(first.photo_ms, first.training_ms or 0.0) > 0
    assert replace(first, photo_ms=0.0, training_ms=None) == replace(again, photo_ms=0.0, training_ms=None)
    assert first.photos == 60
    assert 0 <= first.f1 <= 1
    assert set(first.to_dict()) == {"f1", "logme", "photos", "people", "photo_ms", "training_ms"}
