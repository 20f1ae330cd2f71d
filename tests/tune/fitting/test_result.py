"""What a fit's end leaves in its folder beside result.json."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tune.works import make_requests
from tune.fitting.failures import ERROR, write_error
from tune.fitting.result import FitResult, write_result
from tune.fitting.worker import HAS_ERRORS, FitOutcome
from tune.states import TrialState


@pytest.mark.parametrize("has_errors", [False, True])
def test_an_error_of_an_attempt_before_does_not_stay_beside_a_complete_result(
    tmp_path: Path, *, has_errors: bool
) -> None:
    (request,) = make_requests(tmp_path, 1)
    write_error(request.folder, "ZeroDivisionError")
    values = {"message": "a note", "score": 1} | ({HAS_ERRORS: True} if has_errors else {})
    write_result(request, FitOutcome(TrialState.COMPLETE, "a note", values=values))
    assert (request.folder / ERROR).exists() == has_errors
    result = FitResult.read(request.folder)
    assert result is not None
    assert (result.message, result.values) == ("a note", {"score": 1})
