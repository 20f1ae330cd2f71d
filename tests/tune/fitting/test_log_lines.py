"""Log lines of a worker name the trial, and only while its fit runs."""

from __future__ import annotations

import logging

import pytest

from tune.fitting.log_lines import naming_the_fit


def test_lines_name_run_and_trial_of_the_fit_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("maskcls")
    before = (log.level, list(log.handlers))
    for trial in ("0003", "0007"):
        with naming_the_fit("first", trial):
            log.warning("The cache is full.")
    assert (log.level, log.handlers) == before
    assert capsys.readouterr().err.splitlines() == [
        f"run first, trial {trial}: {said}"
        for trial in ("0003", "0007")
        for said in ("The fit begins.", "The cache is full.", "The fit ends.")
    ]


def test_a_fit_that_ends_badly_gives_its_lines_back(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = list(logging.getLogger("maskcls").handlers)
    with pytest.raises(SystemExit), naming_the_fit("first", "0001"):
        raise SystemExit  # as Ray ends a trial
    assert logging.getLogger("maskcls").handlers == handlers
    assert capsys.readouterr().err == "run first, trial 0001: The fit begins.\n"
