"""The service behind a real uvicorn on loopback: what happens before a request reaches the application."""

from __future__ import annotations

import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from uvicorn import Server

from maskcls.command_line.signals import terminable
from maskcls.errors import CallError, HungUp, RunError, Terminated
from maskcls.serving.predictor import Predictor
from maskcls.serving.web.access import Access
from maskcls.serving.web.app import build_app
from maskcls.serving.web.limits import Limits
from maskcls.serving.web.server import BACKLOG, OTHER_FILES, create_server, limits_within, listen, url_of
from tests.maskcls.serving.web.conftest import HeldPredictor, until
from tests.maskcls.serving.web.process import serving

SHORT_S, LONG_S = 0.6, 60.0
GET = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"


@dataclass
class Site:
    """A service that answers on a port of loopback."""

    port: int
    app: Any = None

    def connect(self, first: bytes = b"") -> socket.socket:
        found = socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S)
        found.sendall(first)
        return found

    def ask(self, request: bytes = GET) -> bytes:
        """An answer's status line, on a connection of its own."""
        with self.connect(request) as connection:
            return first_line(connection)


def first_line(connection: socket.socket) -> bytes:
    """Of what comes; empty where the connection is closed without an answer."""
    try:
        return connection.recv(65_536).split(b"\r\n")[0]
    except ConnectionResetError:
        return b""


def photo_request(photo: bytes) -> bytes:
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + photo + b"\r\n--x--\r\n"
    return POST + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextmanager
def served(predictor: Predictor, **limits: float) -> Iterator[Site]:
    kept = Limits(**limits)  # type: ignore[arg-type]
    with listen("127.0.0.1", 0) as listener:
        app = build_app(predictor, kept, Access("127.0.0.1"))
        server = create_server(app, kept)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield Site(listener.getsockname()[1], app)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def impatient(predictor: Predictor) -> Iterator[Site]:
    with served(predictor, header_s=SHORT_S, body_s=SHORT_S, connections=8) as site:
        assert site.ask() == b"HTTP/1.1 200 OK"
        yield site


@pytest.fixture(scope="module")
def patient(predictor: Predictor) -> Iterator[Site]:
    """For whom no time runs out, however busy the machine is."""
    with served(predictor, header_s=LONG_S, body_s=LONG_S, connections=8) as site:
        yield site


def test_a_connection_without_a_request_in_time_is_closed(impatient: Site) -> None:
    with impatient.connect() as silent, impatient.connect(GET[:30]) as half, impatient.connect(GET) as kept:
        assert kept.recv(4).startswith(b"HTTP")
        for each in (silent, half, kept):
            while each.recv(4096):  # ends where the connection is closed; else with a timeout
                pass


def test_headers_that_drip_are_cut_off(impatient: Site) -> None:
    """Each line comes in time; all of them do not."""
    with impatient.connect(GET[:-2]) as slow:
        for _ in range(round(20 * LONG_S)):
            try:
                slow.sendall(b"A: b\r\n")
            except OSError:  # it was closed
                break
            time.sleep(SHORT_S / 10)
        else:
            pytest.fail("It was not cut off.")


def test_a_body_that_drips_is_answered_and_cut_off(impatient: Site) -> None:
    with impatient.connect(POST + b"Content-Length: 1000\r\n\r\n--x") as slow:
        assert first_line(slow) == b"HTTP/1.1 408 Request Timeout"
        while first_line(slow):  # the answer's body may come by itself; then the connection ends
            pass


def test_headers_that_are_too_large_or_none_are_refused(patient: Site) -> None:
    assert patient.ask(GET[:-2] + b"A: " + b"b" * 20_000 + b"\r\n\r\n").startswith(b"HTTP/1.1 431")
    with patient.connect(b"GET / HTTP/1.1\r\nA: " + b"a" * 300_000) as endless:
        assert first_line(endless) in (b"HTTP/1.1 400 Bad Request", b"")
    assert patient.ask(b"\x16\x03\x01" + bytes(200) + b"\r\n\r\n") == b"HTTP/1.1 400 Bad Request"
    assert patient.ask(GET.replace(b"127.0.0.1", b"evil.example")) == b"HTTP/1.1 421 Misdirected Request"
    assert patient.ask() == b"HTTP/1.1 200 OK"


def test_beyond_the_limit_the_connection_that_waited_longest_makes_room(patient: Site) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(patient.connect()) for _ in range(30)]
        assert patient.ask() == b"HTTP/1.1 200 OK"
        assert first_line(idle[0]).startswith(b"HTTP/1.1 503")
        half = [stack.enter_context(patient.connect(POST + b"Content-Length: 9\r\n\r\n")) for _ in range(30)]
        assert patient.ask() == b"HTTP/1.1 200 OK"
        assert first_line(half[0]).startswith(b"HTTP/1.1 503")


def test_where_all_connections_wait_for_an_answer_the_next_is_refused(held: HeldPredictor, drawn_face: bytes) -> None:
    with served(held, connections=2, queue=2) as site, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(site.ask, photo_request(drawn_face))]
        assert held.begun.wait(LONG_S)
        waiting.append(pool.submit(site.ask, photo_request(drawn_face)))
        until(lambda: site.app._service.is_full)
        assert site.ask() == b"HTTP/1.1 503 Service Unavailable"
        held.go.set()
        assert [each.result(LONG_S) for each in waiting] == [b"HTTP/1.1 200 OK"] * 2
        assert site.ask() == b"HTTP/1.1 200 OK"


def whole(site: Site, path: bytes) -> bytes:
    request = b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with site.connect(request) as connection:
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_a_body_that_is_too_large_is_answered_though_it_is_sent_to_its_end(predictor: Predictor) -> None:
    with served(predictor, body_mb=0.2) as site:
        assert site.ask(photo_request(bytes(500_000))).startswith(b"HTTP/1.1 413")


def test_of_bodies_that_exceed_their_bound_together_the_slowest_ends(predictor: Predictor, drawn_face: bytes) -> None:
    with served(predictor, body_mb=0.2, bodies_mb=0.3) as site:
        begun = POST + b"Content-Length: 190000\r\n\r\n" + bytes(160_000)
        with site.connect(begun) as first:
            until(lambda: b"maskcls_body_bytes 160000.0" in whole(site, b"/metrics"))
            with site.connect(begun) as second:
                assert first_line(first) == b"HTTP/1.1 503 Service Unavailable"
                assert site.ask(photo_request(drawn_face)) == b"HTTP/1.1 200 OK"
                second.sendall(bytes(30_000))
                assert first_line(second) == b"HTTP/1.1 400 Bad Request"


def limited(soft: int) -> Callable[[], None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_file_descriptors_are_raised_to_what_the_connections_need(predictor: Predictor) -> None:
    app = build_app(predictor, Limits(), Access("127.0.0.1"))
    restore = limited(300)
    try:
        create_server(app, Limits(connections=200))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 200 + BACKLOG + OTHER_FILES
    finally:
        restore()


def signalled(server: Server, number: signal.Signals) -> None:
    """A service that gets a signal: it answers what has arrived, and then ends."""
    with terminable(), server.capture_signals():
        signal.raise_signal(number)
        assert server.should_exit


def test_a_hang_up_ends_the_service_as_sigterm_does(predictor: Predictor) -> None:
    app = build_app(predictor, Limits(), Access("127.0.0.1"))
    for number, kind in ((signal.SIGHUP, HungUp), (signal.SIGTERM, Terminated)):
        with pytest.raises(kind):
            signalled(create_server(app, Limits()), number)


def test_a_taken_port_is_a_wrong_call() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            CallError, match=rf"127\.0\.0\.1:{port} cannot be served on: Address already in use\. Name another --port"
        ):
            listen("127.0.0.1", port)


def test_an_ipv6_address_is_served() -> None:
    try:
        taken = listen("::1", 0)
    except CallError:
        pytest.skip("there is no IPv6 here")
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(CallError, match=rf"\[::1\]:{port} cannot be served on: Address already in use"):
            listen("::1", port)
    assert url_of("::1", port) == f"http://[::1]:{port}/"


def test_connections_are_as_many_as_the_files_allow() -> None:
    assert limits_within(Limits(), 4096) == Limits()
    assert limits_within(Limits(connections=2000), 1024).connections == 1024 - BACKLOG - OTHER_FILES
    with pytest.raises(RunError, match=r"open 200 files, .* at least 229 expected\. Raise the limit: ulimit -n 4096"):
        limits_within(Limits(), 200)


@pytest.mark.soak
def test_idle_connections_and_slow_senders_do_not_keep_a_user_out(
    random_bundle: Callable[[str], Path], drawn_face: bytes
) -> None:
    """1,100 idle connections to a process that may open 1,024 files, and fifty whose requests drip."""
    own = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, own[1]), own[1]))
    done, seconds = threading.Event(), []
    try:
        with serving(random_bundle("three"), "--device", "cpu", "--connections", 2000, open_files=1024) as service:
            site = Site(service.port)
            with ExitStack() as stack:
                for _ in range(1100):
                    stack.enter_context(site.connect())
                dripping = threading.Thread(target=_drip, args=(site, done))
                dripping.start()
                for _ in range(30):
                    began = time.perf_counter()
                    assert site.ask(photo_request(drawn_face)) == b"HTTP/1.1 200 OK"
                    seconds.append(time.perf_counter() - began)
                    time.sleep(0.5)
                done.set()
                dripping.join()
            assert b"maskcls_body_bytes 0.0" in whole(site, b"/metrics")
        print(f"A user's {len(seconds)} requests: median {np.median(seconds):.3f} s, longest {max(seconds):.3f} s.")
    finally:
        done.set()
        resource.setrlimit(resource.RLIMIT_NOFILE, own)


def _drip(site: Site, done: threading.Event) -> None:
    """Fifty connections at a time that send a byte of a body every tenth of a second; closed ones are replaced."""
    slow: list[socket.socket] = []
    while not done.wait(0.1):
        slow += [site.connect(POST + b"Content-Length: 100000\r\n\r\n") for _ in range(50 - len(slow))]
        for each in list(slow):
            try:
                each.sendall(b"x")
            except OSError:
                slow.remove(each)
                each.close()
    for each in slow:
        each.close()
