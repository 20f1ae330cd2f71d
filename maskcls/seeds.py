"""Derivation of everything random from numbers that name it, as in (seed, model, epoch).

All derivations use numpy's SeedSequence, which mixes its parts well: streams whose parts differ in one number are
independent, and do not depend on the process or on what was drawn before. There are four forms, and none may change
its numbers: runs, splits and checkpoints made before depend on them.
"""

from __future__ import annotations

import random

import numpy as np


def generator(*parts: int) -> np.random.Generator:
    """Return numpy's default generator for these parts, integers of any size from 0 on."""
    return np.random.default_rng(np.random.SeedSequence(parts))


def seed_of(*parts: int) -> int:
    """Return a seed of 32 bits, for scikit-learn's splitters and Optuna's samplers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def torch_seed(*parts: int) -> int:
    """Return a seed of 63 bits for torch, which takes signed integers of 64 bits."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def spawned(count: int, *parts: int) -> list[tuple[np.random.Generator, random.Random]]:
    """Return `count` independent pairs of a numpy generator and one of Python's, for libraries that draw from both.

    It differs in kind from `generator`: the augmentations' numbers have always come from SFC64.
    """
    sequences = np.random.SeedSequence(parts).spawn(count)
    return [
        (np.random.Generator(np.random.SFC64(sequence)), random.Random(int(sequence.generate_state(1)[0])))
        for sequence in sequences
    ]
