"""LogME: the logarithm of the evidence of a Bayesian linear model of the labels on a backbone's features, per photo.

You et al., LogME: Practical Assessment of Pre-trained Models for Transfer Learning, ICML 2021, Algorithm 1.

Shapes: m photos, d features, r singular values, k labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ROUNDS = 50
"""At most so many rounds of the fixed point, which settles in about ten."""
_CLOSE = 1e-6
"""By what share the ratio of the precisions may change in the last round."""


def logme(features: Floats, labels: Integers) -> float:
    """LogME of features (m, d) for labels (m,): the largest evidence per photo, as the mean over the labels.

    The paper's Algorithm 1, with features of zero mean and unit variance, as the probe has them.
    """
    scaled = StandardScaler().fit_transform(features)
    left, singular, _ = np.linalg.svd(scaled, full_matrices=False)  # (m, r), (r,)
    targets = (labels[:, None] == np.unique(labels)).astype(np.float64)  # (m, k)
    return float(np.mean([_evidence(left, singular**2, target, features.shape[1]) for target in targets.T]))


def _evidence(left: Floats, sigma: Floats, target: Floats, d: int) -> float:
    """Log evidence per photo of one target (m,), at the fixed point of the two precisions.

    Args:
        left, sigma: left singular vectors (m, r) and squared singular values (r,) of the features.
        d: features of a photo.
    """
    m = len(target)
    squared = (left.T @ target) ** 2  # (r,)
    outside = max(float(target @ target - squared.sum()), 0.0)  # of the target, what no feature reaches
    alpha = beta = 1.0
    for _ in range(_ROUNDS):
        t = alpha / beta
        gamma = float((sigma / (sigma + t)).sum())
        weights = float((sigma * squared / (sigma + t) ** 2).sum())  # squared norm of the posterior mean
        residual = float((squared * (t / (sigma + t)) ** 2).sum()) + outside
        before, alpha, beta = t, gamma / (weights + 1e-12), (m - gamma) / (residual + 1e-12)
        if abs(alpha / beta - before) <= _CLOSE * before:
            break
    logs = d * np.log(alpha) + m * np.log(beta) - np.log(alpha + beta * sigma).sum()
    logs -= (d - len(sigma)) * np.log(alpha)  # directions that no photo varies in
    return float((logs - m * np.log(2 * np.pi) - beta * residual - alpha * weights) / (2 * m))
