"""An S3 on loopback (moto's server) that is slow, answers with errors or cuts connections when a test says so."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
"""The environment of whoever speaks to it."""
BUCKET = "bucket"
_EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


class S3:
    """The server. `faults` holds one word for each of the next requests: 500, expired, cut, silent."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *arguments: Any) -> None:
                return

        self.faults: list[str] = []
        self.always = ""
        """The fault of every request; "": none."""
        self.latency_s = 0.0
        self.requests: list[str] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server(host, port, self._answer, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def address(self, path: str = "", *, bucket: str = BUCKET) -> str:
        """For --storage."""
        return f"s3://{bucket}/{path}?scheme=http&endpoint_override=127.0.0.1:{self._server.port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @contextmanager
    def failing(self, how: str) -> Iterator[None]:
        """Let every request end so within the block."""
        self.always = how
        try:
            yield
        finally:
            self.always = ""

    def written(self) -> list[str]:
        """The objects that were put since it was last asked, in their order."""
        put = [
            path.partition("?")[0] for method, path in (one.split(" ", 1) for one in self.requests) if method == "PUT"
        ]
        self.requests.clear()
        return put

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        time.sleep(self.latency_s)
        fault = self.always or (self.faults.pop(0) if self.faults else "")
        if fault == "silent":
            time.sleep(5)
        if fault in ("cut", "silent"):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return []
        if fault:
            # What was sent is read first, else the client sees a reset.
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start(
                "500 Internal Server Error" if fault == "500" else "403 Forbidden",
                [("Content-Type", "application/xml")],
            )
            return [b"" if fault == "500" else _EXPIRED]
        answer: Iterable[bytes] = self._app(environ, start)
        return answer


def serve(port: int) -> None:
    """Serve a bucket to other machines, without an end: `python -m tests.s3 PORT`."""
    from pyarrow.fs import FileSystem

    os.environ.update(KEYS)
    server = S3("0.0.0.0", port)
    system, bucket = FileSystem.from_uri(f"{server.address()}&allow_bucket_creation=true")
    system.create_dir(bucket)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
