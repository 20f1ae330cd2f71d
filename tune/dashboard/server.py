"""Optuna's dashboard over a run's view, on loopback. It shows and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from maskcls.errors import CallError, RunError
from tune.dashboard.view import Drawings, RunView
from tune.runs.folder import SearchRun

LOOPBACK = "127.0.0.1"
READING = ("GET", "HEAD")
_REFUSED = "This page only shows the run: nothing is changed in it."
_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Server(ThreadingMixIn, WSGIServer):
    """Answers several requests at a time. `serve_forever` works until the process, or another thread, ends it."""

    daemon_threads = True

    @property
    def url(self) -> str:
        """The first page's address for a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/"

    def server_bind(self) -> None:
        """Bind without looking up the machine's name, which takes seconds where no name server answers."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]
        self.setup_environ()


class _Quiet(WSGIRequestHandler):
    """Prints no line per request."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(run: SearchRun, port: int) -> Iterator[Server]:
    """Within the block, there is a server of the run's pages.

    Args:
        port: 0 lets the system choose a free one.

    Raises RunError where the dashboard is not installed or the run has no trial yet, CallError if the port is taken.
    """
    application = read_only(_dashboard()(RunView(run), artifact_store=Drawings(run)))
    try:
        server = Server((LOOPBACK, port), _Quiet)
    except OSError as error:
        raise CallError(f"{LOOPBACK}:{port} cannot be served on: {error.strerror}. Name another --port.") from None
    with server:
        server.set_app(application)
        yield server


def _dashboard() -> Any:
    """Return Optuna's function that makes the pages. Raises RunError, with what to do, if it is not installed."""
    try:
        from optuna_dashboard import wsgi
    except ModuleNotFoundError as error:
        if error.name != "optuna_dashboard":
            raise
        raise RunError(
            "The pages need optuna-dashboard, which is not installed. Install it with: pip install 'maskcls[dashboard]'"
        ) from None
    return wsgi


def read_only(application: _Application) -> _Application:
    """Return the application without its ways to change, add or delete: they are refused with a reason."""

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["REQUEST_METHOD"] in READING:
            return application(environment, start)
        start("403 Forbidden", [("Content-Type", "application/json")])
        return [json.dumps({"reason": _REFUSED}).encode()]

    return answer
