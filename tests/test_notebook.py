"""docs/quickstart.ipynb runs from its first cell to its last, and holds the outputs of such a run."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tests.notebook import QUICKSTART, executed


def outputs(notebook: nbformat.NotebookNode) -> str:
    """All that the cells show, as text."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(str(output.get("text", output.get("data", {}).get("text/plain", output))) for output in shown)


def test_the_notebook_holds_the_outputs_of_a_run_without_paths_of_a_machine() -> None:
    notebook = nbformat.read(QUICKSTART, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = outputs(notebook)
    for part in ("Run first: 3 trials of space heads", "Search finished.", "holdout 0.", "best_validation_f1"):
        assert part in shown
    assert "Traceback" not in QUICKSTART.read_text()
    pages = [output.get("data", {}).get("text/html", "") for cell in code for output in cell.outputs]
    text = "\n".join([shown, *pages, *(cell.source for cell in notebook.cells)])
    absolute = re.compile(r"(?<![\w:/.<])/\w+/")
    assert absolute.search("kept in /somewhere/else")
    assert not absolute.search(text)


@pytest.mark.soak
def test_the_notebook_runs_and_shows_a_line_per_trial(tmp_path: Path) -> None:
    shown = outputs(executed(QUICKSTART, tmp_path))
    for trial in range(4):
        assert f"000{trial} complete" in shown or f"000{trial} stopped early" in shown
    assert "\x1b[" not in shown, "no terminal's escape sequences"
