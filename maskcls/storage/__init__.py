"""Places that all machines reach by an address: a shared folder, or an object store."""

from __future__ import annotations
