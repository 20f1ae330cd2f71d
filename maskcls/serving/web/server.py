"""Serves an application by uvicorn, within limits on connections and on how long a request may take to arrive."""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

from maskcls.errors import CallError, RunError
from maskcls.serving.web.guard import HEADERS
from maskcls.serving.web.limits import MAX_HEADER_BYTES, Limits
from maskcls.serving.web.refusal import Refused

log = logging.getLogger("maskcls")

BACKLOG = 128
"""Connections that the kernel keeps until they are accepted; so many may be accepted before any can be closed."""
OTHER_FILES = 100
"""File descriptors that are left for what is no connection: libraries, the event loop, the bundle, stdout."""
ENDING_S = 5
"""How long an ending service waits for its last answers."""


class Connection(H11Protocol):
    """A connection that is closed if no request arrives in time, and of which only so many are open."""

    limits: Limits
    _since: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; beyond the limit close the one that has waited longest, or this one."""
        super().connection_made(transport)
        self._since = self.loop.time()
        open_now = [each for each in self.connections if not each.transport.is_closing()]
        if len(open_now) > self.limits.connections:
            without_request = [each for each in open_now if isinstance(each, Connection) and each.is_incomplete]
            # Those without a request go before those whose body arrives; itself goes where all others wait for answers.
            oldest = min(without_request, key=lambda each: (each is self, each.is_arriving, each._since))
            oldest.refuse(Refused(503, "too_many_connections", "Too many connections are open. Try again later."))

    def on_response_complete(self) -> None:
        """Wait for the next request from now on."""
        self._since = self.loop.time()
        super().on_response_complete()

    @property
    def is_arriving(self) -> bool:
        """Whether headers are complete, and the body is not."""
        return self.cycle is not None and not self.cycle.response_complete and self.cycle.more_body

    @property
    def is_incomplete(self) -> bool:
        """Whether it waits for the client: for a request, for its headers or for the rest of its body."""
        return self.cycle is None or self.cycle.response_complete or self.is_arriving

    def refuse(self, refused: Refused) -> None:
        """Answer, if no answer has begun, and close the connection."""
        if self.cycle is None or not self.cycle.response_started:
            self.transport.write(_raw(refused))
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def check_time(self) -> None:
        """Close the connection if it has waited too long, for the client or, beyond all times that it has, at all."""
        waited = self.loop.time() - self._since
        limits = self.limits
        if self.is_incomplete and not self.is_arriving and waited > limits.header_s:
            self.transport.abort()
        elif waited > 2 * limits.header_s + limits.body_s + limits.request_s:
            self.transport.abort()  # a client that does not read its answer


def _raw(refused: Refused) -> bytes:
    """An answer as it goes over the wire, for where there is no request that an application could answer."""
    body = json.dumps(refused.to_dict()).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS, **refused.headers}
    lines = ["HTTP/1.1 503 Service Unavailable", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Server(Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let SIGHUP, too, end the service as SIGTERM does; where it is ignored, as by nohup, it stays so."""
        with super().capture_signals():
            if threading.current_thread() is not threading.main_thread() or _hang_ups_are_ignored():
                yield
                return
            before = signal.signal(signal.SIGHUP, self.handle_exit)
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    async def on_tick(self, counter: int) -> bool:
        """Called every 0.1 s."""
        if counter % 5 == 0:
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection) and not connection.transport.is_closing():
                    connection.check_time()
        return await super().on_tick(counter)


def _hang_ups_are_ignored() -> bool:
    return signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def create_server(app: ASGIApp, limits: Limits) -> Server:
    """Return a server of the application, whose `run(sockets=[...])` serves until SIGINT, SIGTERM or SIGHUP."""
    own = {"limits": limits_within(limits, _raise_open_files(limits.connections + BACKLOG + OTHER_FILES))}
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # no line for each malformed request
    config = Config(
        app,
        http=type("LimitedConnection", (Connection,), own),
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=max(1, round(limits.header_s)),
        timeout_graceful_shutdown=ENDING_S,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
    return _Server(config)


def limits_within(limits: Limits, open_files: int) -> Limits:
    """Return the limits with as many connections as a process may have that may open so many files. Raises RunError."""
    allowed = open_files - BACKLOG - OTHER_FILES
    if allowed < 1:
        raise RunError(
            f"The process may open {open_files} files, too few for any connection: at least "
            f"{BACKLOG + OTHER_FILES + 1} expected. Raise the limit: ulimit -n 4096."
        )
    if allowed < limits.connections:
        log.warning("At most %d connections: the process may not open more files (ulimit -n).", allowed)
    return replace(limits, connections=min(allowed, limits.connections))


def _raise_open_files(wanted: int) -> int:
    """Raise the number of files that this process may open, where it may; return what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted and soft != resource.RLIM_INFINITY:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; port 0 takes a free one. Raises CallError if that is impossible."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # Python repeats the address in brackets
        raise CallError(
            f"{bracketed(host)}:{port} cannot be served on: {reason}. Name another --port or --host."
        ) from None


def url_of(host: str, port: int) -> str:
    """The page's address for a browser."""
    return f"http://{bracketed(host)}:{port}/"


def bracketed(host: str) -> str:
    """The host as it stands in a URL: an IPv6 address in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host
