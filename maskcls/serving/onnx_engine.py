"""A bundle's graph by ONNX Runtime, without torch: pixels -> probabilities. `maskcls.serving.onnx_export` writes it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from maskcls.data.geometry import Geometry
from maskcls.errors import CallError, DataError
from maskcls.machine import usable_cores
from maskcls.serving.bundle import Bundle, read_checked

ENTRY, INT8 = "onnx", "int8"
"""Keys of bundle.json: of the graph, and within it of its variant in 8-bit integers."""
OUTPUT, CLASS = "probabilities", "class"
"""Outputs of a graph: the 18 probabilities, and what the decision rule makes of them, which older graphs lack."""
BLOCK = 64
"""Photos of a pass, as with torch: the last bits depend on it."""


class OnnxEngine:
    """A graph on the CPU, with one thread per core that this process may use (or OMP_NUM_THREADS).

    Args:
        bundle: its models need not have been read.
        graph: the graph's content; None: the one that lies in the bundle.
        int8: take its variant in 8-bit integers.

    Raises:
        CallError: the bundle has no such graph.
        DataError: its file is missing or damaged, or of another state of the bundle.
    """

    block = BLOCK
    device = "cpu"

    def __init__(self, bundle: Bundle, graph: bytes | None = None, *, int8: bool = False) -> None:
        self.name = "int8" if int8 else "onnx"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or usable_cores())
        # Threads that wait for work would keep the cores from those that decode photos.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = _content_of(bundle, int8=int8) if graph is None else graph
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no base of their own
            raise DataError(f"The graph of {bundle.folder} cannot be loaded: {error}. Export it again.") from None
        geometries = dict.fromkeys(each.geometry for each in bundle.classifiers)
        self._inputs = dict(zip(input_names(tuple(geometries)), geometries, strict=True))

    def probabilities(
        self, pixels: Mapping[Geometry, NDArray[np.uint8]], block_photos: int = BLOCK
    ) -> NDArray[np.float64]:
        """Predict (n, 18), calibrated by the bundle's temperature, for n photos.

        Args:
            pixels: for each of the bundle's geometries (n, s, s, 3).
            block_photos: photos of a pass; the last pass is filled up.
        """
        n = len(next(iter(pixels.values())))
        found = np.empty((n, 18))
        for start in range(0, n, block_photos):
            rows = np.arange(start, start + block_photos).clip(
                max=n - 1
            )  # (block_photos,), the last one again and again
            given = {name: pixels[geometry][rows] for name, geometry in self._inputs.items()}
            (block,) = self._session.run([OUTPUT], given)
            found[start : start + block_photos] = block[: n - start]
        found /= found.sum(axis=1, keepdims=True)  # float32 in the graph: its rows add up to 1 up to 1e-7
        return found


def input_names(geometries: tuple[Geometry, ...]) -> list[str]:
    """Return the names of a graph's inputs, one for each geometry among a bundle's classifiers."""
    if len(geometries) == 1:
        return ["photos"]
    return [
        f"photos_{each.image_size}" + ("" if each.face_crop == "none" else f"_{each.face_crop}") for each in geometries
    ]


def tau_of(bundle: Bundle) -> float:
    """The tau of a bundle's decision rule; 0 where the likeliest class is named."""
    return bundle.decision.tau if bundle.decision else 0.0


def _adding(bundle: Bundle) -> str:
    return f"maskcls export --run RUN --bundle {shlex.quote(str(bundle.folder))} --onnx"


def _content_of(bundle: Bundle, *, int8: bool) -> bytes:
    entry: Mapping[str, Any] | None = bundle.manifest.get(ENTRY)
    if not entry:
        raise CallError(f"{bundle.folder} has no ONNX graph. Add one where torch is installed: {_adding(bundle)}")
    if not isinstance(entry, dict) or not {"temperature", "file", "bytes", "sha256"} <= entry.keys():
        raise DataError(f"What {bundle.folder} says of its ONNX graph is damaged. Add the graph again.")
    if (entry["temperature"], entry.get("tau", 0.0)) != (bundle.temperature, tau_of(bundle)):
        differs = "temperature" if entry["temperature"] != bundle.temperature else "decision rule"
        raise DataError(
            f"The ONNX graph of {bundle.folder} has another {differs} than the bundle. Add the graph again: "
            f"{_adding(bundle)}"
        )
    if int8 and not entry.get(INT8):
        raise CallError(
            f"{bundle.folder} has no graph in 8-bit integers. Add it with --int8, or predict with --engine onnx."
        )
    try:
        return read_checked(Path(bundle.folder), entry[INT8] if int8 else entry)
    except (LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"What {bundle.folder} says of its ONNX graph is damaged ({error!r}). Add the graph again."
        ) from None
