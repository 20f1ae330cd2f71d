"""Numbers that runs, splits and checkpoints depend on: each form of derivation gives what it gave when it was
introduced."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from maskcls import seeds

ROOT = Path(__file__).parents[2]


def test_each_form_gives_its_first_numbers() -> None:
    assert seeds.seed_of(3, 4) == 2746448868
    assert seeds.torch_seed(3, 4) == 8142286996972879346
    assert seeds.generator(3, 4).integers(1000, size=3).tolist() == [8, 898, 584]
    (numpy_one, python_one), _ = seeds.spawned(2, 3, 4)
    assert numpy_one.integers(1000, size=3).tolist() == [842, 12, 827]
    assert python_one.random() == 0.4858661538468133


def test_one_part_is_the_plain_seed() -> None:
    assert seeds.generator(7).random() == np.random.default_rng(7).random()


def test_parts_may_be_digests() -> None:
    assert seeds.seed_of(int("f" * 12, 16), 5) != seeds.seed_of(int("f" * 12, 16), 6)


def test_seeds_are_derived_nowhere_else() -> None:
    """A SeedSequence, or a generator of several numbers, in another module would be a second way."""
    sources = [file for name in ("maskcls", "tune") for file in (ROOT / name).rglob("*.py") if file.name != "seeds.py"]
    assert len(sources) > 100
    pattern = re.compile(r"SeedSequence|default_rng\(\(")
    assert [str(file) for file in sources if pattern.search(file.read_text(encoding="utf-8"))] == []
