"""The only module that uses private names of Optuna, three of them.

They are `Study._storage`, `Study._get_trials` and `_trial_id` of a trial. Optuna's version range in pyproject.toml is
as wide as what the contract tests (tests/tune/contracts) ran on; `make contracts` runs them against the
newest release.
"""

from __future__ import annotations

import copy
from typing import Any

import optuna
from optuna.trial import FrozenTrial


def storage_of(study: optuna.Study) -> optuna.storages.BaseStorage:
    """The storage that a study reads and writes, `Study._storage`.

    Why: to read one trial without a list of all of them, to write a parameter that the study's own sampler has not
    drawn, and to make another study in the same journal. A second storage over the same file would read it all once
    more. Held by: test_a_study_tells_its_storage_and_a_trial_its_id.
    """
    return study._storage


def id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """The trial's id in its storage, `_trial_id`, which need not be its number in the study.

    Why: the storage's methods and the constructor of optuna.Trial, by which a trial of a killed driver is resumed,
    ask for it. Held by: test_a_study_tells_its_storage_and_a_trial_its_id,
    test_a_running_trial_can_be_taken_up_by_its_id.
    """
    number: int = trial._trial_id
    return number


class FilteredStudy(optuna.Study):  # type: ignore[misc]
    """A study that shows samplers only the trials that `shown` returns. It overrides `Study._get_trials`.

    Why: Optuna's samplers take a study and read its trials through this method; no public one lets them see less.
    Held by: test_samplers_read_trials_through_the_studys_own_method.
    """

    _shown: list[FrozenTrial] | None = None

    def shown(self, trials: list[FrozenTrial]) -> list[FrozenTrial]:
        """Which of all trials a sampler sees, in their order."""
        return trials

    def refresh(self) -> None:
        """Read the storage again at the next question. Until then every question is answered from the same list."""
        self._shown = None

    def _get_trials(self, deepcopy: bool = True, states: Any = None, use_cache: bool = False) -> list[FrozenTrial]:
        if self._shown is None:
            self._shown = self.shown(super()._get_trials(deepcopy=False))
        trials = self._shown if states is None else [trial for trial in self._shown if trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials
