"""Step `tests`: the tests that are skipped where there is no GPU (pytest's marker `cuda`)."""

from __future__ import annotations

import subprocess
import sys
from xml.etree import ElementTree

from tests.benchmarks.report import ROOT
from tests.gpu.bench import Bench
from tests.gpu.findings import Findings


def measure(bench: Bench, findings: Findings) -> None:
    """Run them, and count what passed."""
    report = bench.folder / "tests.xml"
    words = ["-m", "cuda", "-p", "no:cacheprovider", f"--junitxml={report}", str(ROOT / "tests" / "gpu")]
    subprocess.run([sys.executable, "-m", "pytest", *words], check=False)
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [case for case in cases if case.find("skipped") is not None]
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    findings.measured("passed", len(cases) - len(skipped) - len(failed), "tests")
    findings.measured("skipped", len(skipped), "tests")
    findings.check("failed", not failed, len(failed), "tests", ", ".join(str(case.get("name")) for case in failed))
    findings.check("there are some", bool(cases), len(cases), "tests")
