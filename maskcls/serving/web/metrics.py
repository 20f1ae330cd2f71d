"""What /metrics says, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU seconds, open files
        self.requests = Counter(
            "maskcls_requests",
            "Requests that were answered, by path and status.",
            ("path", "status"),
            registry=registry,
        )
        self.seconds = Histogram(
            "maskcls_request_seconds", "From a request's headers to its answer, s.", ("path",), registry=registry
        )
        self.refusals = Counter(
            "maskcls_refusals", "Requests that were refused, by code.", ("code",), registry=registry
        )
        self.photos = Counter("maskcls_photos", "Photos that were predicted.", registry=registry)
        self.batch_photos = Histogram(
            "maskcls_batch_photos", "Photos predicted together.", buckets=BATCH_BUCKETS, registry=registry
        )
        self.waiting = Gauge("maskcls_waiting_photos", "Photos from their arrival to the answer.", registry=registry)
        self.body_bytes = Gauge("maskcls_body_bytes", "Bytes of requests' bodies in memory.", registry=registry)

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
