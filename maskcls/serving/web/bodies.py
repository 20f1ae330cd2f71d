"""Bodies of requests: counted as they arrive, in memory alone, within a time, and all together within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import Gauge
from starlette.types import Receive

from maskcls.serving.web.limits import Limits
from maskcls.serving.web.refusal import Refused


class ClientGone(Exception):  # noqa: N818 - no error: nobody is left who could be answered
    """The client closed the connection before its request was complete."""


@dataclass(eq=False)
class _Arriving:
    deadline: asyncio.Timeout
    is_given_up: bool = False


class Bodies:
    """All bodies that are in memory. To be used from one event loop."""

    def __init__(self, limits: Limits, gauge: Gauge) -> None:
        self._limits = limits
        self._gauge = gauge
        self._bytes = 0
        self._arriving: list[_Arriving] = []  # in the order in which they began

    @asynccontextmanager
    async def read(self, headers: Mapping[str, str], receive: Receive) -> AsyncIterator[bytes]:
        """Read a body, which counts as in memory until the block ends. Raises Refused and ClientGone."""
        body = bytearray()
        try:
            await self._read_into(body, headers, receive)
            yield bytes(body)
        finally:
            self._count(-len(body))

    async def _read_into(self, body: bytearray, headers: Mapping[str, str], receive: Receive) -> None:
        declared = headers.get("content-length", "")
        if declared.isdecimal() and len(declared) < 20 and int(declared) > 3 * self._limits.body_bytes:
            raise self._too_large()  # so large that reading it to the end, to be polite, is not worth it
        arriving = _Arriving(asyncio.timeout(self._limits.body_s))
        try:
            async with arriving.deadline:
                self._arriving.append(arriving)
                try:
                    await self._receive(body, receive)
                finally:
                    self._arriving.remove(arriving)
        except TimeoutError:
            if arriving.is_given_up:
                raise Refused(503, "too_much_arriving", "Too much arrives at once. Try again later.") from None
            message = f"The request's body took longer than {self._limits.body_s:g} s. Send it faster, or less."
            raise Refused(408, "slow_body", message) from None

    async def _receive(self, body: bytearray, receive: Receive) -> None:
        dropped = 0
        while True:
            message: Any = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk = message.get("body", b"")
            if dropped or len(body) + len(chunk) > self._limits.body_bytes:
                # The rest is read and dropped: most clients listen for the answer only when they have sent everything.
                dropped += len(chunk) + len(body)
                self._count(-len(body))
                body.clear()
                if dropped > 3 * self._limits.body_bytes or not message.get("more_body"):
                    raise self._too_large()
            else:
                body += chunk
                self._count(len(chunk))
                self._give_up_oldest()
            if not message.get("more_body"):
                return

    def _give_up_oldest(self) -> None:
        """End what has been arriving for longest, where all bodies exceed their bound: slow senders go first."""
        if self._bytes > self._limits.bodies_bytes:
            oldest = next((each for each in self._arriving if not each.is_given_up), None)
            if oldest is not None:
                oldest.is_given_up = True
                oldest.deadline.reschedule(asyncio.get_running_loop().time())

    def _count(self, change: int) -> None:
        self._bytes += change
        self._gauge.set(self._bytes)

    def _too_large(self) -> Refused:
        message = f"The request is larger than {self._limits.body_mb:g} MB. Send a smaller photo, or fewer."
        return Refused(413, "too_large", message)
