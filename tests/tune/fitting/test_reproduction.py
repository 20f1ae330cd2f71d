"""Which trial a call names."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.errors import CallError
from maskcls.recipe import Recipe
from maskcls.training.conditions import HARDWARE, Conditions, note
from tune.fitting.reproduction import RecordedTrial

ONE = Conditions(1, "cpu", "Xeon, AVX2", 64, 0, "photos-split", {"torch": "2.15.0", "maskcls": "c0de"})


def test_a_trial_is_found_by_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "first" / "trials" / "0007"
    note(folder, ONE, done=0, epochs=6)
    (folder / "recipe.json").write_text(Recipe(epochs=6).to_json())
    monkeypatch.chdir(tmp_path)
    for name in ("runs/first/0007", "runs/first/7", "first/7", str(tmp_path / "runs" / "first" / "7")):
        found = RecordedTrial.open(name)
        assert (found.run, found.title, found.curve) == (tmp_path / "runs" / "first", "trial 0007 of first", [])
        assert found.recipe == Recipe(epochs=6)
    with pytest.raises(
        CallError, match=r"--trial first/8: there is no trial '0008' in .*runs/first\. Trials there: 0007\."
    ):
        RecordedTrial.open("first/8")
    for name in ("second/7", "7", "first"):
        with pytest.raises(
            CallError, match=r"--trial expects RUN/ID, as in runs/first/0007, but .* Searches under runs/: runs/first\."
        ):
            RecordedTrial.open(name)
    (folder / HARDWARE).unlink()
    with pytest.raises(
        CallError, match=r"0007 has no hardware\.json, so this trial began no fit whose curve could be had again"
    ):
        RecordedTrial.open("first/7")
