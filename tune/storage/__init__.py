"""A storage that all machines reach, a shared folder or an object store: whole files, and folders of them."""

from __future__ import annotations
