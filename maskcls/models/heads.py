"""From a backbone's features to a task's logits."""

from __future__ import annotations

from torch import nn

from maskcls.errors import CallError


def create_head(kind: str, n_features: int, n_labels: int, *, width: int, dropout: float) -> nn.Sequential:
    """Maps (b, n_features) to (b, n_labels).

    `linear`: dropout, linear. `mlp`, the contest project's: linear to `width`, ReLU, dropout, linear.
    """
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_labels))
    if kind == "mlp":
        return nn.Sequential(nn.Linear(n_features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, n_labels))
    raise CallError(f"There is no head {kind!r}. Heads: linear, mlp.")
