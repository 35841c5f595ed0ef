"""What ingest does, as Prometheus reads it: counters by line, served on demand by a thread of its own."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import prometheus_client as prometheus
from prometheus_client import Gauge, Histogram

from mes.batch import Batch
from mes.errors import ConfigError

_REGISTRY = prometheus.CollectorRegistry()
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_EVENTS = prometheus.Counter("mes_events_stored", "Events stored.", ["line"], registry=_REGISTRY)
_DUPLICATES = prometheus.Counter("mes_events_duplicate", "Events that were there already.", ["line"], registry=_REGISTRY)
_QUARANTINED = prometheus.Counter(
    "mes_quarantined", "Messages and parts of messages that were not understood.", ["line", "reason"], registry=_REGISTRY
)
_COMMIT = Histogram("mes_commit_seconds", "Time that committing a batch took.", ["line"], buckets=_SECONDS, registry=_REGISTRY)
_ACK = Histogram(
    "mes_ack_seconds", "From receiving the first new event of a batch to acknowledging it.", ["line"], buckets=_SECONDS, registry=_REGISTRY
)
_WAITING = Gauge("mes_waiting_bytes", "Received and not yet decoded.", ["line"], registry=_REGISTRY)
_LAST = Gauge("mes_last_commit_timestamp_seconds", "When a batch was last committed, seconds since 1970.", ["line"], registry=_REGISTRY)


class _Waits(Protocol):
    @property
    def waiting(self) -> int: ...


class Meter:
    """The counters of one line. They count on for the life of the process, over sessions and connections."""

    def __init__(self, line: str, session: _Waits) -> None:
        self._line = line
        self._events, self._duplicates = _EVENTS.labels(line), _DUPLICATES.labels(line)
        self._commit, self._ack, self._last = _COMMIT.labels(line), _ACK.labels(line), _LAST.labels(line)
        _WAITING.labels(line).set_function(lambda: session.waiting)

    @contextlib.contextmanager
    def committing(self, batch: Batch) -> Iterator[None]:
        """Around the commit and the acks of a batch: what fails is not counted, it comes again."""
        began = time.perf_counter()
        yield
        self._commit.observe(time.perf_counter() - began)
        self._last.set_to_current_time()
        if batch.deliveries:
            first_us = min(deliveries[0].received_us for deliveries in batch.deliveries.values())
            self._ack.observe(time.time() - first_us / 1e6)
        self._events.inc(batch.events)
        self._duplicates.inc(sum(batch.duplicates.values()))
        for reason, n in Counter(quarantined.reject.reason for quarantined in batch.quarantined).items():
            _QUARANTINED.labels(self._line, reason).inc(n)


def serve(host: str, port: int) -> None:
    """Answer GET /metrics on host:port until the process ends; ConfigError where that cannot be had."""
    try:
        prometheus.start_http_server(port, host, _REGISTRY)
    except (OSError, OverflowError) as why:
        raise ConfigError(
            f"metrics cannot be served on {host}:{port}: {why}; choose others with --metrics-host and --metrics-port"
        ) from why
