"""The writer of a line's events: it holds the line's lease on the very connection that it writes with.

So whoever can commit events of a line is the one who holds it: when the connection goes, the lease goes, and no late
writer is left behind.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from psycopg import errors as pg
from psycopg.types.multirange import Int8Multirange
from psycopg.types.range import Int8Range

from mes import contract
from mes.batch import Batch
from mes.equipment import Equipment, Line, Machine, Station
from mes.ledger import Ledger, Promise, Received, Unkept
from mes.store.blocks import COLUMNS, HEADER, TRAILER, blocks
from mes.store.connection import Connection, Cursor, check_writable, connect, queries, translated
from mes.store.migrate import check

log = logging.getLogger(__name__)

LEASE = 0x6D65736C  # "mesl": first key of the advisory locks that are leases of lines
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_COPY = f"COPY mes.cell_event ({', '.join(COLUMNS)}) FROM STDIN (FORMAT BINARY)"


def active_lines(url: str) -> tuple[int, list[Line]]:
    """The plant's version, which each seeding raises, and its active lines in order of their paths."""
    with connect(url, application="mes ingest") as connection, translated(url):
        check(connection)
        check_writable(connection)
        version = connection.execute(queries()["plant_version"]).fetchone()
        return (version[0] if version else 0), [Line(*row) for row in connection.execute(queries()["active_lines"])]


def lines_without_session(url: str, since: dt.datetime) -> list[str]:
    """Active lines whose session nobody has announced since then."""
    with connect(url, application="mes up") as connection, translated(url):
        return [row[0] for row in connection.execute(queries()["lines_without_session"], [since])]


class _BeforeHorizon(Exception):
    """Some events of a batch happened before `horizon`, and what happened then has been dropped."""

    def __init__(self, horizon: dt.datetime) -> None:
        super().__init__()
        self.horizon = horizon


def unkept(connection: Connection, promises: Sequence[Promise]) -> list[Unkept]:
    """Those of the promises that the ledger does not bear out."""
    columns = [[p.machine_id for p in promises], [p.boot for p in promises], [p.seq for p in promises]]
    with translated(connection):
        return [Unkept(*row) for row in connection.execute(queries()["promises_not_kept"], columns)]


class Writer:
    """Writes events of one line: `open`, `acquire`, then `commit` batch after batch. For one thread."""

    def __init__(self, connection: Connection, line: Line, url: str) -> None:
        self._connection = connection
        self._url = url
        self.line = line

    @classmethod
    def open(cls, url: str, line: Line) -> Writer:
        """A writer on a connection of its own."""
        return cls(connect(url, application=f"mes ingest {line.path}"), line, url)

    def close(self) -> None:
        """End the connection, and with it give up the lease."""
        self._connection.close()

    def acquire(self) -> bool:
        """Try to take the line's lease; it is held until the connection ends. Unavailable on a standby, which has leases of its own."""
        check_writable(self._connection)
        with translated(self._url):
            row = self._connection.execute("SELECT pg_try_advisory_lock(%s, %s)", [LEASE, self.line.line_id]).fetchone()
        return bool(row and row[0])

    def announce(self, filters: Sequence[str]) -> None:
        """Note that the broker keeps the line's session with these filters: machines may publish, nothing will be missed."""
        with translated(self._url):
            self._connection.execute(queries()["announce_session"], [self.line.line_id, list(filters)])

    def session_filters(self) -> list[str]:
        """The filters of the line's session when it was last announced."""
        with translated(self._url):
            return [row[0] for row in self._connection.execute(queries()["session_filters"], [self.line.line_id])]

    def database(self) -> str:
        """A name that tells this database from any other: where it is, and the number that it was given when it was made."""
        with translated(self._url):
            row = self._connection.execute(queries()["database"]).fetchone()
        return str(row[0]) if row else ""

    def equipment(self) -> Equipment:
        """The line's machines as they are seeded now."""
        with translated(self._url):
            machines = []
            for station_id, code, slots, defects, ids, codes in self._connection.execute(queries()["equipment"], [self.line.line_id]):
                station = Station(station_id, contract.Station(slots, defects), tuple(slots), defects)
                for machine_id, machine in zip(ids, codes, strict=True):
                    topic = contract.machine_topic(self.line.site, self.line.area, self.line.code, code, machine, "cell")
                    machines.append(Machine(machine_id, topic, station))
        return Equipment(self.line, machines)

    def ledger(self) -> Ledger:
        """What has been received from the line's machines so far."""
        with translated(self._url):
            rows = self._connection.execute(queries()["ledger"], [self.line.line_id]).fetchall()
        return Ledger({(machine_id, boot): Received((r.lower, r.upper) for r in ranges) for machine_id, boot, ranges in rows})

    def marks(self) -> list[tuple[int, int, int]]:
        """(machine id, highest boot, sequence number up to which all of that boot is committed or closed) of the line."""
        with translated(self._url):
            return self._connection.execute(queries()["marks"], [self.line.line_id]).fetchall()

    def horizon(self) -> dt.datetime | None:
        """From when on the line's events are there: what was before has been dropped. It may move up until one holds it."""
        with translated(self._url):
            row = self._connection.execute(queries()["horizon"], [self.line.line_id]).fetchone()
        return row[0] if row else None

    def unkept(self, promises: Sequence[Promise]) -> list[Unkept]:
        """Those of the promises made to machines of the line that the ledger does not bear out."""
        return unkept(self._connection, promises)

    def quarantined(self, ids: Sequence[int]) -> list[tuple[Any, ...]]:
        """Entries of the quarantine to be decoded anew; the payload is None where it is longer than any message may be."""
        with translated(self._url):
            values = {"ids": list(ids), "most": contract.MAX_MESSAGE_BYTES}
            return self._connection.execute(queries()["quarantined_payloads"], values).fetchall()

    def commit(self, batch: Batch, inside: Callable[[Cursor], None] | None = None) -> int:
        """Store a batch: rows, ledger, marks and quarantine in one transaction, and what `inside` does in it last.
        Returns how many rows it added.

        The ledger has kept duplicates out. Should the table know an event all the same (a replay of the quarantine, rows
        that were put there by other hands), the optimistic COPY fails on the key; then the known ones are looked up, and
        the rest stored. Two that store the same events in another order at once may meet in a deadlock: one tries again.
        Events from before the horizon of the retention would change a day that can no longer be summed: they are set aside
        into the quarantine.
        """
        with translated(self._url):
            while True:
                try:
                    self._transact(batch, inside)
                    return batch.events + len(batch.states)
                except pg.UniqueViolation:
                    if not self._drop_stored(batch):
                        raise
                except _BeforeHorizon as why:
                    batch.set_aside(why.horizon)
                except pg.DeadlockDetected:
                    log.info("line %s: met another writer of the same events, trying again", self.line.path, extra={"line": self.line.path})

    def _transact(self, batch: Batch, inside: Callable[[Cursor], None] | None) -> None:
        with self._connection.transaction(), self._connection.cursor() as cursor:
            touched = []
            if batch.events:
                row = cursor.execute(queries()["hold_events"], [self.line.line_id]).fetchone()
                if row and row[0] and batch.reaches_before(row[0]):
                    raise _BeforeHorizon(row[0])
                with cursor.copy(_COPY) as copy:
                    copy.write(HEADER)
                    for station, deliveries in batch.deliveries.items():
                        data, buckets = blocks(self.line.line_id, station, deliveries)
                        for block in data:
                            copy.write(block)
                        touched.append(buckets)
                    copy.write(TRAILER)
                marks = np.unique(np.concatenate(touched)) / 1e6
                cursor.execute(queries()["mark_buckets"], [self.line.line_id, marks.tolist()])
            if batch.states:
                _write_states(cursor, batch, self.line.line_id)
            _write_ledger(cursor, batch)
            if batch.quarantined:
                _write_quarantine(cursor, batch)
            if batch.events:
                cursor.execute("SELECT pg_notify('mes_marks', %s)", [self.line.path])
            if inside:
                inside(cursor)

    def _drop_stored(self, batch: Batch) -> int:
        """Take out of the batch what the table holds already, and count it as duplicate; how many that were."""
        before = batch.events
        events = [(e.timestamp_ms, d.machine_id, e.boot, e.seq) for ds in batch.deliveries.values() for d in ds for e in d.events]
        at_ms, machine_ids, boots, seqs = map(list, zip(*events, strict=True))
        at = list(map(_at, at_ms))
        keys = [at, machine_ids, boots, seqs, self.line.line_id, min(at), max(at)]
        stored = set(self._connection.execute(queries()["stored_events"], keys).fetchall())
        batch.events = 0
        for deliveries in batch.deliveries.values():
            for d in deliveries:
                fresh = [e for e in d.events if (d.machine_id, e.boot, e.seq) not in stored]
                for e in d.events:
                    if (d.machine_id, e.boot, e.seq) in stored:
                        batch.repeated(d.machine_id, e)
                d.events = fresh
                batch.events += len(fresh)
            deliveries[:] = [d for d in deliveries if d.events]
        for station in [station for station, deliveries in batch.deliveries.items() if not deliveries]:
            del batch.deliveries[station]
        return before - batch.events


def _write_states(cursor: Cursor, batch: Batch, line_id: int) -> None:
    """Store states; what the table knows all the same (see `commit`) is taken out of the batch and counted as duplicate."""
    rows = [
        (_at(s.event.timestamp_ms), _at(s.received_us / 1000), s.event.seq, s.machine_id, s.event.boot, line_id, s.station_id,
         s.event.state, s.event.reason or None)
        for s in batch.states
    ]  # fmt: skip
    new = set(cursor.execute(queries()["add_states"], list(map(list, zip(*rows, strict=True)))).fetchall())
    for known in [s for s in batch.states if (s.machine_id, s.event.boot, s.event.seq) not in new]:
        batch.states.remove(known)
        batch.repeated(known.machine_id, known.event)


def _at(ms: float) -> dt.datetime:
    """The instant so many milliseconds after 1970."""
    return _EPOCH + dt.timedelta(milliseconds=ms)


def _write_ledger(cursor: Cursor, batch: Batch) -> None:
    keys = sorted(batch.received.keys() | batch.duplicates.keys())
    if not keys:
        return
    received = [Int8Multirange([Int8Range(a, b) for a, b in batch.received[key].ranges] if key in batch.received else []) for key in keys]
    cursor.execute(
        queries()["add_to_ledger"],
        [[m for m, _ in keys], [b for _, b in keys], received, [batch.duplicates.get(key, 0) for key in keys]],
    )
    if batch.duplicates_at:
        repeated = sorted(batch.duplicates_at)
        cursor.execute(
            queries()["count_duplicates"],
            [[m for m, _ in repeated], [float(at) for _, at in repeated], [batch.duplicates_at[key] for key in repeated]],
        )


def _write_quarantine(cursor: Cursor, batch: Batch) -> None:
    cursor.executemany(
        queries()["quarantine"],
        [
            (
                q.reject.reason,
                storable(q.reject.detail),
                q.topic.replace("\0", "\\0"),
                q.reject.payload,
                q.machine_id,
                q.reject.boot,
                q.reject.seq,
                q.counted,
                hashlib.sha256(q.topic.encode() + b"\0" + q.reject.payload).digest(),
            )
            for q in batch.quarantined
        ],
    )


def storable(detail: str) -> str:
    """The detail of a reject as a text column can hold it."""
    return detail[:2000].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
