"""Which parameters mattered: what the formula of a made run depends on, and nothing where scores are noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest

from tests.tune.made_run import made_run
from tune.report.parameters import importance, sections
from tune.runs.study import records, trials_of


@pytest.mark.slow
def test_importance_names_what_the_formula_depends_on(tmp_path: Path) -> None:
    made = made_run(tmp_path, 60)
    found, note = importance(trials_of(made))
    assert {one.name for one in found} == {"frozen_stages", "lr_head", "head"}
    assert found[0].name == "frozen_stages"
    assert found[0].is_clear
    assert not next(one for one in found if one.name == "head").is_clear
    assert sum(one.share for one in found) == pytest.approx(1)
    assert all(0 <= one.low <= one.share <= one.high <= 1 for one in found)
    assert "PED-ANOVA over" in note
    mattered, values = sections(made, records(made))
    assert mattered.count("<svg") == 2
    assert "frozen_stages: 0." in mattered
    assert "frozen_stages and lr_head together" in mattered
    assert values.count("<svg") == 7


def test_scores_that_depend_on_nothing_have_no_bars() -> None:
    generator = np.random.default_rng(3)
    domain = optuna.distributions.FloatDistribution(0.0, 1.0)
    trials = [
        optuna.trial.create_trial(
            params={"a": generator.random(), "b": generator.random()},
            distributions={"a": domain, "b": domain},
            value=generator.random(),
        )
        for _ in range(12)
    ]
    found, note = importance(trials)
    assert found == []
    assert note.startswith("Too few trials to tell: over 12 complete trials no parameter distinguishes the best")
