"""Heads: from a backbone's features to a task's logits."""

from __future__ import annotations

from torch import nn

from maskcls.errors import CallError


def create_head(kind: str, n_features: int, n_labels: int, *, width: int, dropout: float) -> nn.Sequential:
    """Build a head that maps features (b, n_features) to logits (b, n_labels).

    Args:
        kind: `linear` (dropout, linear), or `mlp`, the contest project's (linear to `width`, ReLU, dropout, linear).
        width: hidden units of `mlp`.
        dropout: probability in 0..1 that a unit is dropped in training.

    Raises CallError for another kind.
    """
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_labels))
    if kind == "mlp":
        return nn.Sequential(nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_labels))
    raise CallError(f"There is no head {kind!r}. Heads: linear, mlp.")
