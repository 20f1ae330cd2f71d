"""A run that is kept in a storage as well: its driver's hold on it there, and what the driver puts and fetches."""

from __future__ import annotations
