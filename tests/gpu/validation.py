"""Step `validation`: seconds and scores of validation in float32, with TF32 and in bfloat16, of two trained networks.

Validation and prediction run in float32, on a GPU with TF32 (`maskcls.models.model.member_log_probs`). The step says
what the two others would cost and change.
"""

from __future__ import annotations

from maskcls.training.fit_data import FitData
from tests.benchmarks.precision import WAYS, compared, validated
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings
from tests.gpu.fits import checkpoint, new_fit


def measure(bench: Bench, findings: Findings) -> None:
    """Validate the step `fits`' ResNet and ViT in each way."""
    for network in (bench.sizes.networks[0], bench.sizes.networks[-1]):
        recipe = bench.recipe(network)
        fit = new_fit(bench, recipe, FitData.of(bench.dataset(), recipe))
        if not fit.resume(checkpoint(bench, network)):
            raise SystemExit(f"The step fits left no checkpoint of {network}.")
        exact = validated(fit, "float32")
        for way in WAYS:
            found = validated(fit, way)
            differs = compared(found, exact)
            note = f"F1 {found.f1:.4f}; log probabilities differ by {differs['log_p_difference']:.2g} (median)"
            findings.measured(f"{network}: {way}", 1e3 * found.seconds / differs["photos"], "ms/photo", note)
            if way != "float32":
                classes = f"of {differs['photos']}"
                findings.measured(f"{network}: {way}, other classes", differs["other_classes"], classes, note)
                findings.measured(f"{network}: {way}, F1 - float32", differs["f1_difference"], note=note)
