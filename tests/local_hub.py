"""A server on this machine that speaks the part of the Hub's protocol by which its client uploads a folder."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class LocalHub:
    """What was asked, and what was uploaded."""

    url: str = ""
    private: dict[str, bool] = field(default_factory=dict)
    """Of each repository that was made, whether it is private."""
    files: dict[str, bytes] = field(default_factory=dict)
    """By repository and path."""
    asked: list[str] = field(default_factory=list)
    refuses: bool = False
    """Whether every request is answered with 401."""

    def answer(self, path: str, body: bytes) -> tuple[int, Any]:
        """Return the status and the answer to a POST."""
        path = path.partition("?")[0]
        self.asked.append(path)
        if self.refuses:
            return 401, {"error": "Invalid username or password."}
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization', 'someone')}/{wanted['name']}"
            self.private[name] = wanted.get("private", False) or wanted.get("visibility") == "private"
            return 200, {"url": f"{self.url}/{name}", "name": name}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        repository, _, action = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if action == "preupload":
            files = json.loads(body)["files"]
            return 200, {
                "files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            }
        if action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[f"{repository}/{line['value']['path']}"] = base64.b64decode(line["value"]["content"])
            oid = "0" * 40
            return 200, {
                "success": True,
                "commitOid": oid,
                "commitUrl": f"{self.url}/{repository}/commit/{oid}",
                "hookOutput": "",
            }
        return 404, {"error": f"{path} is not part of this server."}


@contextmanager
def local_hub() -> Iterator[LocalHub]:
    """Serve on a free port while the block runs."""
    hub = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else self._chunks()
            status, content = hub.answer(self.path, body)
            self._send(status, content)

        def do_GET(self) -> None:
            hub.asked.append(self.path)
            self._send(404, {"error": "Nothing is here."})

        def _chunks(self) -> bytes:
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content

        def _send(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
