"""Starting points: learning rates, frozen stages and heads that are tried before the sampler is asked.

The numbers are data, `portfolio.json` beside this file; it says where each comes from, and which command made those
of the CPU scale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("portfolio.json")
PORTFOLIO: Mapping[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
STARTS: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    scale: tuple(start["point"] for start in PORTFOLIO[scale]) for scale in ("cpu", "gpu")
}
"""By scale, parameters of `freezing`, the best first; of convolutional networks where the families differ."""
TRANSFORMER: Mapping[str, Any] = PORTFOLIO["transformer"]["point"]
"""The same of a transformer."""
PROJECT: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    scale: tuple(start["point"] for start in PORTFOLIO["contest"][scale]) for scale in ("cpu", "gpu")
}
"""By scale, parameters of `backbones`: what the contest project and its successors did."""
