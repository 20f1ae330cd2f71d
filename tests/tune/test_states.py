"""What the states of a trial say of themselves, beside Optuna's."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState as OptunaState

from tune.states import TrialState


def test_every_ended_state_has_one_of_optunas_that_is_finished() -> None:
    for state in TrialState:
        if state.ended:
            assert OptunaState[state.optuna].is_finished(), state


@pytest.mark.parametrize(
    "state", [TrialState.RUNNING, TrialState.DISK_FULL, TrialState.MACHINE_FAILED, TrialState.UNFINISHED]
)
def test_a_trial_that_goes_on_has_not_ended(state: TrialState) -> None:
    assert not state.ended


def test_samplers_are_kept_from_what_cannot_be_trained_and_do_not_see_what_failed() -> None:
    infeasible = {state for state in TrialState if state.infeasible}
    assert infeasible == {TrialState.DIVERGED, TrialState.OUT_OF_MEMORY}
    assert {state.optuna for state in infeasible} == {"PRUNED"}, "with a constraint; Optuna leaves failed trials out"
    assert TrialState.FAILED.optuna == "FAIL"
    assert TrialState.STOPPED_EARLY.optuna == "PRUNED"
    assert TrialState.COMPLETE.optuna == "COMPLETE"
