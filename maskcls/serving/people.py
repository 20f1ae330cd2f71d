"""People in a bundle as salted hashes: those whom it has seen, and those of the holdout.

So a bundle that is passed on lists nobody, and yet `maskcls.evaluate` can tell whom it has seen. The salt is the
split's digest. Short names can be guessed, so this hides them from readers, not from attackers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

HASH_DIGITS = 16
"""Hexadecimal: 64 bits; among a million people the odds that any two share a hash are 1 in 40 million."""


def person_hash(person: str, split_digest: str) -> str:
    """The first 16 hex digits of SHA-256 over the split's digest and the person."""
    return hashlib.sha256(f"{split_digest}:{person}".encode()).hexdigest()[:HASH_DIGITS]


def person_hashes(people: Iterable[str], split_digest: str) -> list[str]:
    """The hashes of people, each once, in rising order."""
    return sorted(person_hash(person, split_digest) for person in set(people))
