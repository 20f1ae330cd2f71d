"""A storage of each kind, empty."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.s3 import S3
from tune.storage.store import Store

_numbers = itertools.count()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty place of each kind of storage."""
    if request.param == "folder":
        return Store(str(tmp_path / "storage"), patience_s=5)
    s3: S3 = request.getfixturevalue("s3")
    return Store(s3.address(f"runs-{next(_numbers)}"), patience_s=5)
