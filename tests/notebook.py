"""Executes a notebook in a folder of its own. `python -m tests.notebook` renews the outputs of docs/quickstart.ipynb.

The outputs name no folder of the machine: a path below the notebook's folder is made relative.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "docs" / "quickstart.ipynb"
CELL_TIMEOUT_S = 600


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of all its cells, run from the first to the last in that folder.

    Raises nbclient's CellExecutionError at the first cell that fails.
    """
    content = nbformat.read(notebook, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(content, timeout=CELL_TIMEOUT_S, resources=where, coalesce_streams=True)
    # As in an environment that is active, which need not be said to be activated.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PYTHONPATH": str(ROOT), "MASKCLS_CACHE": str(folder / "cache"), "PATH": path}
    with mock.patch.dict(os.environ, environment):
        client.execute()
    for cell in content.cells:
        cell.metadata.pop("execution", None)  # times
        for output in cell.get("outputs", ()):
            _make_relative(output, folder)
    content.metadata = {"kernelspec": content.metadata.kernelspec, "language_info": {"name": "python"}}
    return content


def _make_relative(output: nbformat.NotebookNode, folder: Path) -> None:
    for texts in (output, output.get("data", {})):
        for kind, text in texts.items():
            if isinstance(text, str):
                texts[kind] = text.replace(f"{folder}/", "").replace(str(folder), ".")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(executed(QUICKSTART, Path(folder).resolve()), QUICKSTART)


if __name__ == "__main__":
    main()
