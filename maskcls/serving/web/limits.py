"""The limits of the service, each an option of `maskcls serve`. Imports nothing heavy, for the command's help."""

from __future__ import annotations

from dataclasses import dataclass, fields

from maskcls.errors import CallError

MB = 1_000_000
FORMATS = ("JPEG", "PNG", "WebP")
"""Kinds of photos that are accepted, as `maskcls.data.decoding.kinds` names them."""
MAX_HEADER_BYTES = 16 * 1024
"""Of a request's first line and headers together."""


@dataclass(frozen=True)
class Limits:
    """What a request may cost. Every number is positive."""

    body_mb: float = 32.0
    """Of a request's body, counted as it arrives."""
    bodies_mb: float = 256.0
    """Of all bodies that are in memory. Beyond it the request that has been arriving for longest is given up."""
    megapixels: float = 25.0
    """Of a photo, 10**6 px, read from its header before anything is decoded."""
    aspect: float = 8.0
    """Longer edge of a photo / shorter edge."""
    photos: int = 16
    """In one request."""
    queue: int = 64
    """Photos that are decoded or wait for their prediction; beyond it requests are answered 429."""
    batch: int = 16
    """Photos that are predicted together, if so many wait. With 1 no answer depends on what others send."""
    request_s: float = 20.0
    """From the last byte of a request to its answer."""
    body_s: float = 20.0
    """From a request's headers to the last byte of its body."""
    header_s: float = 10.0
    """From the first byte of a request, or from the connection, to the last byte of the headers."""
    connections: int = 512
    """Open at a time. Beyond it the one that has waited longest without a whole request is closed."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if not value > 0:
                raise CallError(f"`{each.name} > 0` must hold, but got {value}.")

    @property
    def body_bytes(self) -> int:
        """Most bytes of a body."""
        return round(self.body_mb * MB)

    @property
    def bodies_bytes(self) -> int:
        """Most bytes of all bodies, enough for one."""
        return max(round(self.bodies_mb * MB), self.body_bytes)

    @property
    def pixels(self) -> int:
        """Most pixels of a photo."""
        return round(self.megapixels * 1e6)
