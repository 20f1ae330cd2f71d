"""Who may ask: the Host and Origin of a request, and a user's password."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from maskcls.errors import CallError
from maskcls.serving.web.refusal import Refused

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WITHOUT_AUTH = ("/healthz", "/readyz")
"""Paths that ask for no password: whoever watches a service must reach them, and they tell nothing."""


class Access:
    """What a service that listens on `host` answers.

    A page of somebody else's whose name suddenly resolves to this machine (DNS rebinding) still sends its own name as
    Host, so only names that belong to the service are answered; an address cannot be rebound.

    Args:
        host: address that the service listens on.
        names: further names under which it is reached, as behind a proxy.
        auth: USER:PASSWORD that every request must bring (RFC 7617), or None.

    Raises:
        CallError: `auth` is not USER:PASSWORD.
    """

    def __init__(self, host: str, names: Sequence[str] = (), auth: str | None = None) -> None:
        self._own_names = {name.lower() for name in names}
        self._names = {*LOOPBACK, *self._own_names, host.lower()}
        self._answers_addresses = host not in LOOPBACK
        if self._answers_addresses:
            self._names.add(socket.gethostname().lower())
        user, colon, password = (auth or "").partition(":")
        if auth is not None and not (user and colon and password):
            raise CallError("--auth expects USER:PASSWORD, neither of them empty.")
        self._auth = None if auth is None else auth.encode()

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Raise Refused if a request with these headers, their names in lower case, is not answered."""
        host = headers.get("host", "")
        name = _hostname(host)
        if not (name in self._names or (self._answers_addresses and _is_address(name))):
            message = f"This service is not known as {name[:80]!r}. Whoever runs it can add the name by --allow-host."
            raise Refused(421, "unknown_host", message)
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin, host):
            raise Refused(403, "foreign_origin", "Another site's page may not use this service.")
        if self._auth is not None and path not in WITHOUT_AUTH:
            self._check_password(headers.get("authorization", ""))

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether a page's origin, as in http://name:port, is this service's."""
        scheme, _, rest = origin.lower().partition("://")
        return scheme in ("http", "https") and (rest == host.lower() or _hostname(rest) in self._own_names)

    def _check_password(self, authorization: str) -> None:
        assert self._auth is not None
        scheme, _, encoded = authorization.partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        if not hmac.compare_digest(given, self._auth):
            raise Refused(401, "unauthorized", "This service asks for its user and password.")


def check_protected(host: str, auth: str | None, *, no_auth: bool) -> None:
    """Raise CallError if other machines reach the host and nobody has said who may use the service."""
    if not is_loopback(host) and auth is None and not no_auth:
        raise CallError(
            f"--host {host} lets other machines in. Say who may use the service: --auth USER:PASSWORD "
            "(or the environment variable MASKCLS_AUTH), or --no-auth."
        )


def is_loopback(host: str) -> bool:
    """Whether a service that listens on the host can be reached from this machine alone."""
    return host in LOOPBACK


def _hostname(host: str) -> str:
    """The name in a Host header, without its port, in lower case; empty where there is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
