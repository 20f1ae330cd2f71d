"""Photos of noise, a cache, and which of the photos were decoded."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskcls.data import pixels
from maskcls.data.decoding.decode import decode
from tests.maskcls.data.tiny_store import drawn


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    return drawn(tmp_path / "photos")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were decoded, by the real decoder."""
    names: list[str] = []
    real = decode

    def counting(file: str) -> object:
        names.append(file)
        return real(file)

    monkeypatch.setattr(pixels, "decode", counting)
    return names
