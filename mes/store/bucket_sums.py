"""Sums of buckets as rows, and what stands in the database replaced by them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from psycopg import sql

from mes.kpi.sums import BUCKET_US, Axes, Sums
from mes.store.blocks import EPOCH_US
from mes.store.connection import Connection

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=EPOCH_US)
_BUCKET = dt.timedelta(microseconds=BUCKET_US)
_STANDING: Final = sql.SQL("SELECT ctid::text, * FROM {} WHERE line_id = %s AND grain = 'bucket' AND starts_at = ANY(%s)")
_DROP: Final = sql.SQL("DELETE FROM {} WHERE ctid = ANY(%s::text[]::tid[])")
_COPY: Final = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)")
_BEFORE: Final = 3  # where a row is, its line and its grain come before the columns of a _Table


class _Table(NamedTuple):
    """A table of `kpi`: the types of its columns behind line and grain, of which the first `key` are its key."""

    name: str
    key: int
    types: tuple[str, ...]


_STATIONS: Final = _Table("station_sum", 2, ("timestamptz", "int2", *["int8"] * 7, "int2[]", "int8[]", "timestamptz"))
_DEFECTS: Final = _Table("defect_sum", 2, ("timestamptz", "int2", "int8"))
_READINGS: Final = _Table("reading_sum", 3, ("timestamptz", "int2", "int2", "int8", "int8", "numeric", "numeric", "float4", "float4"))
_MACHINES: Final = _Table("machine_sum", 1, ("timestamptz", "int4[]", "int4[]", *["int8[]"] * 5))


def replace(connection: Connection, line_id: int, first: dt.datetime, n: int, axes: Axes, sums: Sums) -> None:
    """Have the sums of the n buckets from `first` on be these; a station, defect, reading or machine without any has no row.

    Of a bucket under way few stations have reported since it was summed last: only rows that differ are deleted and written.
    """
    buckets = [first + bucket * _BUCKET for bucket in range(n)]
    for table, rows in (
        (_STATIONS, _stations(axes, sums)),
        (_DEFECTS, _defects(axes, sums)),
        (_READINGS, _readings(axes, sums)),
        (_MACHINES, _machines(sums)),
    ):
        _replace(connection, table, line_id, buckets, [(buckets[bucket], *row) for bucket, row in rows])


def _replace(connection: Connection, table: _Table, line_id: int, buckets: list[dt.datetime], new: list[tuple[Any, ...]]) -> None:
    """Replace rows by new ones. Nobody else writes them meanwhile: who sums a day has it for the transaction."""
    name = sql.Identifier("kpi", table.name)
    with connection.cursor(binary=True) as cursor:
        found = cursor.execute(_STANDING.format(name), [line_id, buckets]).fetchall()
    old = {row[_BEFORE : _BEFORE + table.key]: row for row in found}
    changed = []
    for row in new:
        standing = old.get(row[: table.key])
        if standing is not None and standing[_BEFORE:] == row:
            del old[row[: table.key]]
        else:
            changed.append(row)
    if old:
        connection.execute(_DROP.format(name), [[row[0] for row in old.values()]])
    if changed:
        with connection.cursor() as cursor, cursor.copy(_COPY.format(name)) as copy:
            copy.set_types(["int2", "text", *table.types])  # an enum travels as its name
            for row in changed:
                copy.write_row((line_id, "bucket", *row))


Rows = Iterator[tuple[int, tuple[Any, ...]]]


def _stations(axes: Axes, sums: Sums) -> Rows:
    from mes.kpi.kernels import FIRST_BIN

    for b, s in np.argwhere(sums.results.sum(axis=2) > 0).tolist():
        bins = np.flatnonzero(sums.histogram[b, s])
        counts = (sums.inspected, sums.first_pass_good, sums.passed, sums.retests)
        yield b, (
            int(axes.station_ids[s]), *sums.results[b, s].tolist(), *(int(count[b, s]) for count in counts),
            (bins + FIRST_BIN).tolist(), sums.histogram[b, s, bins].tolist(), _EPOCH + dt.timedelta(microseconds=int(sums.last_at[b, s])),
        )  # fmt: skip


def _defects(axes: Axes, sums: Sums) -> Rows:
    for b, d in np.argwhere(sums.defects > 0).tolist():
        yield b, (int(axes.defect_ids[d]), int(sums.defects[b, d]))


def _readings(axes: Axes, sums: Sums) -> Rows:
    r = sums.readings
    for b, s, k in np.argwhere(r.n + r.implausible > 0).tolist():
        n = int(r.n[b, s, k])
        extremes = (float(r.low[b, s, k]), float(r.high[b, s, k])) if n else (None, None)
        counts = n, int(r.implausible[b, s, k]), int(r.total[b, s, k]), int(r.squares[b, s, k])
        yield b, (int(axes.station_ids[s]), k, *counts, *extremes)


def _machines(sums: Sums) -> Rows:
    m = sums.machines
    for b in np.flatnonzero(m.received.sum(axis=1)).tolist():
        pairs = np.flatnonzero(m.received[b])
        counts = (m.received, m.late, m.ahead, m.first_seq, m.last_seq)
        yield b, (m.machine_id[pairs].tolist(), m.boot[pairs].tolist(), *(count[b, pairs].tolist() for count in counts))
