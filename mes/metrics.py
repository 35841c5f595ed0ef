"""What ingest and rollup do, as Prometheus reads it: counted always, served on request (`mes.health`)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Gauge, Histogram

from mes.batch import Batch

INGEST: Final = CollectorRegistry()
ROLLUP: Final = CollectorRegistry()

_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LINE: Final = ("line",)

for _registry in (INGEST, ROLLUP):
    prometheus.ProcessCollector(registry=_registry)
    prometheus.Info("mes_build", "The program.", registry=_registry).info({"version": importlib.metadata.version("mes")})

_HELD = Gauge("mes_lease_held", "1 where this worker holds the line, 0 where it waits.", _LINE, registry=INGEST)
_BATCHES = prometheus.Counter("mes_batches_committed", "Batches committed and acknowledged.", _LINE, registry=INGEST)
_FAILED = prometheus.Counter("mes_batches_failed", "Batches that were not committed: they come again.", _LINE, registry=INGEST)
_EVENTS = prometheus.Counter("mes_events_stored", "Events of cells stored.", _LINE, registry=INGEST)
_STATES = prometheus.Counter("mes_states_stored", "States of machines stored.", _LINE, registry=INGEST)
_DUPLICATES = prometheus.Counter("mes_events_duplicate", "Events that were there already.", _LINE, registry=INGEST)
_QUARANTINED = prometheus.Counter(
    "mes_quarantined", "Messages and parts of messages that were not understood.", ["line", "reason"], registry=INGEST
)
_COMMIT = Histogram("mes_commit_seconds", "Time that committing a batch took.", _LINE, buckets=_SECONDS, registry=INGEST)
_ACK = Histogram(
    "mes_ack_seconds", "From receiving the first new event of a batch to acknowledging it.", _LINE, buckets=_SECONDS, registry=INGEST
)
_LAG = Gauge(
    "mes_event_lag_seconds", "From the machine's time of the newest event of the last batch to its commit.", _LINE, registry=INGEST
)
_LAST_EVENT = Gauge("mes_last_event_timestamp_seconds", "Machine's time of the newest event of the last batch.", _LINE, registry=INGEST)
_LAST = Gauge("mes_last_commit_timestamp_seconds", "When a batch was last committed, seconds since 1970.", _LINE, registry=INGEST)
_WAITING = Gauge("mes_waiting_bytes", "Received and not yet decoded.", _LINE, registry=INGEST)
_PUBLISHING = Gauge("mes_publish_waiting_values", "Marks that the broker has not taken yet.", _LINE, registry=INGEST)

_STEP = Histogram("mes_rollup_step_seconds", "Time of a step that summed something.", buckets=_SECONDS, registry=ROLLUP)
_SUMMED = prometheus.Counter("mes_rollup_buckets_summed", "Buckets summed anew.", registry=ROLLUP)
_LAST_STEP = Gauge("mes_rollup_last_step_timestamp_seconds", "When marks were last looked for, seconds since 1970.", registry=ROLLUP)
_MARKS = Gauge("mes_rollup_marks_waiting", "Buckets that wait to be summed.", registry=ROLLUP)
_MARK_AGE = Gauge(
    "mes_rollup_oldest_mark_age_seconds", "For how long this process has seen the oldest mark wait; 0 without.", registry=ROLLUP
)
_VALUES = Gauge("mes_rollup_publish_waiting_values", "Figures that the broker has not taken yet.", registry=ROLLUP)


class _Session(Protocol):
    @property
    def waiting(self) -> int: ...


class _Publisher(Protocol):
    @property
    def waiting(self) -> int: ...


class Meter:
    """The figures of one line of ingest. Counters count on for the life of the process, over sessions and connections."""

    def __init__(self, line: str) -> None:
        self._line = line
        self._batches, self._failed = _BATCHES.labels(line), _FAILED.labels(line)
        self._events, self._states, self._duplicates = _EVENTS.labels(line), _STATES.labels(line), _DUPLICATES.labels(line)
        self._commit, self._ack = _COMMIT.labels(line), _ACK.labels(line)
        self._lag, self._last_event, self._last = _LAG.labels(line), _LAST_EVENT.labels(line), _LAST.labels(line)
        _HELD.labels(line).set(0)

    def held(self, session: _Session, publisher: _Publisher) -> None:
        """The line's session is held from now on."""
        _HELD.labels(self._line).set(1)
        _WAITING.labels(self._line).set_function(lambda: session.waiting)
        _PUBLISHING.labels(self._line).set_function(lambda: publisher.waiting)

    def released(self) -> None:
        """It is held no longer."""
        _HELD.labels(self._line).set(0)
        _WAITING.labels(self._line).set_function(lambda: 0)
        _PUBLISHING.labels(self._line).set_function(lambda: 0)

    @contextlib.contextmanager
    def committing(self, batch: Batch) -> Iterator[None]:
        """Around the commit and the acks of a batch: what fails is counted as that and nothing else, it comes again."""
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            self._failed.inc()
            raise
        self._commit.observe(time.perf_counter() - began)
        self._last.set_to_current_time()
        self._batches.inc()
        if batch.deliveries:
            everything = [delivery for deliveries in batch.deliveries.values() for delivery in deliveries]
            newest_s = max(delivery.events[-1].timestamp_ms for delivery in everything) / 1000
            self._last_event.set(newest_s)
            self._lag.set(time.time() - newest_s)
            self._ack.observe(time.time() - min(deliveries[0].received_us for deliveries in batch.deliveries.values()) / 1e6)
        self._events.inc(batch.events)
        self._states.inc(len(batch.states))
        self._duplicates.inc(sum(batch.duplicates.values()))
        for reason, n in Counter(quarantined.reject.reason for quarantined in batch.quarantined).items():
            _QUARANTINED.labels(self._line, reason).inc(n)


class RollupMeter:
    """The figures of a rollup. `oldest_s` tells for how long the oldest mark has been seen waiting."""

    def __init__(self, publisher: _Publisher | None, oldest_s: Callable[[], float]) -> None:
        _MARK_AGE.set_function(oldest_s)
        if publisher:
            _VALUES.set_function(lambda: publisher.waiting)

    def stepped(self, seconds: float, buckets: int) -> None:
        """Marks were looked for, and so many buckets summed in so many seconds."""
        _LAST_STEP.set_to_current_time()
        if buckets:
            _STEP.observe(seconds)
            _SUMMED.inc(buckets)

    def waiting(self, buckets: int) -> None:
        _MARKS.set(buckets)
