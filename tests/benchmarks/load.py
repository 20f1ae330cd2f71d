"""Clients of a running service that send photos without a pause, light enough to share a machine with it.

    python -m tests.benchmarks.load --url http://127.0.0.1:7860 --clients 8 --seconds 10 a.jpg b.jpg

One process with one event loop. Requests are made once, before the clock starts; each client sends one of them over a
connection that it keeps, reads the answer to its end without decoding it, and sends the next. What the process itself
needs of a core is in the result, as `cpu_s`.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import numpy as np
import typer

from maskcls.cli import run

PATIENCE_S = 60


@dataclass
class Load:
    """What the clients saw."""

    seconds: float
    """From the first request to the last answer."""
    latencies_s: list[float]
    """Of each request that was answered 200."""
    failed: dict[str, int]
    """The others, by status or by what happened to their connection."""
    cpu_s: float
    """That the clients took of a core."""

    @property
    def per_second(self) -> float:
        """Photos answered per second."""
        return len(self.latencies_s) / self.seconds

    def percentile_s(self, share: float) -> float:
        """The latency that `share` percent of the answered requests do not exceed."""
        return float(np.percentile(self.latencies_s, share)) if self.latencies_s else float("nan")


def request_of(photo: bytes, host: str) -> bytes:
    """The bytes of a request that asks for one photo's classes."""
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + photo + b"\r\n--x--\r\n"
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=x\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def send(url: str, photos: Sequence[bytes], clients: int, goes_on: Callable[[], bool]) -> Load:
    """Let `clients` send photos, at least one each, as long as `goes_on` says so."""
    place = urlsplit(url)
    requests = [request_of(photo, place.netloc) for photo in photos]
    latencies_s: list[float] = []
    failed: Counter[str] = Counter()

    async def client(number: int) -> None:
        connection, at = _Connection(str(place.hostname), place.port or 80), number
        while True:
            began = time.perf_counter()
            try:
                status = await asyncio.wait_for(connection.ask(requests[at % len(requests)]), PATIENCE_S)
            except (OSError, EOFError, TimeoutError) as error:
                status = type(error).__name__
                connection.close()
            if status == "200":
                latencies_s.append(time.perf_counter() - began)
            else:
                failed[status] += 1
                await asyncio.sleep(0.05)
            at += clients
            if not goes_on():
                connection.close()
                return

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return Load(time.perf_counter() - began, latencies_s, dict(failed), time.process_time() - cpu)


class _Connection:
    """A connection that is opened when it is needed, and again after an answer that closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, request: bytes) -> str:
        """Send a request and read its answer: the status."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return head.split()[1].decode()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
        self._streams = None


def measure(url: str, photos: Sequence[Path], clients: int, seconds: float) -> Load:
    """Send photos from a process of its own for some seconds."""
    words = ["--url", url, "--clients", str(clients), "--seconds", str(seconds), *map(str, photos)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.load", *words], capture_output=True, text=True, check=True
    )
    return Load(**json.loads(done.stdout))


def main(
    photos: Annotated[list[Path], typer.Argument(help="Files, sent in turn.")],
    url: Annotated[str, typer.Option("--url")],
    clients: Annotated[int, typer.Option("--clients", min=1)],
    seconds: Annotated[float, typer.Option("--seconds", min=0)],
) -> None:
    """Send photos and print what the clients saw, as JSON."""
    contents = [photo.read_bytes() for photo in photos]
    ends = time.monotonic() + seconds
    print(json.dumps(asdict(asyncio.run(send(url, contents, clients, lambda: time.monotonic() < ends)))))


if __name__ == "__main__":
    run(main)
