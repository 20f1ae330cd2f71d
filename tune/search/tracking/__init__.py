"""What a search tells experiment trackers while it runs: TensorBoard, MLflow, W&B, and a team's Optuna storage."""

from __future__ import annotations
