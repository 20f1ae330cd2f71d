"""Confident learning by cleanlab: which given labels contradict the predictions of models that did not train on them.

Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70, 2021. Each label has
a threshold of its own, the mean probability of those who are given it. From those who pass the threshold of another
label follows how many labels of each kind are wrong; so many are doubtful, those that the predictions contradict most.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskcls.errors import CallError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Doubts:
    """What predictions say of n given labels."""

    is_doubtful: NDArray[np.bool_]
    """(n,): confident learning takes the label for wrong."""
    proposed: Integers
    """(n,): the most probable one of the other labels."""
    score: Floats
    """(n,) 0 to 1: (1 + margin) / 2, where the margin is the proposed label's probability minus the given one's; above
    one half where the proposed label is the more probable one."""


def doubts(labels: Integers, probabilities: Floats) -> Doubts:
    """Return which labels are doubtful.

    Args:
        labels: (n,) given labels 0..k-1.
        probabilities: (n, k) from models that did not train on these n.

    Raises CallError if cleanlab is not installed.
    """
    everyone = np.arange(len(labels))
    others = probabilities.copy()
    others[everyone, labels] = -np.inf
    proposed = others.argmax(1).astype(np.int64)
    given, best = probabilities[everyone, labels], probabilities[everyone, proposed]
    return Doubts(_label_issues(labels, probabilities), proposed, (1 + best - given) / 2)


def check_installed() -> None:
    """Raise CallError if cleanlab is not installed."""
    _filter()


def _label_issues(labels: Integers, probabilities: Floats) -> NDArray[np.bool_]:
    with warnings.catch_warnings():
        # It warns of labels that few have: there it may flag too little, which the page's reader can't change.
        warnings.simplefilter("ignore", UserWarning)
        found: NDArray[np.bool_] = _filter().find_label_issues(
            labels,
            probabilities,
            filter_by="prune_by_noise_rate",  # as many as the estimated rate of errors, those of least margin
            n_jobs=1,  # processes would take longer to start than the work takes
        )
    return found


def _filter() -> Any:
    try:
        from cleanlab import filter as label_filter
    except ImportError:
        raise CallError(
            "An audit needs cleanlab, which is not installed. Install it: pip install 'maskcls[audit]'"
        ) from None
    return label_filter
