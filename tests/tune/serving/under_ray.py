"""A Ray of its own with the application of deploy/serve.yaml on it, deployed by the command that docs/serving.md names.

    python -m tests.tune.serving.under_ray

is that Ray: it prints its dashboard's address and ends when its stdin ends, so also with the process that started it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from tests.conftest import ROOT

FILE, ENVIRONMENT = ROOT / "deploy" / "serve.yaml", ROOT / "deploy" / "serve.env"
NAME = "maskcls"
PATIENCE_S = 240


@dataclass
class UnderRay:
    """The application under Ray Serve, reached at `url`."""

    url: str
    dashboard: str
    folder: Path
    """For the files that are deployed."""

    def deploy(self, bundle: Path, *, args: Mapping[str, Any] | None = None, **deployment: Any) -> None:
        """Deploy the file with this bundle, and with other `args` and another `deployment`; wait until it is done."""
        self.submit(bundle, args=args, **deployment)
        self.wait_until("RUNNING")

    def submit(self, bundle: Path, *, args: Mapping[str, Any] | None = None, **deployment: Any) -> None:
        """Deploy as `deploy` does, and do not wait."""
        content = yaml.safe_load(FILE.read_text())
        content["http_options"]["port"] = int(self.url.rpartition(":")[2])
        (application,) = content["applications"]
        application["args"] |= {"bundle": str(bundle), **(args or {})}
        application["runtime_env"] = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        application["deployments"][0] |= deployment
        file = self.folder / "serve.yaml"
        file.write_text(yaml.safe_dump(content))
        words = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "-a", self.dashboard]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def application(self) -> dict[str, Any]:
        """What Ray's dashboard knows of the application."""
        with urllib.request.urlopen(f"{self.dashboard}/api/serve/applications/", timeout=PATIENCE_S) as answer:
            found: dict[str, Any] = json.load(answer)["applications"].get(NAME, {})
        return found

    def wait_until(self, *statuses: str) -> dict[str, Any]:
        """Wait until the application has one of these states."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.application()).get("status") not in statuses:
            assert time.monotonic() < deadline, found
            assert found.get("status") != "DEPLOY_FAILED" or "DEPLOY_FAILED" in statuses, found["message"]
            time.sleep(0.5)
        return found

    def replicas(self) -> list[int]:
        """Process ids of the replicas that answer."""
        found = self.application()["deployments"][NAME]["replicas"]
        return [each["pid"] for each in found if each["state"] == "RUNNING"]


def environment(folder: Path) -> dict[str, str]:
    """That of deploy/serve.env, with ports and files of its own: several Rays may run on this machine."""
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if line and not line.startswith("#")]
    stated = {name: value.strip('"') for name, _, value in (line.partition("=") for line in lines)}
    return {
        **stated,
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(ROOT),
    }


def free_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def ray_with_serve() -> Iterator[UnderRay]:
    """Start a Ray in a process of its own, in the environment of deploy/serve.env."""
    with TemporaryDirectory(dir="/tmp", prefix="s") as short:  # HAProxy's socket lies in it: at most 97 characters
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.tune.serving.under_ray"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment(Path(short))},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            dashboard = f"http://{process.stdout.readline().strip()}"
            yield UnderRay(f"http://127.0.0.1:{free_port()}", dashboard, Path(short))
        finally:
            process.stdin.close()
            process.wait(PATIENCE_S)


def main() -> None:
    """Be a Ray until stdin ends."""
    import ray

    context = ray.init(address="local", num_cpus=8, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    print(context.dashboard_url, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
