"""Writes a bundle's ONNX graph into the bundle, once it was compared with torch on photos; and its 8-bit variant."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime import quantization

from maskcls.errors import DataError, RunError
from maskcls.files import replacing
from maskcls.serving.bundle import Bundle, read_bundle
from maskcls.serving.export import note_entry
from maskcls.serving.marginals import TASKS
from maskcls.serving.onnx_engine import CLASS, ENTRY, INT8, OUTPUT, OnnxEngine, input_names, tau_of
from maskcls.serving.onnx_graph import BundleGraph
from maskcls.serving.predictor import Predictor, check_readable
from maskcls.training.metrics import scores

log = logging.getLogger("maskcls")

LARGEST_DIFFERENCE = 1e-4
"""Between a probability by torch and by the graph."""
FLIPPED_SHARE = 0.01
"""Of the photos for which a hard join may decide otherwise: it makes 0 or 1 of the last bit of two equal labels."""
LARGEST_FALL = 0.01
"""Of macro F1 by the 8-bit variant."""
CALIBRATED_ON = 256
"""Photos that say which range of values each tensor of the 8-bit variant has."""
LIBRARIES = ("torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Compared:
    """What two engines predict for the same photos."""

    photos: int
    largest_difference: float
    """Between two probabilities; of a bundle with hard joins, without the FLIPPED_SHARE of photos that differ most."""
    other_classes: int
    """Photos for which the class differs."""
    f1: float
    """Macro F1 by torch."""
    f1_graph: float
    """And by the graph."""

    @property
    def fall(self) -> float:
        """By how much F1 falls."""
        return self.f1 - self.f1_graph


def export_onnx(
    folder: Path, files: Sequence[str], truth: NDArray[np.int64], *, int8_files: Sequence[str] = ()
) -> tuple[Compared, Compared | None]:
    """Add the graph to a bundle, and a variant in 8-bit integers; return how both compare with torch.

    Args:
        files: n photos, such as those of the validation people, on which the graph is compared with torch.
        truth: (n,) their classes.
        int8_files: photos, of other people, by which the 8-bit variant is made; without them it is not.

    Raises:
        DataError: photos cannot be read.
        RunError: torch cannot export the models, the graph differs from torch, or its variant loses too much.
    """
    bundle = read_bundle(folder)
    by_torch = _predicted(Predictor(bundle, "cpu"), files)
    graph = build_graph(bundle)
    compared = _compare(by_torch, _predicted(Predictor(bundle, engine=OnnxEngine(bundle, graph)), files), truth, bundle)
    _check(compared, bundle)
    content: dict[str, bytes] = {}
    entry = _entry("classifier", graph, compared, content)
    reduced = None
    if int8_files:
        small = _in_int8(bundle, graph, int8_files)
        by_small = _predicted(Predictor(bundle, engine=OnnxEngine(bundle, small)), files)
        reduced = _compare(by_torch, by_small, truth, bundle)
        if reduced.fall >= LARGEST_FALL:
            raise RunError(
                f"In 8-bit integers macro F1 on {reduced.photos:,} photos falls from {reduced.f1:.4f} to "
                f"{reduced.f1_graph:.4f}, by {LARGEST_FALL:g} or more, so nothing was written. Export without --int8."
            )
        entry[INT8] = _entry("classifier-int8", small, reduced, content)
    for name, data in content.items():
        with replacing(folder / name) as stream:
            stream.write(data)
    note_entry(folder, ENTRY, {**entry, "temperature": bundle.temperature, "tau": tau_of(bundle)})
    for stale in set(folder.glob("classifier*.onnx")) - {folder / name for name in content}:
        stale.unlink()
    return compared, reduced


def build_graph(bundle: Bundle) -> bytes:
    """Return the bundle's graph: inputs uint8 (n, s, s, 3), outputs `probabilities`, `mask`, `gender`, `age_group` and
    `class`.

    n is free. Raises RunError where torch cannot export the models.
    """
    geometries = tuple(dict.fromkeys(each.geometry for each in bundle.classifiers))
    n = torch.export.Dim("n")
    # Two photos: a dimension of size one would be taken for a fixed one.
    examples = tuple(torch.zeros(2, each.image_size, each.image_size, 3, dtype=torch.uint8) for each in geometries)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the exporter's own, on what it will change in later versions
            program = torch.onnx.export(
                BundleGraph(bundle).eval(),
                examples,
                input_names=input_names(geometries),
                output_names=[OUTPUT, *TASKS, CLASS],
                dynamic_shapes=(tuple({0: n} for _ in geometries),),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        assert program is not None
        return bytes(program.model_proto.SerializeToString())
    except Exception as error:  # of many kinds: each step of the exporter has its own
        backbones = ", ".join(sorted({each.recipe.backbone for each in bundle.classifiers}))
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(f"torch {torch.__version__} cannot export {backbones} as ONNX: {first}") from error


def _predicted(predictor: Predictor, files: Sequence[str]) -> NDArray[np.float64]:
    """(n, 18). Raises DataError that names the photos which cannot be read."""
    found = predictor.predictions(files)
    check_readable(found.bad, len(files))
    return found.probabilities


def _compare(
    by_torch: NDArray[np.float64], by_graph: NDArray[np.float64], truth: NDArray[np.int64], bundle: Bundle
) -> Compared:
    torchs, graphs = bundle.classes(by_torch), bundle.classes(by_graph)  # (n,) each
    differences = np.sort(np.abs(by_torch - by_graph).max(axis=1))  # (n,), rising
    decides = any(each.recipe.join == "hard" for each in bundle.classifiers)
    counted = len(differences) - int(FLIPPED_SHARE * len(differences)) * decides
    return Compared(
        photos=len(truth),
        largest_difference=float(differences[:counted].max(initial=0.0)),
        other_classes=int((torchs != graphs).sum()),
        f1=scores(truth, torchs).f1,
        f1_graph=scores(truth, graphs).f1,
    )


def _check(compared: Compared, bundle: Bundle) -> None:
    if not compared.photos:
        raise DataError(f"There is no photo on which the graph of {bundle.folder} could be compared with torch.")
    if not compared.largest_difference <= LARGEST_DIFFERENCE:  # so that nan fails
        raise RunError(
            f"The graph of {bundle.folder} gives other probabilities than torch: on {compared.photos:,} photos the "
            f"largest difference is {compared.largest_difference:.2g}, and {LARGEST_DIFFERENCE:g} is allowed. Nothing "
            "was written."
        )


def _entry(name: str, graph: bytes, compared: Compared, contents: dict[str, bytes]) -> dict[str, Any]:
    """A graph's entry in bundle.json; its content is added to `contents` under the file's name."""
    digest = hashlib.sha256(graph).hexdigest()
    file = f"{name}-{digest[:8]}.onnx"
    contents[file] = graph
    return {
        "file": file,
        "bytes": len(graph),
        "sha256": digest,
        "versions": {library: version(library) for library in LIBRARIES},
        "compared_with_torch": {
            "photos": compared.photos,
            "largest_difference": compared.largest_difference,
            "other_classes": compared.other_classes,
            "f1": compared.f1,
            "f1_graph": compared.f1_graph,
        },
    }


def _in_int8(bundle: Bundle, graph: bytes, files: Sequence[str]) -> bytes:
    """The graph with its convolutions and linear layers in 8-bit integers, their ranges as these photos give them."""
    predictor = Predictor(bundle, engine=OnnxEngine(bundle, graph))
    names = dict(zip(input_names(predictor.geometries), predictor.geometries, strict=True))

    def inputs() -> Iterator[dict[str, NDArray[np.uint8]]]:
        for file in files:
            crops = predictor.crops(file)
            yield {name: crops[geometry].pixels[None] for name, geometry in names.items()}

    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "int8.onnx"
        quantization.quantize_static(
            onnx.load_model_from_string(graph),
            str(out),
            _Photos(inputs()),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            # Without VNNI, as on older CPUs, sums of two products of 8 bits overflow: 7 bits of weight do not.
            reduce_range=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
        )
        return out.read_bytes()


class _Photos:
    """What ONNX Runtime's quantization reads: the inputs of one photo after the other, until None."""

    def __init__(self, inputs: Iterator[dict[str, NDArray[np.uint8]]]) -> None:
        self._left = inputs

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """Return the next photo's inputs."""
        return next(self._left, None)
