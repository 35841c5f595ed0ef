"""A line's events into a database without a broker, and sums of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import psycopg

from mes.batch import Batch
from mes.contract import CellEvent, encode, machine_topic
from mes.states import StateEvent
from mes.store.events import Writer, active_lines
from mes.store.seed import SUMS
from mes.store.sums import Rollup


class Line:
    """A line's writer without a broker: `put` is what ingest does with a message."""

    def __init__(self, database: str, path: str) -> None:
        self.path = path
        self.writer = Writer.open(database, next(line for line in active_lines(database)[1] if line.path == path))
        assert self.writer.acquire()
        self.equipment = self.writer.equipment()
        self.ledger = self.writer.ledger()

    def put(self, topic: str, *events: CellEvent | StateEvent) -> None:
        batch = Batch()
        for start in range(0, len(events), 256):
            batch.add(topic, encode(events[start : start + 256]), self.equipment, self.ledger)
        self.writer.commit(batch)

    def put_bytes(self, topic: str, *payloads: bytes) -> None:
        """Messages that need not be events."""
        batch = Batch()
        for payload in payloads:
            batch.add(topic, payload, self.equipment, self.ledger)
        self.writer.commit(batch)

    def topic(self, machine: str, kind: Literal["cell", "state"] = "cell") -> str:
        return machine_topic(*self.path.split("/"), *machine.split("/"), kind)


@contextlib.contextmanager
def held(database: str, path: str) -> Iterator[Line]:
    """A line whose lease is held."""
    line = Line(database, path)
    try:
        yield line
    finally:
        line.writer.close()


def step(database: str, times: int = 1000) -> int:
    """Sum what is marked, a day of a line each time; returns how many buckets."""
    rollup = Rollup(database)
    try:
        done = 0
        for _ in range(times):
            if not (n := rollup.step()):
                break
            done += n
        return done
    finally:
        rollup.close()


def look_at_days(database: str) -> None:
    """Open and close days as a running rollup does, and sum what that marks."""
    rollup = Rollup(database)
    try:
        rollup.open_and_close_days()
        while rollup.step():
            pass
    finally:
        rollup.close()


def dump(database: str) -> dict[str, list[str]]:
    """The schema kpi, row by row, as text."""
    with psycopg.connect(database) as connection:
        return {name: [text for (text,) in connection.execute(f"SELECT t::text FROM kpi.{name} AS t ORDER BY 1".encode())] for name in SUMS}
