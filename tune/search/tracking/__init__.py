"""What a search tells experiment trackers while it runs: TensorBoard, MLflow, W&B, and a team's Optuna storage."""

from __future__ import annotations

from collections.abc import Sequence


def check_trackers(log: Sequence[str], study_storage: str | None) -> None:
    """Raise RunError, before anything is begun, if a logger's package or --study-storage cannot be had."""
    if log:
        from tune.search.tracking.loggers import check_installed  # imports Ray

        check_installed(log)
    if study_storage is not None:
        from tune.search.tracking.study_copy import opened  # imports Ray

        opened(study_storage)
