"""Sums of buckets as rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import numpy as np

from mes.kpi.sums import BUCKET_US, Axes, Sums
from mes.store.blocks import EPOCH_US
from mes.store.connection import Connection

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=EPOCH_US)
_BUCKET = dt.timedelta(microseconds=BUCKET_US)
_KEY = ("int2", "text", "timestamptz")  # an enum travels as its name


def insert(connection: Connection, line_id: int, first: dt.datetime, axes: Axes, sums: Sums) -> None:
    """Write the sums of the buckets from `first` on; a station, defect, reading or machine without any has no row."""
    for table, types, rows in (
        ("station_sum", ("int2", *["int8"] * 7, "int2[]", "int8[]", "timestamptz"), _stations(axes, sums)),
        ("defect_sum", ("int2", "int8"), _defects(axes, sums)),
        ("reading_sum", ("int2", "int2", "int8", "int8", "numeric", "numeric", "float4", "float4"), _readings(axes, sums)),
        ("machine_sum", ("int4[]", "int4[]", *["int8[]"] * 5), _machines(sums)),
    ):
        with connection.cursor() as cursor, cursor.copy(f"COPY kpi.{table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types([*_KEY, *types])
            for bucket, row in rows:
                copy.write_row((line_id, "bucket", first + bucket * _BUCKET, *row))


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
