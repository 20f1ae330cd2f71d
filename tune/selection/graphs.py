"""Adds an ONNX graph to a bundle of a run, compared with torch on the run's validation photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskcls.data.dataset import FaceDataset
from maskcls.errors import CallError, RunError
from maskcls.serving.bundle import read_manifest
from maskcls.stores.cache_options import CacheOptions
from maskcls.text import counted
from maskcls.training.fit_data import scored_rows
from tune.runs.folder import SearchRun

NEEDED = ("onnx", "onnxscript", "onnxruntime", "onnx_ir")
"""What the extra `onnx-export` installs."""


def check_same_split(run: SearchRun, folder: Path) -> FaceDataset:
    """Return the run's photos. Raises CallError where a bundle is of other photos, or another split of the people."""
    faces = FaceDataset.load(run.data, CacheOptions(run.path))  # no pixels are asked for, so no cache either
    manifest = read_manifest(folder)
    if (manifest["data_digest"], manifest["split_digest"]) != (faces.digest, faces.split.digest):
        raise CallError(
            f"{folder} was made of other photos, or of another split of the people, than {run.name}, so its validation "
            "people may have trained it. Name the run that it is from."
        )
    return faces


def add_graph(run: SearchRun, folder: Path, *, int8: bool) -> list[str]:
    """Add the graph to the bundle in the folder, and its 8-bit variant if asked. Returns lines for people.

    Raises RunError where something is not installed, or as `export_onnx` does.
    """
    faces = check_same_split(run, folder)
    try:
        from maskcls.serving.onnx_export import CALIBRATED_ON, LARGEST_DIFFERENCE, LARGEST_FALL, export_onnx
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        raise RunError(
            f"--onnx needs {error.name}, which is not installed. Install it with: pip install 'maskcls[onnx-export]'"
        ) from None
    # Photos with all labels: the others have no class to score.
    validation, train = (faces.photos.iloc[scored_rows(faces, side)] for side in ("validation", "train"))
    # Evenly over the training people, in whose order the table is.
    some = sorted(set(np.linspace(0, len(train) - 1, CALIBRATED_ON).astype(int).tolist())) if int8 else []
    compared, reduced = export_onnx(
        folder,
        validation["file"].tolist(),
        validation["label"].to_numpy(np.int64),
        int8_files=train["file"].iloc[some].tolist(),
    )
    lines = [
        f"{folder} has an ONNX graph. On {counted(compared.photos, 'validation photo')} the largest difference of a "
        f"probability to torch is {compared.largest_difference:.2g} ({LARGEST_DIFFERENCE:g} is allowed), and "
        f"{counted(compared.other_classes, 'class', 'classes')} differ."
    ]
    if reduced is not None:
        lines.append(
            f"Its variant in 8-bit integers has macro F1 {reduced.f1_graph:.4f} there, and torch {reduced.f1:.4f}; it "
            f"may fall by less than {LARGEST_FALL:g}. {counted(reduced.other_classes, 'class', 'classes')} differ."
        )
    return lines
