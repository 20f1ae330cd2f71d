"""What is handed over where the best trial's weights are damaged: the next trial that loads, if best/ has no better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from maskcls.errors import Damaged
from maskcls.machine import set_threads
from tests.commands import call_module
from tests.tune.answered_run import add_trained_trial, note_data
from tests.tune.selection.small_run import small_run
from tune.runs.folder import SearchRun
from tune.runs.study import records
from tune.selection.export import export_best


def damage(run: SearchRun, trial_id: str) -> None:
    (file,) = run.trial(trial_id).glob("best-*.safetensors")
    content = bytearray(file.read_bytes())
    content[-3] ^= 0x40
    file.write_bytes(content)


def test_a_damaged_winner_is_passed_over_unless_best_holds_it_already(tmp_path: Path, demo_cache: Path) -> None:
    set_threads(1)
    run, faces = small_run(tmp_path, demo_cache)
    note_data(run, faces)
    for f1, seed in ((0.6, 0), (0.5, 1), (0.4, 2)):
        add_trained_trial(run, faces, f1, {"seed": seed})

    def handed() -> tuple[str, list[str]]:
        return export_best(run, records(run), None, (), calibrates=False)

    def held() -> str:
        return str(json.loads((run.best / "bundle.json").read_text())["scores"]["trial"])

    damage(run, "0000")
    trial_id, (line,) = handed()
    assert (trial_id, held()) == ("0001", "0001")
    assert line.startswith("Trial 0000 is passed over. ")
    assert "its checksum is another one than its weights'" in line
    said = call_module("tune.export", "--run", run.path, "--out", tmp_path / "out")
    assert (said.status, said.err.splitlines()) == (0, [line])
    assert "of trial 0001 of" in said.out
    damage(run, "0001")
    trial_id, (_, line) = handed()
    assert (trial_id, held()) == ("0001", "0001"), "what was handed over is better than trial 0002"
    assert line.startswith("best/ holds trial 0001 already, and stays. ")
    damage(run, "0002")
    (run.best / "bundle.json").write_text("{}")
    with pytest.raises(Damaged, match=r"(?s)Trial 0000 is passed over\..*Trial 0001 .*Trial 0002 is passed over"):
        handed()
