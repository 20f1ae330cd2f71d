"""Confident learning: labels that were made wrong are doubtful, others are not, and rare labels have thresholds of
their own."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from maskcls.errors import CallError
from tune.audit.confident import check_installed, doubts


def test_wrong_labels_are_doubtful_and_right_ones_are_not() -> None:
    pytest.importorskip("cleanlab", reason="audits need cleanlab (the extra `audit`)")
    rng = np.random.default_rng(0)
    true = rng.choice(3, 600, p=(0.8, 0.12, 0.08))
    probabilities = 0.75 * np.eye(3)[true] + 0.25 * rng.dirichlet((1, 1, 1), 600)
    wrong = rng.choice(600, 24, replace=False)
    given = true.copy()
    given[wrong] = (true[wrong] + 1) % 3
    found = doubts(given, probabilities)
    assert set(np.flatnonzero(found.is_doubtful)) <= set(wrong)
    assert found.is_doubtful.sum() >= 8
    assert set(np.argsort(-found.score)[:24]) == set(wrong)
    assert (found.proposed[wrong] == true[wrong]).all()


def test_the_score_is_the_margin_from_0_to_1() -> None:
    pytest.importorskip("cleanlab", reason="audits need cleanlab (the extra `audit`)")
    found = doubts(np.array([0, 1, 2, 0]), np.array([[0.2, 0.6, 0.2], [0.0, 1.0, 0.0], [0.5, 0.3, 0.2], [0.9, 0.1, 0]]))
    assert found.proposed.tolist() == [1, 0, 0, 1]
    assert found.score == pytest.approx([0.7, 0.0, 0.65, 0.1])


def test_without_cleanlab_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(CallError, match=r"needs cleanlab, which is not installed\. .*pip install 'maskcls\[audit\]'"):
        check_installed()
